"""How should text enter? Five ways and two text encoders on scenes: docs/text_conditioning.md.

python -m benchmarks.text_conditioning --data=runs/data/scenes_quickstart --jobs=2

Trains and scores every variant of configs/compare/text_conditioning.py on two seeds, each as
`t2i train` would, and writes the page from all that is there. What is scored is kept in
docs/text_conditioning.json after each run: started again, here or elsewhere, it goes on. About
three CPU hours; with --jobs=2 two runs go beside each other, a core each.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pages import line_of, run_of, table, write
from benchmarks.quickstart import KEEP_MEMORY, PLANS, t2i
from t2i_jax.data.sheet import grid

CONFIG = "configs/compare/text_conditioning.py"
FORMS = {
  "pooled": "pooled vector alone (adaLN)",
  "cross": "cross-attention",
  "double": "double stream",
  "double_single": "double, then single stream",
  "single": "single stream",
}
TOWERS = {"bag_of_words": "bag of words, frozen", "cross": "transformer, trained along"}
SEEDS = (0, 1)
CATEGORIES = ("single", "binding", "relation")
PER_CELL = 250
PAIRS = 200
PROMPT_SEED = 30_000  # prompts that no choice was made on
SHOWN = 6  # pairs of the image
SCALE = 2


def key(variant: str, seed: int) -> str:
  return f"{variant}, seed {seed}"


def reversed_pairs(n: int) -> list[tuple[Any, Any]]:
  """Scenes of a relation beside the same words the other way round."""
  from t2i_jax.data.scenes import prompts

  pairs = []
  for scene in prompts("easy", "relation", False, n, PROMPT_SEED):
    fact = next(fact for fact in scene.facts if fact.kind == "relation")
    first, second = scene.caption.split(f" {fact.rel} ")
    turned = replace(fact, a=fact.b, b=fact.a)
    facts = tuple(turned if f is fact else f for f in scene.facts)
    caption = f"{second} {fact.rel} {first}"
    pairs.append((scene, replace(scene, facts=facts, captions=(caption,))))
  return pairs


def measure(workdir: Path) -> dict[str, Any]:
  """Scores of one model, and whether it tells the words from the same words turned round."""
  import jax

  from t2i_jax.evaluation.judge import judge
  from t2i_jax.evaluation.score import score
  from t2i_jax.inference import open_model

  at = open_model(workdir)
  draw = lambda captions, seed: at.draw(captions, range(seed, seed + len(captions)))
  size = at.config.data.image_size[0]
  found = score(draw, "easy", size=size, per_cell=PER_CELL, seed=PROMPT_SEED, categories=CATEGORIES)
  cells = {
    f"{cell.category}, {'held out' if cell.heldout else 'seen'}": asdict(cell.model)
    for cell in found.cells
  }
  pairs = reversed_pairs(PAIRS)
  noise = range(len(pairs))  # the same for both ways round
  drawn = [at.draw([pair[way].caption for pair in pairs], noise) for way in (0, 1)]
  right = np.array(
    [
      [judge(image, pair[way].facts).correct for pair, image in zip(pairs, drawn[way], strict=True)]
      for way in (0, 1)
    ]
  )
  params = jax.tree.leaves(at.params)
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  speeds = [line["perf"]["images_per_s"] for line in lines if line["kind"] == "train"]
  grid([list(ways[:SHOWN]) for ways in drawn], SCALE, edge=0).save(workdir / "pairs.png")
  return {
    "cells": cells,
    "both ways right": {"successes": int((right[0] & right[1]).sum()), "n": len(pairs)},
    "parameters": sum(leaf.size for leaf in params),
    "flops": at.system.flops,
    "val": [line for line in lines if line["kind"] == "val"][-1]["loss"],
    "images": at.step * at.config.train.batch,
    "images_per_s": float(np.median(speeds)),
  }


def one(variant: str, seed: int, args: argparse.Namespace) -> None:
  """Trains (or goes on) and scores one model, in this process's own cores."""
  workdir = Path(args.runs) / f"{variant}_{seed}"
  flags = [f"--workdir={workdir}", f"--config.data.dir={args.data}", f"--config.seed={seed}"]
  t2i("train", f"--config={CONFIG}:{variant}", *flags)
  (workdir / "measured.json").write_text(json.dumps(measure(workdir)))


def all_runs(args: argparse.Namespace, kept: Path) -> dict[str, Any]:
  """Every model's figures; those that are missing are made, `jobs` at a time."""
  from t2i_jax.configs.compare.text_conditioning import VARIANTS

  done = json.loads(kept.read_text()) if kept.exists() else {}
  todo = [(v, s) for s in SEEDS for v in VARIANTS if key(v, s) not in done]
  if todo and not Path(args.data, "manifest.json").exists():
    t2i("data", "build", *PLANS["scenes"]["build"], f"--to={args.data}")
  cores = sorted(os.sched_getaffinity(0))
  share = len(cores) // args.jobs or 1
  free = [cores[i * share : (i + 1) * share] for i in range(args.jobs)]

  def run(job: tuple[str, int]) -> None:
    variant, seed = job
    mine = free.pop()
    command = [sys.executable, "-m", "benchmarks.text_conditioning", f"--only={variant}"]
    command += [f"--data={args.data}", f"--runs={args.runs}", f"--seed={seed}"]
    subprocess.run(
      command, check=True, env=KEEP_MEMORY | os.environ,
      preexec_fn=lambda: os.sched_setaffinity(0, mine),
    )  # fmt: skip
    free.append(mine)
    workdir = Path(args.runs) / f"{variant}_{seed}"
    done[key(variant, seed)] = json.loads((workdir / "measured.json").read_text())
    kept.write_text(json.dumps(done, indent=1) + "\n")
    if seed == SEEDS[0]:
      shutil.copy(workdir / "pairs.png", kept.parent / f"text_conditioning_{variant}.png")

  with ThreadPoolExecutor(args.jobs) as pool:
    list(pool.map(run, todo))
  return done


def rate(count: dict[str, int]) -> str:
  """Percent with its 95% Wilson interval."""
  from t2i_jax.evaluation.stats import Rate

  found = Rate(count["successes"], count["n"])
  return f"{found.percent()} {found.interval()}"


def together(runs: list[dict[str, Any]], category: str) -> dict[str, int]:
  """The cells of a category over all seeds, seen and held out, as one count."""
  cells = [cell for run in runs for name, cell in run["cells"].items() if name.startswith(category)]
  return {key: sum(cell[key] for cell in cells) for key in ("successes", "n")}


def tables(found: dict[str, Any], named: dict[str, str], first: str) -> list[str]:
  """A row a variant: its size, its cost, and its scores over both seeds and for each."""
  pooled, single = [], []
  for variant, name in named.items():
    runs = [found[key(variant, seed)] for seed in SEEDS if key(variant, seed) in found]
    if not runs:
      continue
    cells = [rate(together(runs, category)) for category in CATEGORIES]
    pairs = [run["both ways right"] for run in runs]
    cells.append(rate({k: sum(pair[k] for pair in pairs) for k in ("successes", "n")}))
    size = [f"{runs[0]['parameters'] / 1e6:.2f}", f"{runs[0]['flops'] / 1e6:.1f}"]
    pooled.append([name, *size, *cells])
    percent = lambda count: f"{100 * count['successes'] / count['n']:.0f}"
    cells = [" / ".join(percent(together([run], c)) for run in runs) for c in CATEGORIES]
    cells.append(" / ".join(percent(run["both ways right"]) for run in runs))
    cells.append(" / ".join(f"{run['val']:.4f}" for run in runs))
    single.append([name, *cells])
  return [
    table([first, "M parameters", "MFLOPs", *CATEGORIES, "both ways round"], pooled),
    "",
    f"Each seed by itself, in percent (seeds {', '.join(map(str, SEEDS))}):",
    "",
    table(["", *CATEGORIES, "both ways round", "validation loss"], single),
  ]


def page(found: dict[str, Any], command: str) -> str:
  images = next(iter(found.values()))["images"]
  n = 2 * PER_CELL * len(SEEDS)
  return "\n".join(
    [
      "# How text enters, and what the text encoder must know",
      "",
      "Made by",
      "",
      f"    {command}",
      "",
      "The quickstart's data (scenes of level easy), objective, optimiser and learning rates;",
      f"width 192, {images:,} images a run, {len(SEEDS)} seeds. The number of blocks makes the",
      "FLOPs of a forward pass equal, to 4%; parameters are what follows.",
      f"Percent correct by the exact judge with 95% intervals, over all seeds: {n} drawings a",
      "category, seen and held-out compositions together. The intervals are of drawings; what a",
      "seed does stands below each table.",
      "",
      f'Both ways round: {PAIRS} captions of a relation and the same words turned round ("a red',
      'circle above a blue square", "a blue square above a red circle"), drawn from the same',
      "noise; right where both drawings are.",
      "",
      *(result(found) if len(found) == len(SEEDS) * len(FORMS | TOWERS) else []),
      "## Five ways in, one tower",
      "",
      *tables(found, FORMS, "text enters by"),
      "",
      "## Two towers, one way in",
      "",
      "Cross-attention. The bag of words is frozen at random embeddings, sorted by id: which words",
      "there are it says exactly, their order not at all.",
      "",
      *tables(found, TOWERS, "tower"),
      "",
      *rows_of_images(found),
      "",
      *LIMITS,
      "",
    ]
  )


def rows_of_images(found: dict[str, Any]) -> list[str]:
  """One row of images a variant: captions above, the same turned round below."""
  shown = [pair[0].caption for pair in reversed_pairs(SHOWN)]
  lines = [
    "## Drawings",
    "",
    f"Seed {SEEDS[0]}; the first {SHOWN} pairs: above "
    + "; ".join(shown)
    + ". Below, the same words",
    "turned round.",
    "",
  ]
  for variant, name in (TOWERS | FORMS).items():
    if key(variant, SEEDS[0]) in found:
      lines += [f"{name}:", "", f"![{name}](text_conditioning_{variant}.png)", ""]
  return lines


def result(found: dict[str, Any]) -> list[str]:
  """What both seeds say; the figures are those of the tables, the words were written after them."""
  runs = lambda variant: [found[key(variant, seed)] for seed in SEEDS]
  share = lambda count: 100 * count["successes"] / count["n"]
  of = lambda variant, category: f"{share(together(runs(variant), category)):.0f}"
  pairs = lambda *variants: sum(
    run["both ways right"]["successes"] for variant in variants for run in runs(variant)
  )
  double = [f"{share(together([run], 'binding')):.0f}" for run in runs("double")]
  text = f"""
    One vector of the text, or a tower that is blind to order, is enough for single objects and for
    nothing that depends on who is what: of the pairs of captions with the same words,
    {PAIRS * len(SEEDS)} for each, they draw {pairs("pooled", "bag_of_words")} right both ways, and
    their relations are right as often as a guess among the four ways to arrange two colours and
    two shapes ({of("pooled", "relation")} and {of("bag_of_words", "relation")}%). Tokens that the
    image attends to, from a tower that knows order, tell the pairs apart.

    Of the forms, cross-attention and the double stream are even on relations
    ({of("cross", "relation")} and {of("double", "relation")}%). On binding cross-attention is ahead
    ({of("cross", "binding")} against {of("double", "binding")}%), but the double stream's seeds are
    far apart ({" and ".join(double)}%): two seeds do not tell. Both seeds agree that at equal FLOPs
    the stacks with single stream blocks are behind: {of("double_single", "binding")} and
    {of("double_single", "relation")}% on binding and relation for double to single,
    {of("single", "binding")} and {of("single", "relation")}% for single alone, which also has the
    fewest parameters."""
  paragraphs = (textwrap.fill(" ".join(part.split()), 96) for part in text.split("\n\n"))
  return ["## Result", "", *(line for part in paragraphs for line in (part, ""))]


LIMITS = [
  "## What this does not say",
  "",
  "One small size, one budget, one optimiser tuned on the cross-attention model: a form that wants",
  "other rates is at a disadvantage. Captions of at most twelve tokens and sixteen image tokens do",
  "not show what the forms cost, or give, at the lengths of real images. The stream forms have",
  "fewer and wider blocks at equal FLOPs, as their text tokens cost too.",
]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", default="runs/data/scenes_quickstart")
  parser.add_argument("--runs", default="runs/text_conditioning")
  parser.add_argument("--jobs", type=int, default=1)
  parser.add_argument("--to", default="docs")
  parser.add_argument("--only", help="one variant, in this process")
  parser.add_argument("--seed", type=int, default=0, help="with --only")
  args = parser.parse_args()
  if args.only:
    one(args.only, args.seed, args)
    return
  kept = Path(args.to, "text_conditioning.json")
  before = kept.read_bytes() if kept.exists() else b""
  found = all_runs(args, kept)
  command = "python -m benchmarks.text_conditioning"
  out = Path(args.to, "text_conditioning.md")
  configs = sorted(Path(args.runs).glob("*/config.json"))
  anew = kept.read_bytes() != before
  write(out, page(found, command), run_of(command, *configs) if anew else line_of(out))
  print(out)


if __name__ == "__main__":
  main()
