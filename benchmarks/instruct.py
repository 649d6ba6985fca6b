"""How right an editor's training pairs must be, by five sets of equal size: docs/instruct_data.md.

python -m benchmarks.instruct [--base=runs/scenes_planted] [--runs=runs/instruct] [--to=docs]

One model of scenes, by default the base of benchmarks.personalisation, draws pairs of the same
edits, and an instruction model is trained on each set:

  seed      both captions with the same noise        p2p         by Prompt-to-Prompt
  filtered  those of p2p that a noisy classifier, which is blind to order, finds alike
  judged    those of p2p that the exact judge finds right
  exact     renders of the scenes before and after   quarter     a fourth of these

All sets but the last are cut to the size of the smallest. The judge says how many pairs of a set
are right; then how many edits of exact renders the editor does, keeps all else in, and has right,
by kind, seen and held out; and of two editors for a grid of both scales of guidance. Started again,
it goes on from where it stopped; with its defaults it takes about 45 minutes of CPU time.
"""

import argparse
import dataclasses
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.few_step import finished
from benchmarks.pages import run_of, table, write
from benchmarks.quickstart import t2i
from t2i_jax.data.build import build
from t2i_jax.data.drawn import drawn_of
from t2i_jax.data.images import decode
from t2i_jax.data.items import CHUNK, Result, made
from t2i_jax.data.record import Record
from t2i_jax.data.scenes import MOVE, edit_kinds
from t2i_jax.data.sheet import grid
from t2i_jax.data.source import MANIFEST, ShardSource
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.edit.drawn_pairs import WRONG_SOURCE
from t2i_jax.evaluation.agreement import Thresholds, reason_against
from t2i_jax.evaluation.edit_judge import score_edits
from t2i_jax.evaluation.stats import Rate
from t2i_jax.inference import open_model

COMMAND = "python -m benchmarks.instruct"
SETS = ("seed", "p2p", "filtered", "judged", "exact", "quarter")
SIMILAR = ("image_image", "directional", "text_image")
# Of the classifier's tokens; CLIP's bounds are of another scale.
THRESHOLDS = Thresholds(image_image=0.3, directional=0.5, text_image=0.7)
KINDS = (*edit_kinds("easy"), MOVE)
TEXT_SCALES, IMAGE_SCALES = (1.0, 2.0, 3.0), (1.0, 1.5, 2.0)
GRIDS = ("judged", "exact")  # sets whose editor is drawn with all of these
SEED = 40_000  # of edits that no choice was made on
SHOWN = 8  # pairs, and edits, of a set in the sheet
SCALE = 2


@dataclasses.dataclass(frozen=True)
class Chosen:
  """A source of t2i_jax.data.build: records of another folder.

  folder  of which the records are;   keys: those that are taken, in order
  """

  folder: str
  keys: tuple[str, ...]

  splits: ClassVar = ("train", "val")
  vocab: ClassVar = 512
  holds_out: ClassVar = True
  licence: ClassVar = "none: drawn by a model of this repository"
  attribution: ClassVar = ""

  def total(self) -> int:
    return len(self.keys)

  def tasks(self) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(self.keys), CHUNK):
      yield self.keys[start : start + CHUNK]

  def make(self, task: tuple[str, ...]) -> list[Result]:
    found = dict(records_of(Path(self.folder), set(task)))
    return [made(*found[key]) for key in task]


def records_of(
  folder: Path, keys: set[str] | None = None
) -> Iterator[tuple[str, tuple[str, Record]]]:
  """(key, (split, record)) of a folder's records.   keys: None for all"""
  for split in json.loads((folder / MANIFEST).read_text())["splits"]:
    source = ShardSource(folder, split)
    for i in range(len(source)):
      record = source[i]
      if keys is None or record.key in keys:
        yield record.key, (split, record)


def draw(args: argparse.Namespace) -> None:
  """The edits as text, the classifier, and the folders of pairs that are drawn."""
  root = Path(args.runs)
  root.mkdir(parents=True, exist_ok=True)
  base = json.loads((Path(args.base) / "config.json").read_text())
  classifier = root / "classifier"
  if not finished(classifier):
    t2i(
      "train", "--config=configs/scenes_classifier.py", f"--workdir={classifier}",
      f"--config.data.dir={base['data']['dir']}", f"--config.text.length={base['text']['length']}",
      f"--config.train.steps={args.classifier_steps}", "--config.eval.every=0",
    )  # fmt: skip
  edits = root / "edits.jsonl"
  if not edits.exists():
    t2i("data", "edits", "--from=scenes", f"--to={edits}", f"--count={args.drawn}")
  any_pair = [f"--{name.replace('_', '-')}=-1" for name in SIMILAR]  # chosen afterwards
  for kind, count, more in (
    ("seed", args.pairs, []),
    ("p2p", args.drawn, [f"--encoder={classifier}", *any_pair]),
    ("exact", args.pairs, []),
  ):
    to = root / "drawn" / kind
    if not (to / MANIFEST).exists():
      t2i(
        "data", "pairs", f"--workdir={args.base}", f"--edits={edits}", f"--kind={kind}",
        f"--count={count}", f"--to={to}", f"--cfg={args.cfg}", *more,
      )  # fmt: skip


def choose(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
  """The folders of all sets, and what the judge finds of their pairs."""
  root = Path(args.runs)
  own = {kind: [r for _, (_, r) in records_of(root / "drawn" / kind)] for kind in
         ("seed", "p2p", "exact")}  # fmt: skip
  own = {kind: sorted(found, key=lambda record: record.key) for kind, found in own.items()}
  own["filtered"] = [record for record in own["p2p"] if alike(record)]
  own["judged"] = [record for record in own["p2p"] if record.meta["correct"]]
  for kind, found in own.items():
    if not found:
      sys.exit(f"{root}: of {len(own['p2p'])} pairs of p2p none is in the set {kind}: draw more, "
               "or train the classifier for longer.")  # fmt: skip
  size = min(args.pairs, *map(len, own.values()))
  own = {kind: found[:size] for kind, found in own.items()}
  own["quarter"] = own["exact"][: size // 4]
  bpe = json.loads(open_tokenizer(args.base).to_json())["model"]
  about = {}
  for name in SETS:
    drawn = {"filtered": "p2p", "judged": "p2p", "quarter": "exact"}.get(name, name)
    keys = tuple(record.key for record in own[name])
    if not (root / "sets" / name / MANIFEST).exists():
      source: Any = Chosen(str(root / "drawn" / drawn), keys)
      given = {"tokenizer": bpe, "drawn": drawn_of(source.folder)}
      build(source, root / "sets" / name, workers=1, progress=False, **given)
    about[name] = {"pairs": len(keys)} | shares(own[name])
  return about


def open_tokenizer(base: str) -> Tokenizer:
  return open_model(base).tokenizer


def alike(record: Record) -> bool:
  """Whether the noisy classifier's similarities pass THRESHOLDS."""
  similar = {name: record.meta[name] for name in SIMILAR}
  return reason_against(similar, THRESHOLDS) is None


def shares(records: Sequence[Record]) -> dict[str, Any]:
  """Right pairs, of all, of those whose first image is its caption, and by kind, as JSON."""
  by_kind: dict[str, list[bool]] = defaultdict(list)
  for record in records:
    by_kind[record.meta["kind"]].append(record.meta["correct"])
  of = lambda rights: Rate.of(rights).to_json()
  of_source = [r.meta["correct"] for r in records if r.meta.get("wrong") != WRONG_SOURCE]
  every = [record.meta["correct"] for record in records]
  return {
    "correct": of(every),
    "of_source": of(of_source),
    "kinds": {kind: of(by_kind[kind]) for kind in sorted(by_kind)},
  }


def train(name: str, args: argparse.Namespace) -> Path:
  workdir = Path(args.runs, "editors", name)
  if not finished(workdir):
    t2i(
      "train", f"--config=configs/scenes_instruct.py:{args.base}", f"--workdir={workdir}",
      f"--config.data.dir={Path(args.runs, 'sets', name)}", f"--config.train.steps={args.steps}",
      "--config.sampling.every=0", "--config.eval.every=100", "--config.checkpoint.every=100",
      "--config.checkpoint.keep=1",
      JAX_COMPILATION_CACHE_DIR=str(Path(args.runs, "compiled").resolve()),
    )  # fmt: skip
  return workdir


def cached(path: Path, make: Callable[[], Any]) -> Any:
  """A result as JSON, made where the file is missing."""
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(make(), indent=1) + "\n")
  return json.loads(path.read_text())


def editor(
  workdir: Path, text: float, image: float
) -> Callable[[np.ndarray, list[str], int], np.ndarray]:
  """How a trained editor edits at two scales, as score_edits takes it."""
  given = {"sampling.cfg": str(text), "sampling.guidance": f"dual(image_scale={image})"}
  model = open_model(workdir, given)
  return lambda images, texts, seed: model.edit(images, texts, range(seed, seed + len(images)))


def measured(workdir: Path, per_cell: int, text: float, image: float) -> dict[str, Any]:
  found = score_edits(
    editor(workdir, text, image), "easy", size=32, per_cell=per_cell, seed=SEED, kinds=KINDS
  )
  return found.to_json()


def pooled(score: Mapping[str, Any], what: str, **cells: Any) -> Rate:
  """A rate of the model over the cells with these values."""
  rates = [
    cell["model"][what]
    for cell in score["cells"]
    if all(cell[name] == value for name, value in cells.items())
  ]
  return Rate(sum(rate["successes"] for rate in rates), sum(rate["n"] for rate in rates))


def said(rate: Rate) -> str:
  return f"{rate.percent()} {rate.interval()}"


def sheet(args: argparse.Namespace) -> Any:
  """Of each set, pairs in two rows; below them edits of renders by its editor."""
  rows: list[list[np.ndarray]] = []
  for name in SETS[:-1]:
    records = [r for _, (_, r) in records_of(Path(args.runs, "sets", name))][:SHOWN]
    pairs = [[np.asarray(decode(image)) for image in record.images[:2]] for record in records]
    few = score_edits(
      editor(Path(args.runs, "editors", name), *args.scales), "easy",
      size=32, per_cell=1, seed=SEED, kinds=KINDS,
    )  # fmt: skip
    samples = [sample for cell in few.cells for sample in cell.samples][:SHOWN]
    for k, of_edit in ((0, "before"), (1, "after")):
      rows.append([pair[k] for pair in pairs] + [getattr(sample, of_edit) for sample in samples])
  return grid(rows, SCALE, block=SHOWN, band=2)


def page(found: Mapping[str, Any], args: argparse.Namespace) -> str:
  """The text of docs/instruct_data.md."""
  about, scores = found["sets"], found["scores"]
  rate = lambda one: said(Rate(one["successes"], one["n"]))
  first = [
    [name, about[name]["pairs"], rate(about[name]["correct"]), rate(about[name]["of_source"]),
     *(said(pooled(scores[name], what)) for what in ("done", "kept", "correct")),
     *(said(pooled(scores[name], "correct", heldout=held)) for held in (False, True))]
    for name in SETS
  ]  # fmt: skip
  kinds = [
    [name, *(rate(about[name]["kinds"][kind]) if kind in about[name]["kinds"] else "none"
             for kind in KINDS)]
    for name in SETS
  ]  # fmt: skip
  by_kind = [
    [name, *(said(pooled(scores[name], "correct", kind=kind)) for kind in KINDS)] for name in SETS
  ]
  lines = [
    "# Pairs that are right, and the editor trained on them",
    "",
    f"Made by `{COMMAND}`. The model of `{args.base}` draws pairs of the same edits of scenes;",
    f"`configs/scenes_instruct.py` starts from it and is trained for {args.steps} steps on each",
    "set. Percent, with 95% intervals. A pair is right where the first image is its caption and",
    "the second one the edit of it, by the exact judge. Edits are of renders that no set has.",
    "",
    table(
      [
        "set",
        "pairs",
        "right",
        "right of right first images",
        "done",
        "kept",
        "correct",
        "seen",
        "held out",
      ],
      first,
    ),
    "",
    "The second figure of `p2p` is what Prompt-to-Prompt itself does, on images that it draws.",
    "",
    "## Pairs that are right, by kind",
    "",
    "The classifier sees a set of words: a swap has no direction for it, and it passes none.",
    "",
    table(["set", *KINDS], kinds),
    "",
    "## Edits that are correct, by kind",
    "",
    table(["set", *KINDS], by_kind),
    "",
    "## Two scales of guidance",
    "",
    "Done / kept / correct of the editor of a set; rows: scale of the text, columns: of the image.",
    "",
  ]
  for name in GRIDS:
    grid_rows = [
      [f"{text:g}", *(" / ".join(pooled(found["grids"][name][f"{text:g}_{image:g}"], what).percent()
                                 for what in ("done", "kept", "correct"))
                      for image in IMAGE_SCALES)]
      for text in TEXT_SCALES
    ]  # fmt: skip
    lines += [f"`{name}`", "", table(["text", *(f"{s:g}" for s in IMAGE_SCALES)], grid_rows), ""]
  lines += [
    "![pairs and edits](instruct_data.png)",
    "",
    f"Left: pairs of {', '.join(SETS[:-1])}, two rows each, before above after; right: edits of",
    "exact renders by the editor of that set. The first ones, not chosen.",
  ]
  return "\n".join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    "--base",
    default="runs/scenes_planted",
    help="a trained configs/scenes_planted.py or scenes_dit_flow.py",
  )
  parser.add_argument("--runs", default="runs/instruct")
  parser.add_argument("--to", default="docs")
  parser.add_argument("--pairs", type=int, default=2000, help="of a set, at most")
  parser.add_argument("--drawn", type=int, default=5000, help="of p2p, before they are chosen")
  parser.add_argument("--steps", type=int, default=500, help="of each editor")
  parser.add_argument("--classifier-steps", type=int, default=400)
  parser.add_argument("--cfg", type=float, default=2.5, help="with which pairs are drawn")
  parser.add_argument("--scales", type=float, nargs=2, default=(2.0, 1.5), help="text, image")
  parser.add_argument("--per-cell", type=int, default=60, help="edits a kind and split")
  parser.add_argument("--grid-per-cell", type=int, default=20)
  args = parser.parse_args()
  root, out = Path(args.runs), Path(args.to)
  draw(args)
  found: dict[str, Any] = {
    "sets": cached(root / "sets.json", lambda: choose(args)), "scores": {}, "grids": {}
  }  # fmt: skip
  for name in SETS:
    workdir = train(name, args)
    how = (workdir, args.per_cell, *args.scales)
    found["scores"][name] = cached(root / f"score_{name}.json", lambda how=how: measured(*how))
    print(name, said(pooled(found["scores"][name], "correct")), flush=True)
  for name in GRIDS:
    found["grids"][name] = {}
    for text, image in ((t, i) for t in TEXT_SCALES for i in IMAGE_SCALES):
      how = (root / "editors" / name, args.grid_per_cell, text, image)
      key = f"{text:g}_{image:g}"
      path = root / f"grid_{name}_{key}.json"
      found["grids"][name][key] = cached(path, lambda how=how: measured(*how))
  sheet(args).save(out / "instruct_data.png")
  configs = [root / "editors" / name / "config.json" for name in SETS]
  write(out / "instruct_data.md", page(found, args), run_of(COMMAND, *configs))
  print(out / "instruct_data.md")


if __name__ == "__main__":
  main()
