"""SDEdit of strokes: rough images of a scene, drawn again from rising noise levels."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.editing_bench import LEVEL, SHOWN, Bench, keep, kept
from benchmarks.few_step import cell as percent
from benchmarks.pages import table
from benchmarks.personalisation_world import SIZE, shown
from t2i_jax.data.scenes import BACKGROUND, COLORS, Object, Scene, holds, prompts
from t2i_jax.data.scenes.planted import PLAIN
from t2i_jax.data.sheet import grid
from t2i_jax.evaluation.chart import Series, line_chart, panels
from t2i_jax.evaluation.edit_judge import POSITION_TOLERANCE
from t2i_jax.evaluation.planted_reader import UNKNOWN, Reading
from t2i_jax.evaluation.stats import Rate
from t2i_jax.systems.tasks import Start

LEVELS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
PROMPTS = ("right", "empty", "wrong")
SEED = 7
CORNERS = 14  # of a stroke
WOBBLE, AREAS = (0.75, 1.25), (0.7, 1.3)  # of its radius by corner, and of its area
OFF = 40  # steps of 255, by which its colour is off
FINE = 8  # times larger it is painted
TITLES = {
  "realistic": "realistic: each object is one that there is",
  "faithful": "faithful: each colour is in its place",
  "prompted": "the right prompt's facts hold",
}


def scribble(objects: Sequence[Object], rng: random.Random, size: int = SIZE) -> np.ndarray:
  """A wobbling blob for each object: at its place, of no shape, area and colour a little off.

  uint8 [size, size, 3]
  """
  side = size * FINE
  image = Image.new("RGB", (side, side), BACKGROUND)
  paint = ImageDraw.Draw(image)
  for o in objects:
    radius = o.r * rng.uniform(*AREAS) ** 0.5
    direction = np.array([rng.gauss(0, 1) for _ in range(3)])
    off = OFF * direction / np.linalg.norm(direction)
    color = np.clip(np.asarray(COLORS[o.color]) + off, 0, 255).round().astype(int)
    corners = []
    for k in range(CORNERS):
      angle, reach = 2 * np.pi * k / CORNERS, radius * rng.uniform(*WOBBLE)
      corners.append((side * (o.x + reach * np.cos(angle)), side * (o.y + reach * np.sin(angle))))
    paint.polygon(corners, fill=tuple(color.tolist()))
  return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def scenes_of(count: int) -> list[Scene]:
  half = count // 2
  return [*prompts(LEVEL, "single", False, half, SEED), *prompts(LEVEL, "binding", False,
          count - half, SEED)]  # fmt: skip


def wrong_captions(scenes: Sequence[Scene]) -> list[str]:
  """Of each scene the caption of a later one without any of its colours, else of the next."""
  colors = [{o.color for o in scene.objects} for scene in scenes]
  found = []
  for i in range(len(scenes)):
    later = [(i + k) % len(scenes) for k in range(1, len(scenes))]
    other = [j for j in later if not colors[i] & colors[j]]
    found.append(scenes[(other or later or [i])[0]].caption)
  return found


def path_of(folder: Path, prompt: str, level: float) -> Path:
  return folder / f"{prompt}_{level:g}.json"


def strokes_of(scenes: Sequence[Scene]) -> np.ndarray:
  return np.stack([
    scribble(scene.objects, random.Random(f"scribble/{i}")) for i, scene in enumerate(scenes)
  ])  # fmt: skip


def make(bench: Bench, folder: Path, count: int) -> None:
  """Strokes drawn again; what is there is kept."""
  scenes = scenes_of(count)
  images = strokes_of(scenes)
  texts = {
    "right": [scene.caption for scene in scenes],
    "empty": [""] * len(scenes),
    "wrong": wrong_captions(scenes),
  }
  for level in LEVELS:
    for prompt in PROMPTS:
      path = path_of(folder, prompt, level)
      if not path.is_file():
        start = Start(images, strength=level)
        drawn = bench.model.redraw(texts[prompt], list(range(len(scenes))), start)
        keep(path, drawn, {"strokes": len(scenes)})


def realistic(reading: Reading) -> bool:
  """Whether every object is an identity of the world, plain, and there is one."""
  known = all(o.shape != UNKNOWN and o.color != UNKNOWN for o in reading.objects)
  return bool(reading.objects) and known and reading.rendering == PLAIN


def faithful(scene: Scene, reading: Reading) -> bool:
  """Whether there are as many objects, and of each colour of the strokes one in its place."""
  near = lambda o, seen: np.hypot(o.x - seen.x, o.y - seen.y) <= POSITION_TOLERANCE
  each = (
    any(seen.color == o.color and near(o, seen) for seen in reading.objects) for o in scene.objects
  )
  return len(reading.objects) == len(scene.objects) and all(each)


Rates = dict[tuple[str, float], dict[str, Rate]]


def measured(folder: Path, count: int) -> Rates:
  """By prompt and level; without those that have not been run."""
  scenes, found = scenes_of(count), Rates()
  tests: dict[str, Callable[[Scene, Reading], bool]] = {
    "realistic": lambda scene, reading: realistic(reading),
    "faithful": faithful,
    "prompted": lambda scene, reading: all(holds(f, reading.objects) for f in scene.facts),
  }
  for prompt in PROMPTS:
    for level in LEVELS:
      cell = kept(path_of(folder, prompt, level))
      if cell is not None:
        pairs = list(zip(scenes, cell.readings["strokes"], strict=True))
        found[prompt, level] = {
          name: Rate.of(test(*pair) for pair in pairs) for name, test in tests.items()
        }
  return found


def chart(found: Rates) -> str:
  """A panel for each measure, a curve for each prompt."""
  charts = []
  for measure, title in TITLES.items():
    lines = []
    for prompt in PROMPTS:
      at = [level for level in LEVELS if (prompt, level) in found]
      rates = [found[prompt, level][measure] for level in at]
      lines.append(Series(f"{prompt} prompt", at, [r.rate for r in rates],
                          [r.lower for r in rates], [r.upper for r in rates]))  # fmt: skip
    more: dict[str, Any] = {"y_limits": (0.0, 1.0), "percent": True, "width": 620, "height": 260}
    charts.append(line_chart(lines, title=title, x_label="noise level t", y_label="drawings",
                             **more))  # fmt: skip
  return panels(charts, 1)


def section(folder: Path, to: Path, count: int) -> list[str]:
  """Of the page, with its images in `to`."""
  found = measured(folder, count)
  lines = ["## Strokes", ""]
  if not found:
    return [*lines, "Not run.", ""]
  rows = [
    [prompt, f"{level:g}", *(percent(rate) for rate in found[prompt, level].values())]
    for prompt, level in found
  ]
  (to / "editing_strokes.svg").write_text(chart(found), encoding="utf-8")
  scenes = scenes_of(count)
  few = list(range(min(SHOWN, count)))
  strips = [shown(path_of(folder, p, s).with_suffix(".png")) for p, s in found if p == "right"]
  grid([[strokes_of(scenes)[i] for i in few], *strips], 3).save(to / "editing_strokes.png")
  at = ", ".join(f"{level:g}" for prompt, level in found if prompt == "right")
  return [
    *lines,
    f"Blobs without a shape, of {AREAS[0]:g} to {AREAS[1]:g} of the area, their colours off by",
    f"{OFF} of 255, are drawn again by SDEdit under the scene's caption, under none, and under",
    f"another scene's that shares no colour; {count} scenes of one or two objects. Realistic:",
    "every object is one of the world's, none is unknown. Faithful: as many objects as strokes,",
    "each of its colour within 1.6 pixels. The last column is of the right caption, whatever the",
    "prompt was.",
    "",
    table(["prompt", "t", "realistic", "faithful", "as captioned"], rows),
    "",
    "![Realism and faithfulness over t](editing_strokes.svg)",
    "",
    "![Strokes that were drawn again](editing_strokes.png)",
    "",
    f"Strokes, then under the right caption from t = {at}.",
    "",
  ]
