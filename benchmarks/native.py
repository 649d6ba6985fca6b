"""One model that draws, captions and edits scenes, scored by exact judges: docs/native.md.

python -m benchmarks.native [--runs runs] [--to docs]

Builds the data, trains configs/transfusion_scenes.py as a user would, scores it and holds two
conversations. Then the quickstart's model, which only draws, is trained on as many images and
scored beside it. Started again, it goes on from where it stopped.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pages import run_of, table, write
from benchmarks.quickstart import PLANS, t2i
from t2i_jax.data.sheet import grid

COMMAND = "python -m benchmarks.native"
CONFIG = "configs/transfusion_scenes.py"
BUILD = ["--from=edits", "--level=easy", "--size=32", "--vocab=512"]
PER_CELL, SEED = 250, 30_000  # prompts that no choice was made on
EVAL = [f"--per-cell={PER_CELL}", f"--seed={SEED}"]
SHOWN = 3  # edits of a kind, the first ones
SCALE = 3
TALKS = (
  ("a red circle", "make the red circle blue", "add a green square left of the blue circle"),
  (
    "a yellow triangle above a blue square",
    "swap the yellow triangle and the blue square",
    "remove the blue square",
  ),
)


def commands(runs: str) -> Iterator[tuple[list[str], Path | None]]:
  """Every verb there is to run, in order, and what it leaves behind; a run that ended says so."""
  yield from run(runs, "native", "edits_native", CONFIG, BUILD)
  drawing = PLANS["scenes"]
  how = drawing["config"][0], drawing["build"], f"--config.train.steps={equal_steps(runs)}"
  yield from run(runs, "native_draws", "scenes_native", *how)


def run(
  runs: str, name: str, data: str, config: str, build: Sequence[str], *flags: str
) -> Iterator[tuple[list[str], Path | None]]:
  """A folder of data, a run on it and its scores."""
  workdir, folder = f"{runs}/{name}", f"{runs}/data/{data}"
  train = [f"--config={config}", f"--workdir={workdir}", f"--config.data.dir={folder}", *flags]
  yield ["data", "build", *build, f"--to={folder}"], Path(folder, "manifest.json")
  yield ["train", *train], None
  yield ["eval", f"--workdir={workdir}", *EVAL], Path(workdir, "eval", "report.html")


def equal_steps(runs: str) -> int:
  """Steps in which the model that only draws sees as many images as the joint one has."""
  from t2i_jax.cli.evaluate import images_seen
  from t2i_jax.config import load_config

  batch = lambda config: load_config(Path(config), {}).train.batch
  metrics = logged(Path(runs, "native"))
  seen = images_seen(metrics, metrics[-1]["step"], batch(CONFIG))
  return round(seen / batch(PLANS["scenes"]["config"][0]))


def measure(workdir: Path) -> dict[str, Any]:
  """What the page is made of besides the scores; its images go into the work directory."""
  import jax

  from t2i_jax.cli.evaluate import images_seen, seeds_from
  from t2i_jax.evaluation.edit_judge import score_edits
  from t2i_jax.inference import open_model

  at = open_model(workdir)
  size = at.config.data.image_size[0]
  few = score_edits(
    lambda images, texts, seed: at.edit(images, texts, seeds_from(seed, images)),
    "easy",
    size=size,
    per_cell=SHOWN,
    seed=SEED,
  )
  shown = [s for cell in few.cells if not cell.heldout for s in cell.samples]
  rows = [(s.before, s.after, s.truth) for s in shown]
  grid(rows, SCALE).save(workdir / "edits.png")
  talks = [converse(at, lines, workdir / f"talk_{i}.png") for i, lines in enumerate(TALKS)]
  metrics = logged(workdir)
  trained = [line for line in metrics if line["kind"] == "train"]
  mean = lambda name: float(np.mean([line[name] for line in trained]))
  return {
    "asked": [(s.instruction, s.verdict.correct) for s in shown],
    "talks": talks,
    "minutes": minutes(workdir),
    "steps": at.step,
    "images": images_seen(metrics, at.step, at.config.train.batch),
    "padding": mean("padding"),
    "left_out": mean("left_out"),
    "drawn": mean("drawn") / mean("images"),
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(at.params)),
  }


def logged(workdir: Path) -> list[dict[str, Any]]:
  from t2i_jax.evaluation.report import read_metrics

  return read_metrics(workdir / "metrics.jsonl")[0]


def minutes(workdir: Path) -> float:
  """Of training, the compilation and the samples on the way with it."""
  return logged(workdir)[-1]["perf"]["elapsed_s"] / 60


def converse(at: Any, lines: Sequence[str], path: Path) -> list[tuple[str, str]]:
  """What is said, and what the model says of the image that it drew then."""
  chat = at.chat()
  images = [chat.draw(line) for line in lines]
  grid([images], SCALE).save(path)
  return [(line, chat.describe(p)) for line, p in zip(lines, images, strict=True)]


def rate(found: dict[str, Any]) -> str:
  if found["rate"] is None:
    return "none"
  return f"{100 * found['rate']:.1f}% [{100 * found['lower']:.1f}, {100 * found['upper']:.1f}]"


def page(m: dict[str, Any], scores: dict[str, dict[str, Any]]) -> str:
  which = lambda cell: "held out" if cell["heldout"] else "seen"
  drawn = [
    [c["category"], which(c), rate(c["model"]), rate(other["model"]), rate(c["shuffled"])]
    for c, other in zip(scores["score"]["cells"], scores["draws"]["cells"], strict=True)
  ]
  names = ("model", "objects", "shuffled", "majority")
  read = [
    [c["category"], which(c), *(rate(c[name]) for name in names)]
    for c in scores["captions"]["cells"]
  ]  # fmt: skip
  edited = [
    [c["kind"], which(c), *(rate(c["model"][name]) for name in ("correct", "done", "kept")),
     rate(c["ceiling"]["correct"])]
    for c in scores["edits"]["cells"]
  ]  # fmt: skip
  lines = [
    "# One model that draws, reads and edits",
    "",
    f"Made by `{COMMAND}`, which builds the data, trains and scores by",
    "",
    "```sh",
    *m["commands"],
    "```",
    "",
    f"`{CONFIG}`: {m['parameters'] / 1e6:.2f} M parameters, {m['steps']} steps,",
    f"{m['images']:,.0f} images seen in {m['minutes']:.1f} minutes on two cores. Of a row's",
    f"positions {m['padding']:.1%} are padding; {m['left_out']:.3f} documents a row did not fit.",
    "",
    "## Drawing captions",
    "",
    "Percent correct by the exact judge, with 95% intervals, beside the quickstart's model after",
    f"as many images: all of those it learns to draw, of the joint model's {m['drawn']:.0%}.",
    "",
    table(["category", "compositions", "correct", "only draws", "shuffled captions"], drawn),
    "",
    "## Reading drawings",
    "",
    "A caption is correct where it lists exactly the objects of the image and the relation it",
    "states holds. Baselines: captions of other images, and the commonest caption.",
    "",
    table(["category", "compositions", "correct", "objects right", "shuffled", "commonest"], read),
    "",
    "## Editing by instruction",
    "",
    "Done: what was asked is there. Kept: all else is as it was. The image before is an exact",
    "drawing that the model is shown, without a caption.",
    "",
    table(["kind", "compositions", "correct", "done", "kept", "ceiling"], edited),
    "",
    f"The first {SHOWN} of each kind, not chosen: before, after, as it should be.",
    "",
    "![before, after, truth](native_edits.png)",
    "",
    *(
      f"{i + 1}. {text}: {'correct' if right else 'wrong'}"
      for i, (text, right) in enumerate(m["asked"])
    ),
    "",
    "## Conversations",
    "",
    "What is asked, and what the model says of what it drew.",
    "",
  ]
  for i, talk in enumerate(m["talks"]):
    lines += [f"![conversation {i + 1}](native_talk_{i}.png)", ""]
    lines += [f"> {said}  \n> *{seen}*" + "\n" for said, seen in talk]
  return "\n".join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--runs", default="runs")
  parser.add_argument("--to", default="docs")
  args = parser.parse_args()
  ran = []
  for verb, left in commands(args.runs):
    ran.append(f"t2i {' '.join(verb)}")
    if left is None or not left.exists():
      t2i(*verb)
  workdir, draws, out = (
    Path(at) for at in (f"{args.runs}/native", f"{args.runs}/native_draws", args.to)
  )
  read = lambda folder, name: json.loads((folder / "eval" / f"{name}.json").read_text())
  scores = {name: read(workdir, name) for name in ("score", "captions", "edits")}
  scores["draws"] = read(draws, "score")
  m = measure(workdir) | {"commands": ran}
  for name in ("edits", *(f"talk_{i}" for i in range(len(TALKS)))):
    (out / f"native_{name}.png").write_bytes((workdir / f"{name}.png").read_bytes())
  line = run_of(COMMAND, workdir / "config.json", draws / "config.json")
  write(out / "native.md", page(m, scores), line)
  print(out / "native.md")


if __name__ == "__main__":
  sys.exit(main())
