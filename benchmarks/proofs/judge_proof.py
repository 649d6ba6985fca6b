"""What the judge withstands, measured: writes docs/judge.md and docs/judge.png.

    python -m benchmarks.proofs.judge_proof [--to docs]

Accuracy on exact renders by level, resolution and degradation; how often a caption with one false
fact passes, by the kind of change; and a sheet of scenes. The page is the same on every run.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.progress import track
from scipy import ndimage

from benchmarks.pages import made_by, table, write
from benchmarks.proofs.judge_sheet import scenes_sheet
from t2i_jax.data.scenes import CHANGES, LEVELS, Scene, false_facts, holds, make_scene, render
from t2i_jax.evaluation.judge import BLURS, MIN_AREA, judge, read
from t2i_jax.evaluation.stats import Rate

RESOLUTIONS = (32, 48, 64, 96, 128, 256)
DEGRADATIONS = ((0.0, 0.0), (0.6, 12.0), (1.0, 8.0))  # blur in pixels, noise of 255
MANY, FEW = 1000, 250  # scenes a cell up to 64 pixels, and above
FALSE_SCENES = 3000  # scenes a level whose captions are falsified

PAGE = """# The judge of scenes

Made by `python -m benchmarks.proofs.judge_proof`, which also draws `judge.png`.

`t2i_jax.evaluation.judge` reads objects (shape, colour, size, place) from pixels alone and holds
the facts of a caption against them. An image is correct when all facts hold.

![Scenes of each category with their captions](judge.png)

## Accuracy on exact renders

Percent judged correct, with 95% Wilson intervals; half the scenes are held-out compositions.
Blur is a Gaussian's sigma in pixels of that resolution, noise a Gaussian's sigma in steps of 255,
independent a channel.

{accuracy}

**Claimed** (at least 99.5%): every level at its floor and above, clean and with blur 0.6 and noise
12; blur 1.0 with noise 8 for easy and counts from 32 pixels on, for full from 64 on. Floors:
{floors}.

## Captions with one false fact

Scenes rendered at the level's floor, judged against the caption's facts with one of them made
false. Each scene gives one false caption of every kind that it allows. Percent accepted (wrongly).

{false}

## What counts as what

- Left of, right of, above, below: the axis along which the centres lie farther apart decides.
  Captions state a relation only where it leads by at least {margins}.
- Inside, surrounding: no point of the inner outline lies outside the outer one by more than 0.02 of
  the side. A pair that is nested has no direction.
- Small, medium and large end at radii of 0.112 and 0.155 of the side; those drawn keep 0.012 away.
- A patch of less than {speck:.1%} of the image, or nowhere three pixels thick, is a speck and is
  ignored; at 32 pixels that is {speck32:.0f} pixels.
- A colour farther than 80 (RGB distance) from all eight, or an outline that overlaps every shape by
  less than 80%, is "unknown": an object that counts, and fits no description that names one.
  Outlines are compared sharp and blurred by {blurs} pixels.
- What is not told apart: a regular pentagon or hexagon, a tilted square and an ellipse 4:3 read as
  circles, a rounded square as a square.
"""


def degrade(image: np.ndarray, blur: float, noise: float, rng: np.random.Generator) -> np.ndarray:
  """An image blurred (sigma in pixels), then with noise added (sigma of 255); uint8."""
  pixels = image.astype(np.float32)
  if blur:
    pixels = ndimage.gaussian_filter(pixels, (blur, blur, 0.0))
  if noise:
    pixels += noise * rng.standard_normal(pixels.shape, np.float32)
  return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def sample_scenes(level: str, n: int, seed: int = 1) -> list[Scene]:
  """n scenes of a level, every other one of held-out compositions."""
  return [make_scene(i, level, ("val", "heldout")[i % 2], seed) for i in range(n)]


def accuracy(scenes: Sequence[Scene], size: int, blur: float, noise: float, seed: int = 0) -> Rate:
  """How many scenes, drawn at `size` and degraded, are judged to obey their captions."""
  rng = np.random.default_rng(seed)
  return Rate.of(judge(degrade(render(s, size), blur, noise, rng), s.facts).correct for s in scenes)


def false_acceptance(scenes: Sequence[Scene], size: int, seed: int = 0) -> dict[str, Rate]:
  """By kind of change: how many captions with one false fact are judged to be obeyed."""
  rng = random.Random(seed)
  accepted: dict[str, list[bool]] = {}
  for scene in scenes:
    seen = read(render(scene, size))
    held = [holds(fact, seen) for fact in scene.facts]
    options = false_facts(scene)
    for change in CHANGES:
      chosen = [(i, fact) for name, i, fact in options if name == change]
      if chosen:
        i, fact = rng.choice(chosen)
        others = all(held[:i] + held[i + 1 :])
        accepted.setdefault(change, []).append(others and holds(fact, seen))
  return {change: Rate.of(accepted[change]) for change in CHANGES if change in accepted}


def _shown(rate: Rate) -> str:
  return f"{100 * rate.rate:.2f} [{100 * rate.lower:.2f}, {100 * rate.upper:.2f}]"


def _accuracy_table() -> str:
  named = [f"blur {b:g}, noise {n:g}" if b or n else "clean" for b, n in DEGRADATIONS]
  rows = []
  cells = [
    (name, size) for name, level in LEVELS.items() for size in RESOLUTIONS if size >= level.floor
  ]
  for name, size in track(cells, "judging renders"):
    n = MANY if size <= 64 else FEW
    scenes = sample_scenes(name, n)
    rates = [_shown(accuracy(scenes, size, blur, noise)) for blur, noise in DEGRADATIONS]
    rows.append([name, size, n, *rates])
  return table(["level", "pixels", "scenes", *named], rows)


def _false_table() -> str:
  rows = []
  for name, level in track(LEVELS.items(), "judging false captions"):
    rates = false_acceptance(sample_scenes(name, FALSE_SCENES, seed=2), level.floor)
    for change, rate in rates.items():
      rows.append([name, change, rate.n, _shown(rate)])
  return table(["level", "changed", "captions", "accepted"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
  """Writes judge.md and judge.png."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
  parser.add_argument("--to", type=Path, default=Path("docs"), help="folder of the page")
  folder = parser.parse_args(arguments).to
  folder.mkdir(parents=True, exist_ok=True)
  scenes_sheet().save(folder / "judge.png", optimize=True)
  page = PAGE.format(
    accuracy=_accuracy_table(),
    false=_false_table(),
    floors=", ".join(f"{name} {level.floor} pixels" for name, level in LEVELS.items()),
    margins=" and ".join(
      sorted({f"{v.margin_px:g} pixels at {v.floor}" for v in LEVELS.values()}, reverse=True)
    ),
    speck=MIN_AREA,
    speck32=MIN_AREA * 32**2,
    blurs=" and ".join(f"{b:g}" for b in BLURS),
  )
  line = made_by("python -m benchmarks.proofs.judge_proof", "benchmarks/proofs/judge_proof.py")
  write(folder / "judge.md", page, line)


if __name__ == "__main__":
  main()
