"""Editors of images by text beside each other, on the planted world: docs/editing.md.

python -m benchmarks.editing --jobs=2

Needs the base of benchmarks.personalisation; Imagic's points are those of
benchmarks.personalisation_more, where it has run. What is drawn is kept in RUNS as it was read:
started again, it goes on, and --only=page writes the page without a model, of what has been run,
with --restore of what is recorded beside it. Parts NAME_fine are of a second base with four times
as many image tokens, which --only=fine trains as far as --fine-steps. The reader of the planted
world is the one judge; it is in no loss. About an hour on two cores, and half of one for that base.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
  editing_attention,
  editing_frames,
  editing_images,
  editing_inversion,
  editing_prompts,
  editing_strokes,
)
from benchmarks.editing_bench import BATCH, Bench
from benchmarks.editing_images import EDITORS
from benchmarks.few_step import finished
from benchmarks.pages import run_of, write
from benchmarks.personalisation_jobs import each_by_itself, names_of
from benchmarks.quickstart import t2i
from benchmarks.recorded import agree, record, restore

PAGE, RECORD = "editing.md", "editing.tar.xz"
STEPS = 20  # of config.sampling
# Images of a kind, and so of each part.
COUNTS = {
  "images": 32,
  "prompts": 64,
  "attention": 48,
  "inversion": 32,
  "strokes": 48,
  "frames": 8,
  "prompts_fine": 64,
  "attention_fine": 48,
}
MAKE: dict[str, Callable[[Bench, Path, int], None]] = {
  "prompts": editing_prompts.make,
  "attention": editing_attention.make,
  "inversion": editing_inversion.make,
  "strokes": editing_strokes.make,
  "frames": editing_frames.make,
  "prompts_fine": editing_prompts.make,
  "attention_fine": editing_attention.make,
}
PARTS = ("fine", *COUNTS, "page")
FINE_PATCH = 4  # of the second base, in pixels
FINE = {"prompts_fine", "attention_fine"}  # parts of it
CONFIGS = ("base.json", "fine.json")  # of both bases, as they were drawn of


def counts_of(count: int) -> dict[str, int]:
  """0: as they are reported."""
  return dict.fromkeys(COUNTS, count) if count else dict(COUNTS)


def page(runs: Path, to: Path, args: argparse.Namespace, command: str) -> str:
  counts = counts_of(args.count)
  cfg = json.loads((runs / CONFIGS[0]).read_text())["sampling"]["cfg"]
  return "\n".join([
    "# Editors beside each other",
    "",
    "Made by",
    "",
    f"    {command}",
    "",
    "Every editor of `t2i edit` ([edit](edit.md), [inversion](inversion.md)), and Imagic",
    "([adapt](adapt.md)), on one base: `configs/scenes_planted.py`, cross-attention, 32 pixels, 16",
    f"image tokens, {args.steps} steps at guidance scale {cfg:g} on the base's grid. The reader of",
    "the [planted world](planted.md) judges every drawing; it is in no loss. Done: the facts of",
    "the instruction hold. Kept: every other object has its place, radius and attributes, and so",
    "has the changed one in what was not to change; 1.6 pixels are allowed. The unchanged image is",
    "kept and not done. Percentages have 95% Wilson intervals. Network calls of each editor:",
    "[inversion](inversion.md).",
    "",
    "For scale, a model that was trained to edit: the joint model of [native](native.md) does",
    "63.6% [57.5, 69.3] of recoloured and 72.8% [67.0, 77.9] of reshaped images correctly, 70.8%",
    "[64.9, 76.1] of additions, 95.2% [91.8, 97.2] of removals, on seen compositions. It reads an",
    "instruction, no caption, and is judged by the reader of scenes.",
    "",
    *editing_images.section(runs / "images", to, counts["images"], Path(args.imagic)),
    *of_drawings(runs, to, counts, ""),
    *of_fine(runs, to, counts),
    *editing_inversion.section(runs / "inversion", to, counts["inversion"], cfg),
    *editing_strokes.section(runs / "strokes", to, counts["strokes"]),
    *editing_frames.section(runs / "frames", to, counts["frames"]),
  ])  # fmt: skip


def of_drawings(runs: Path, to: Path, counts: dict[str, int], fine: str) -> list[str]:
  """Prompt-to-Prompt and word maps on drawings of a base.   fine: "_fine" of the second one"""
  words, attention = f"prompts{fine}", f"attention{fine}"
  again = ", with finer tokens" if fine else ""
  return [
    *editing_prompts.section(
      runs / words,
      to,
      counts[words],
      f"Prompt-to-Prompt on own drawings{again}",
      f"editing_{words}",
    ),
    *editing_attention.section(
      runs / attention, to, counts[attention], f"Attention to words{again}", f"editing_{attention}"
    ),
  ]


def of_fine(runs: Path, to: Path, counts: dict[str, int]) -> list[str]:
  """The same of the second base; nothing where it has not been trained."""
  if not (runs / CONFIGS[1]).is_file():
    return []
  trained = json.loads((runs / CONFIGS[1]).read_text())
  patch, steps = trained["model"]["patch"], trained["train"]["steps"]
  return [
    "## A base with finer tokens",
    "",
    "The same two experiments on a second base, `configs/scenes_planted.py` with patches of",
    f"{patch} pixels, trained for {steps} steps: four times as many image tokens, and as much more",
    "time a step.",
    "",
    *of_drawings(runs, to, counts, "_fine"),
  ]


def train_fine(args: argparse.Namespace) -> None:
  """The second base, or the rest of it."""
  if finished(Path(args.fine)):
    return
  data = json.loads(Path(args.base, "config.json").read_text())["data"]["dir"]
  t2i(
    "train", "--config=configs/scenes_planted.py", f"--workdir={args.fine}",
    f"--config.data.dir={data}", f"--config.model.patch={FINE_PATCH}", "--config.sampling.every=0",
    f"--config.train.steps={args.fine_steps}", "--config.checkpoint.every=100",
    "--config.eval.every=100",
  )  # fmt: skip


def make(part: str, args: argparse.Namespace, runs: Path, editors: list[str]) -> None:
  count, workdir = counts_of(args.count)[part], args.fine if part in FINE else args.base
  shutil.copy(Path(workdir, "config.json"), runs / CONFIGS[part in FINE])
  if part == "images":
    batch = min(BATCH, len(editing_images.KINDS) * count)
    bench = Bench(args.base, args.steps, batch, runs / part)
    editing_images.make(bench, runs / part, count, editors)
    return
  rows = {"frames": editing_frames.FRAMES, "strokes": count}
  batch = min(BATCH, rows.get(part, 2 * count))
  MAKE[part](Bench(workdir, args.steps, batch, runs / part), runs / part, count)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--base", default="runs/scenes_planted")
  parser.add_argument("--fine", default="runs/scenes_planted_fine", help="of the second base")
  parser.add_argument("--fine-steps", type=int, default=926, help="that it is trained for")
  parser.add_argument("--imagic", default="runs/personalisation_more/imagic")
  parser.add_argument("--runs", default="runs/editing", help="where drawings go")
  parser.add_argument("--count", type=int, default=0, help="images of a kind; 0: as reported")
  parser.add_argument("--steps", type=int, default=STEPS)
  parser.add_argument("--jobs", type=int, default=1, help="processes beside each other")
  parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
  parser.add_argument("--editors", default=",".join(EDITORS), help="of images")
  parser.add_argument("--to", default="docs", help="folder of the page and its record")
  parser.add_argument("--restore", action="store_true", help="what the page's record holds, first")
  args = parser.parse_args()
  parts, runs = names_of(parser, "only", args.only, PARTS), Path(args.runs)
  if args.restore:
    restore(runs, Path(args.to, RECORD))
  editors = names_of(parser, "editors", args.editors, EDITORS)
  agree(runs, {"base": args.base, "steps": args.steps, "counts": counts_of(args.count)})
  settings = [f"--base={args.base}", f"--runs={args.runs}", f"--steps={args.steps}",
              f"--count={args.count}", f"--fine={args.fine}"]  # fmt: skip
  if "fine" in parts:
    train_fine(args)
  drawn = [part for part in parts if part in COUNTS]
  if args.jobs > 1 and drawn:
    commands = [("benchmarks.editing", *settings, *more) for more in shares(drawn, editors, args)]
    each_by_itself(commands, args.jobs, runs)
  else:
    for part in drawn:
      make(part, args, runs, editors)
  if "page" in parts:
    to = Path(args.to)
    to.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python -m benchmarks.editing", *settings])
    line = run_of(command, *(runs / name for name in CONFIGS if (runs / name).is_file()))
    write(to / PAGE, page(runs, to, args, command), line)
    record(runs, drawn_in(runs, counts_of(args.count)), to / RECORD)
    print(to / PAGE)


def drawn_in(runs: Path, counts: dict[str, int]) -> list[Path]:
  """What the page is made of."""
  others = [path for part in COUNTS if part != "images" for path in (runs / part).rglob("*.*")]
  return [
    *runs.glob("*.json"),
    *editing_images.drawn_in(runs / "images", counts["images"]),
    *others,
  ]


def shares(parts: list[str], editors: list[str], args: Any) -> list[list[str]]:
  """Flags of the processes: every part by itself, images in as many as there are jobs."""
  found = []
  for part in parts:
    each = [editors[i :: args.jobs] for i in range(args.jobs)] if part == "images" else [editors]
    found += [[f"--only={part}", f"--editors={','.join(some)}"] for some in each if some]
  return found


if __name__ == "__main__":
  main()
