"""How much of the quickstart's scores can be learned in its seven minutes? docs/speedrun.md.

python -m benchmarks.speedrun --data=runs/data/scenes_quickstart

Trains and scores every row of ROWS on two seeds, each as `t2i train` and `t2i eval` would, then
times a training step of every row in turns, and writes the page from all that is there. Results
are kept in docs/speedrun.json after each run: started again, here or elsewhere, it goes on. A run
takes about ten minutes of two cores. --rows=before,recipe makes those alone.
"""

import argparse
import json
import tempfile
import textwrap
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.quickstart import PLANS, measure_training, t2i
from t2i_jax.cli.evaluate import processor

CONFIG = "configs/scenes_dit_flow.py"
BEFORE = {
  "train.steps": "1400",
  "train.batch": "96",
  "train.optimizer": "muon(b2=0.99)",
  "model.absolute": "False",
  "process.t_sampling": "()",
}
# Name -> (what changed, keys of the config). The last row is the config as it is.
ROWS: dict[str, tuple[str, dict[str, str]]] = {
  "before": ("the first recipe: batch 96, Muon with five Newton-Schulz steps", BEFORE),
  "recipe": (
    "batch 64; three Newton-Schulz steps [2505.16932]; fixed sin-cos positions added to the "
    "patches [2212.09748]; stratified t [2107.00630]",
    {},
  ),
}
SEEDS = (0, 1)
PER_CELL = 250
PROMPT_SEED = 30_000  # prompts that no choice was made on
ROUNDS = 3  # of timing, all rows in each
CATEGORIES = ("single", "binding", "relation")


def flags(keys: dict[str, str]) -> list[str]:
  return [f"--config.{key}={value}" for key, value in keys.items()]


def key(row: str, seed: int) -> str:
  return f"{row}, seed {seed}"


def run(row: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
  """Trains (or goes on) and scores one model: its rates by cell, and what it was trained on."""
  workdir = Path(args.runs) / f"{row}_{seed}"
  own = [f"--workdir={workdir}", f"--config.data.dir={args.data}", f"--config.seed={seed}"]
  t2i("train", f"--config={CONFIG}", *own, *flags(ROWS[row][1]))
  t2i("eval", f"--workdir={workdir}", f"--per-cell={PER_CELL}", f"--seed={PROMPT_SEED}")
  return result(workdir)


def result(workdir: Path) -> dict[str, Any]:
  """Rates of a scored work directory by cell, its steps and images."""
  score = json.loads((workdir / "eval" / "score.json").read_text())
  train = json.loads((workdir / "config.json").read_text())["train"]
  cells = {
    f"{cell['category']}, {'held out' if cell['heldout'] else 'seen'}": cell["model"]
    for cell in score["cells"]
  }
  return {"cells": cells, "steps": train["steps"], "batch": train["batch"]}


def timed(args: argparse.Namespace) -> dict[str, Any]:
  """Seconds of a training step of each row, ROUNDS times, the rows in turns."""
  seconds: dict[str, list[float]] = {row: [] for row in args.rows}
  for _ in range(ROUNDS):
    for row in args.rows:
      with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder, "run")
        _, step = measure_training(CONFIG, Path(args.data), workdir, flags(ROWS[row][1]))
      seconds[row].append(step)
  return {"machine": processor(), "seconds": seconds}


def rates(done: dict[str, Any], row: str, category: str) -> str:
  """Seen / held out, in percent, with the lower bound of each, a line a seed."""
  lines = []
  for seed in SEEDS:
    if key(row, seed) in done:
      cells = done[key(row, seed)]["cells"]
      both = [cells[f"{category}, {kind}"] for kind in ("seen", "held out")]
      lines.append(" / ".join(f"{c['rate']:.1%} ({c['lower']:.1%})" for c in both))
  return "<br>".join(lines)


def page(done: dict[str, Any]) -> str:
  times = done.get("times", {"machine": "", "seconds": {}})["seconds"]
  lines = [
    "# The quickstart as a speedrun",
    "",
    *textwrap.wrap(
      "What the quickstart's model draws right after the time that 1400 steps of the first recipe "
      "take. Percent correct by the exact judge on level easy, seen / held-out compositions, "
      f"{PER_CELL} samples a cell, prompt seed {PROMPT_SEED}; in brackets the lower bound of the "
      "95% Wilson interval. A line a training seed (0, 1). The goal was binding 85 (80) and "
      "relation 92 (88) on both seeds.",
      100,
    ),
    "",
    "| row | change | minutes | images | single | binding | relation |",
    "|---|---|---|---|---|---|---|",
  ]
  for row, (change, _) in ROWS.items():
    found = next((done[key(row, seed)] for seed in SEEDS if key(row, seed) in done), None)
    if found is None:
      continue
    images = found["steps"] * found["batch"]
    minutes = f"{found['steps'] * median(times[row]) / 60:.1f}" if row in times else ""
    columns = [row, change, minutes, f"{images:,}", *(rates(done, row, c) for c in CATEGORIES)]
    lines.append(f"| {' | '.join(columns)} |")
  return "\n".join([*lines, "", *notes(done), ""])


def notes(done: dict[str, Any]) -> list[str]:
  """How the rows were made, and on which machine the steps were timed."""
  lines = ["Each row is made, a seed at a time, by", "", "```sh"]
  for row, (_, keys) in ROWS.items():
    given = " ".join(f"'{flag}'" for flag in flags(keys))
    lines.append(f"# {row}")
    lines.append(
      f"t2i train --config={CONFIG} --workdir=runs/speedrun/{row}_0 --config.seed=0 "
      f"--config.data.dir=runs/data/scenes_quickstart {given}".rstrip()
    )
    score = f"--per-cell={PER_CELL} --seed={PROMPT_SEED}"
    lines.append(f"t2i eval --workdir=runs/speedrun/{row}_0 {score}")
  lines += ["```", "", "and all of them, with this page, by `python -m benchmarks.speedrun`."]
  if "times" in done:
    seconds = done["times"]["seconds"]
    each = "; ".join(
      f"{row} {median(s):.3f} s ({min(s):.3f} to {max(s):.3f})" for row, s in seconds.items()
    )
    lines += ["", f"A training step on {done['times']['machine']}, rows in turns: {each}."]
  return lines


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", default="runs/data/scenes_quickstart")
  parser.add_argument("--runs", default="runs/speedrun")
  parser.add_argument("--rows", default=",".join(ROWS), help="those to make")
  parser.add_argument("--page", action="store_true", help="only write the page again")
  args = parser.parse_args()
  args.rows = args.rows.split(",")
  kept, out = Path("docs/speedrun.json"), Path("docs/speedrun.md")
  done = json.loads(kept.read_text()) if kept.exists() else {}
  todo = [] if args.page else [(r, s) for s in SEEDS for r in args.rows if key(r, s) not in done]
  if todo and not Path(args.data, "manifest.json").exists():
    t2i("data", "build", *PLANS["scenes"]["build"], f"--to={args.data}")
  for row, seed in todo:
    done[key(row, seed)] = run(row, seed, args)
    kept.write_text(json.dumps(done, indent=1) + "\n")
  if not args.page:
    done["times"] = timed(args)
    kept.write_text(json.dumps(done, indent=1) + "\n")
  out.write_text(page(done))
  print(out)


if __name__ == "__main__":
  main()
