"""The joint model on two images and an instruction, judged: docs/editing_references.md and .png.

python -m benchmarks.editing_references [--runs=runs/references] [--steps=1550] [--per-cell=250]

A row's first image is a scene, its second one has a single object, and the instruction puts that in
the place of an object of the first: what is drawn can be known from the second image alone. Colours
and shapes that are held out are so in the second image. Beside the model: the same with the second
images of other objects, the unchanged image, and exact renders. Builds the data, trains
configs/transfusion_scenes.py on them as a user would, and writes the page. Started again, it goes
on from where it stopped. About 25 minutes of CPU time.
"""

import argparse
import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.few_step import finished
from benchmarks.instruct import cached
from benchmarks.pages import run_of, table, write
from benchmarks.quickstart import t2i
from t2i_jax.data.build import build
from t2i_jax.data.from_scenes import Scenes
from t2i_jax.data.record import Record
from t2i_jax.data.scenes import Edit, Fact, Scene, Spec, Turn, Wanted, make_scene, prompts, render
from t2i_jax.data.scenes.edit_plans import fits
from t2i_jax.data.scenes.heldout import heldout_in_objects
from t2i_jax.data.scenes.vocabulary import find_level
from t2i_jax.data.sheet import grid
from t2i_jax.data.source import MANIFEST
from t2i_jax.evaluation.edit_judge import EditRates, judge_edit
from t2i_jax.evaluation.stats import Rate
from t2i_jax.inference import open_model
from t2i_jax.systems.generate import AND

CONFIG = "configs/transfusion_scenes.py"
LEVEL, SIZE, SEED = "easy", 32, 30_000
COUNT, VAL = 50_000, 200
TRIES = 1000
SHOWN = 8  # transfers of either kind in the sheet
PAGE = "editing_references"


@dataclasses.dataclass(frozen=True)
class Transfer:
  """turn: the scene before and after;   other: the scene of the second image"""

  turn: Turn
  other: Scene


def transfer(rng: random.Random, before: Scene, other: Scene) -> Transfer | None:
  """The other scene's object in the place of one of these, or None where it has no space."""
  (subject,) = other.objects
  old = rng.choice(before.objects)
  new = dataclasses.replace(old, color=subject.color, shape=subject.shape)
  kept = tuple(o for o in before.objects if o != old)
  looks, old_looks = Spec(new.color, new.shape), Spec(old.color, old.shape)
  taken = {(o.color, o.shape) for o in before.objects}
  level, held = find_level(LEVEL), heldout_in_objects(other.objects)
  if (new.color, new.shape) in taken or not fits((*kept, new), level):
    return None
  if not held and heldout_in_objects((*kept, new)):
    return None
  edit = Edit(
    "transfer",
    f"put it in the place of the {old.color} {old.shape}",
    (Fact("exists", looks), Fact("absent", old_looks), Fact("total", n=len(before.objects))),
    (old,),
    kept,
    (Wanted(looks, new.x, new.y, new.r),),
    held,
  )
  after = dataclasses.replace(before, objects=(*kept, new))
  return Transfer(Turn(before, edit, after), other)


def transfer_at(index: int, split: str, seed: int = 0) -> Transfer:
  """The transfer of an index of a split of the data."""
  rng = random.Random(f"transfer/{seed}/{split}/{index}")
  for _ in range(TRIES):
    before, other = (make_scene(rng.randrange(2**40), LEVEL, split, seed) for _ in range(2))
    if len(other.objects) == 1:
      found = transfer(rng, before, other)
      if found is not None:
        return found
  raise AssertionError(f"no transfer of index {index} in {TRIES} draws")


def transfers(heldout: bool, count: int, seed: int = SEED) -> list[Transfer]:
  """Those that are scored, whose second image has a held-out composition or not."""
  rng = random.Random(f"transfers/{seed}/{heldout}")
  # Of single objects there are few captions: the same scenes come again at other places.
  others = prompts(LEVEL, "single", heldout, count, seed)
  before = [scene for kind in ("single", "binding") for scene in prompts(LEVEL, kind, False, count)]
  found: list[Transfer] = []
  while len(found) < count:
    one = transfer(rng, rng.choice(before), rng.choice(others))
    found += [] if one is None else [one]
  return found


@dataclasses.dataclass(frozen=True)
class Transfers(Scenes):
  """Records of three images: the scene, the other one after "and", and the edited scene."""

  def _record(self, split: str, index: int) -> Record:
    one = transfer_at(index, split, self.seed)
    turn = one.turn
    then = ((AND, self._image(one.other)), (turn.edit.instruction, self._image(turn.after)))
    meta = {"kind": turn.edit.kind, "heldout": turn.edit.heldout}
    return Record(
      self._image(turn.before), turn.before.captions, self._key(split, index), meta, then
    )


def others(rows: Sequence[Transfer]) -> list[int]:
  """Of each row, the next one whose second image has another object."""
  looks = [(r.other.objects[0].color, r.other.objects[0].shape) for r in rows]
  after = lambda i: (j % len(rows) for j in range(i + 1, i + len(rows)))
  return [next(j for j in after(i) if looks[j] != looks[i]) for i in range(len(rows))]


def scored(model: Any, rows: Sequence[Transfer], seed: int = SEED) -> dict[str, EditRates]:
  """Of transfers: the model, the model with images of other objects, both baselines."""
  size = model.config.data.image_size[0]
  images = lambda scenes: np.stack([render(scene, size) for scene in scenes])
  before, after = images(r.turn.before for r in rows), images(r.turn.after for r in rows)
  other = images(r.other for r in rows)
  texts, seeds = [r.turn.edit.instruction for r in rows], range(seed, seed + len(rows))
  edit = lambda second: model.edit(before, texts, list(seeds), [second])
  rates = lambda found: EditRates.of(
    [judge_edit(b, a, r.turn.edit) for b, a, r in zip(before, found, rows, strict=True)]
  )
  return {
    "model": rates(edit(other)),
    "another object's image": rates(edit(other[others(rows)])),
    "unchanged": rates(before),
    "exact": rates(after),
  }


def report(found: dict[bool, dict[str, EditRates]]) -> str:
  shown = lambda rate: f"{rate.percent()} {rate.interval()}"
  return table(
    ["second image", "", "correct", "done", "kept"],
    [
      ["held out" if held else "seen", name, *map(shown, (r.correct, r.done, r.kept))]
      for held, of in found.items()
      for name, r in of.items()
    ],
  )


def from_json(found: dict[str, Any]) -> EditRates:
  rates = (found[name] for name in ("done", "kept", "correct"))
  return EditRates(*(Rate(one["successes"], one["n"]) for one in rates))


def sheet(model: Any) -> Any:
  """Rows: the scene, the second image, the truth, and what the model draws."""
  rows = [one for held in (False, True) for one in transfers(held, SHOWN)]
  size = model.config.data.image_size[0]
  images = lambda scenes: [render(scene, size) for scene in scenes]
  before, others = images(r.turn.before for r in rows), images(r.other for r in rows)
  texts = [row.turn.edit.instruction for row in rows]
  drawn = model.edit(np.stack(before), texts, list(range(len(rows))), [np.stack(others)])
  truth = images(row.turn.after for row in rows)
  return grid([before, others, truth, list(drawn)], 2, block=SHOWN)


def page(found: dict[bool, dict[str, EditRates]], args: argparse.Namespace, command: str) -> str:
  return "\n".join([
    "# Two images and an instruction",
    "",
    "Made by",
    "",
    f"    {command}",
    "",
    f"The joint model of [native](native.md), `{CONFIG}`, trained for {args.steps} steps on",
    f"{args.count:,} documents of three images: a scene, \"and\", another scene with one object,",
    '"put it in the place of the red circle", and the scene with that object there. Nothing in the',
    "text says what it is: colour and shape can be known from the second image alone. Held out:",
    "its colour and shape are together in no image that was trained on. The exact judge of edits:",
    "the new object has to be at the place of the old one, and all else as it was.",
    "",
    report(found),
    "",
    "Another object's image: the same rows with second images of other objects, judged by the",
    "first ones: what is done without reading it. Percentages have 95% Wilson intervals; there is",
    "one training run.",
    "",
    f"![Scenes, second images, the truth, and what is drawn]({PAGE}.png)",
    "",
    f"Rows: the scene, the second image, the exact edit, what the model draws. Left {SHOWN} seen,",
    f"right {SHOWN} held out, the first ones. The same with a published model: [edit](edit.md).",
  ])  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--runs", default="runs/references")
  parser.add_argument("--count", type=int, default=COUNT)
  parser.add_argument("--steps", type=int, default=1550)
  parser.add_argument("--per-cell", type=int, default=250)
  parser.add_argument("--to", default="docs", help="folder of the page")
  args = parser.parse_args()
  runs, to = Path(args.runs), Path(args.to)
  data, workdir = runs / "data", runs / "model"
  if not (data / MANIFEST).exists():
    source: Any = Transfers(LEVEL, SIZE, args.count, VAL, VAL)
    build(source, data, vocab=512)
  if not finished(workdir):
    # Half of the records' documents end with the second image, and train drawing like captions do.
    t2i("train", f"--config={CONFIG}", f"--workdir={workdir}", f"--config.data.dir={data}",
        f"--config.train.steps={args.steps}", "--config.rows.edited=0.66",
        "--config.rows.image_first=0.06")  # fmt: skip
  model = open_model(workdir)

  def measured(held: bool) -> dict[str, Any]:
    rates = scored(model, transfers(held, args.per_cell))
    return {name: one.to_json() for name, one in rates.items()}

  found = {}
  for held in (False, True):
    path = runs / f"score_{'heldout' if held else 'seen'}_{args.per_cell}.json"
    saved = cached(path, lambda held=held: measured(held))
    found[held] = {name: from_json(one) for name, one in saved.items()}
  sheet(model).save(to / f"{PAGE}.png")
  given = f"--runs={runs} --count={args.count} --steps={args.steps} --per-cell={args.per_cell}"
  command = f"python -m benchmarks.editing_references {given}"
  write(to / f"{PAGE}.md", page(found, args, command), run_of(command, workdir / "config.json"))
  print(to / f"{PAGE}.md")


if __name__ == "__main__":
  main()
