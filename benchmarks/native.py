"""One model that draws, captions and edits scenes, scored by exact judges: docs/native.md.

python benchmarks/native.py [--runs runs] [--to docs]

Builds the data, trains configs/transfusion_scenes.py as a user would, scores it and holds two
conversations. Started again, it goes on from where it stopped.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from quickstart import t2i

CONFIG = "configs/transfusion_scenes.py"
BUILD = ["--from=edits", "--level=easy", "--size=32", "--vocab=512"]
PER_CELL, SEED = 250, 30_000  # prompts that no choice was made on
SHOWN = 3  # edits of a kind, the first ones
SCALE = 3
COMMANDS = (
  f"t2i data build {' '.join(BUILD)} --to=runs/data/edits_native",
  f"t2i train --config={CONFIG} --workdir=runs/native --config.data.dir=runs/data/edits_native",
  f"t2i eval --workdir=runs/native --per-cell={PER_CELL} --seed={SEED}",
)
TALKS = (
  ("a red circle", "make the red circle blue", "add a green square left of the blue circle"),
  (
    "a yellow triangle above a blue square",
    "swap the yellow triangle and the blue square",
    "remove the blue square",
  ),
)


def measure(workdir: Path) -> dict[str, Any]:
  """What the page is made of besides the scores; its pictures go into the work directory."""
  import jax

  from t2i_jax.cli.evaluate import editor, images_seen
  from t2i_jax.evaluation.edit_judge import score_edits
  from t2i_jax.training.serve import open_workdir

  at = open_workdir(workdir)
  size = at.config.data.image_size[0]
  few = score_edits(editor(at), "easy", size=size, per_cell=SHOWN, seed=SEED)
  shown = [s for cell in few.cells if not cell.heldout for s in cell.samples]
  save([(s.before, s.after, s.truth) for s in shown], workdir / "edits.png")
  talks = [converse(at, lines, workdir / f"talk_{i}.png") for i, lines in enumerate(TALKS)]
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  trained = [line for line in lines if line["kind"] == "train"]
  return {
    "asked": [(s.instruction, s.verdict.correct) for s in shown],
    "talks": talks,
    "minutes": lines[-1]["perf"]["elapsed_s"] / 60,
    "steps": at.step,
    "images": images_seen(str(workdir), at),
    "padding": float(np.mean([line["padding"] for line in trained])),
    "left_out": float(np.mean([line["left_out"] for line in trained])),
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(at.params)),
  }


def converse(at: Any, lines: Sequence[str], path: Path) -> list[tuple[str, str]]:
  """What is said, and what the model says of the picture that it drew then."""
  from t2i_jax.training.chat import Chat

  chat = Chat(at.generator, at.tokenizer, at.params)
  pictures = [chat.draw(line) for line in lines]
  save([pictures], path)
  return [(line, chat.describe(p)) for line, p in zip(lines, pictures, strict=True)]


def save(rows: Sequence[Sequence[np.ndarray]], path: Path) -> None:
  """Rows of pictures with white between them, enlarged."""
  edged = [[np.pad(p, ((1, 1), (1, 1), (0, 0)), constant_values=255) for p in row] for row in rows]
  sheet = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in edged]))
  size = (sheet.width * SCALE, sheet.height * SCALE)
  sheet.resize(size, Image.Resampling.NEAREST).save(path)


def rate(found: dict[str, Any]) -> str:
  if found["rate"] is None:
    return "none"
  return f"{100 * found['rate']:.1f}% [{100 * found['lower']:.1f}, {100 * found['upper']:.1f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
  return [lines[0], "|---" * len(head) + "|", *lines[1:], ""]


def page(
  m: dict[str, Any], scores: dict[str, dict[str, Any]], quickstart: dict[str, Any] | None
) -> str:
  which = lambda cell: "held out" if cell["heldout"] else "seen"
  beside = {
    (c["category"], c["heldout"]): rate(c["model"]) for c in (quickstart or {}).get("cells", [])
  }
  drawn = [
    [c["category"], which(c), rate(c["model"]), beside.get((c["category"], c["heldout"]), ""),
     rate(c["shuffled"])]
    for c in scores["score"]["cells"]
  ]  # fmt: skip
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
    "Made by `python benchmarks/native.py`, which builds the data, trains and scores by",
    "",
    "```sh",
    *COMMANDS,
    "```",
    "",
    f"`{CONFIG}`: {m['parameters'] / 1e6:.2f} M parameters, {m['steps']} steps,",
    f"{m['images']:,.0f} pictures seen in {m['minutes']:.1f} minutes on two cores. Of a row's",
    f"positions {m['padding']:.1%} are padding; {m['left_out']:.3f} documents a row did not fit.",
    "",
    "## Drawing captions",
    "",
    "Percent correct by the exact judge, with 95% intervals, beside the quickstart's model.",
    "",
    *table(["category", "compositions", "correct", "quickstart", "shuffled captions"], drawn),
    "## Reading drawings",
    "",
    "A caption is correct where it lists exactly the objects of the picture and the relation it",
    "states holds. Baselines: captions of other pictures, and the commonest caption.",
    "",
    *table(["category", "compositions", "correct", "objects right", "shuffled", "commonest"], read),
    "## Editing by instruction",
    "",
    "Done: what was asked is there. Kept: all else is as it was. The picture before is an exact",
    "drawing that the model is shown, without a caption.",
    "",
    *table(["kind", "compositions", "correct", "done", "kept", "ceiling"], edited),
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
  data, workdir, out = f"{args.runs}/data/edits_native", Path(args.runs, "native"), Path(args.to)
  if not Path(data, "manifest.json").exists():
    t2i("data", "build", *BUILD, f"--to={data}")
  t2i("train", f"--config={CONFIG}", f"--workdir={workdir}", f"--config.data.dir={data}")
  scored = workdir / "eval"
  if not (scored / "edits.json").exists():
    t2i("eval", f"--workdir={workdir}", f"--per-cell={PER_CELL}", f"--seed={SEED}")
  names = ("score", "captions", "edits")
  scores = {name: json.loads((scored / f"{name}.json").read_text()) for name in names}
  m = measure(workdir)
  for name in ("edits", *(f"talk_{i}" for i in range(len(TALKS)))):
    (out / f"native_{name}.png").write_bytes((workdir / f"{name}.png").read_bytes())
  score = Path(args.runs, "scenes_dit_flow/eval/score.json")
  quickstart = json.loads(score.read_text()) if score.exists() else None
  (out / "native.md").write_text(page(m, scores, quickstart), encoding="utf-8")
  print(out / "native.md")


if __name__ == "__main__":
  sys.exit(main())
