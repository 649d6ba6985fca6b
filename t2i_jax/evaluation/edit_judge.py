"""Judges edits of scenes in pixels, and scores a model beside two baselines.

An edit is "done" when its facts hold and each changed object is at its position. It is "kept" when
nothing else changed: every other object is unchanged, and no object was added or removed beyond the
instruction. Positions are compared with those of the true scene.

A cell is one kind of edit of a level, on compositions seen in training or held out from it. The
baselines are the unchanged image and exact renders of the edited scene (the judge's maximum).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any

import numpy as np
from rich.table import Table

from t2i_jax.data.scenes import (
  Edit,
  Fact,
  Object,
  Spec,
  Turn,
  Wanted,
  edit_kinds,
  edit_prompts,
  holds,
  render,
)
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.evaluation.judge import read
from t2i_jax.evaluation.phrases import fact_phrase
from t2i_jax.evaluation.score import KEPT, Cells, compositions
from t2i_jax.evaluation.stats import Rate

EditDraw = Callable[[np.ndarray, list[str], int], np.ndarray]

# In sides. For 1,860 objects on exact renders at 32 px the judge's largest error was 0.0025 (0.08
# px) of the centre and 0.0012 of the radius; with blur 1.0 and noise 8, or 0.6 and 12, 0.0045 and
# 0.0058.
POSITION_TOLERANCE = 0.05  # 1.6 px at 32: a model may be off by a pixel in x and y
RADIUS_TOLERANCE = 0.02  # less than the distance between named sizes


@dataclass(frozen=True)
class EditVerdict:
  """done: the instruction was followed; kept: all else is unchanged; failed: the reasons."""

  done: bool
  kept: bool
  failed: tuple[str, ...]
  seen: tuple[Object, ...]

  @property
  def correct(self) -> bool:
    return self.done and self.kept


def judge_edit(before: np.ndarray, after: np.ndarray, edit: Edit) -> EditVerdict:
  """Whether an image is the correct result of an edit.

  before, after  uint8 [H, W, 3]: the image and the edited image
  Raises DataError where their sizes differ.
  """
  if before.shape != after.shape:
    raise DataError(
      f"the edited image is {list(after.shape)}, the one before {list(before.shape)}. "
      "Use images of one size."
    )
  seen = read(after)
  undone = _undone(edit, seen)
  lost = _lost(edit, seen, done=not undone)
  return EditVerdict(not undone, not lost, (*undone, *lost), seen)


def _undone(edit: Edit, seen: Sequence[Object]) -> list[str]:
  """Required facts and objects that are missing, as text."""
  failed = [fact_phrase(f) for f in edit.facts if f.kind != "total" and not holds(f, seen)]
  for wanted in edit.changed:
    phrase = fact_phrase(Fact("exists", wanted.spec))
    if phrase not in failed and not _found(wanted, seen):
      failed.append(f"{phrase} in its place")
  return failed


def _lost(edit: Edit, seen: Sequence[Object], done: bool) -> list[str]:
  """Objects that should be unchanged and are not, as text.

  The number of objects must be that after the edit; where the edit was not done, that before it is
  accepted, too.
  """
  failed = []
  for o in edit.kept:
    spec = Spec(o.color, o.shape)
    if not _found(Wanted(spec, o.x, o.y, o.r), seen):
      failed.append(f"{fact_phrase(Fact('exists', spec))} as it was")
  groups = (edit.changed,) if done else (edit.touched, edit.changed)
  numbers = sorted({len(edit.kept) + len(group) for group in groups})
  if len(seen) not in numbers:
    failed.append(" or ".join(fact_phrase(Fact("total", n=n)) for n in numbers))
  return failed


def _found(wanted: Wanted, seen: Sequence[Object]) -> bool:
  return any(wanted.spec.fits(o) and _in_place(wanted, o) for o in seen)


def _in_place(wanted: Wanted, o: Object) -> bool:
  """Whether an object has the wanted position and radius, where these are given."""
  x = o.x if wanted.x is None else wanted.x
  y = o.y if wanted.y is None else wanted.y
  r = o.r if wanted.r is None else wanted.r
  return hypot(o.x - x, o.y - y) <= POSITION_TOLERANCE and abs(o.r - r) <= RADIUS_TOLERANCE


@dataclass(frozen=True)
class EditRates:
  """Rates of edits that were done, that kept all else unchanged, and both."""

  done: Rate
  kept: Rate
  correct: Rate

  @classmethod
  def of(cls, verdicts: Sequence[EditVerdict]) -> "EditRates":
    names = ("done", "kept", "correct")
    return cls(*(Rate.of(getattr(v, name) for v in verdicts) for name in names))

  def to_json(self) -> dict[str, Any]:
    return {
      "done": self.done.to_json(),
      "kept": self.kept.to_json(),
      "correct": self.correct.to_json(),
    }


@dataclass(frozen=True)
class EditSample:
  """One judged edit: images uint8 [H, W, 3] before, after, and of the true scene."""

  kind: str
  heldout: bool
  instruction: str
  before: np.ndarray
  after: np.ndarray
  truth: np.ndarray
  verdict: EditVerdict

  def to_json(self) -> dict[str, Any]:
    """Everything but the pixels."""
    return {
      "instruction": self.instruction,
      "done": self.verdict.done,
      "kept": self.verdict.kept,
      "failed": list(self.verdict.failed),
    }


@dataclass(frozen=True)
class EditCell:
  """The rates of one kind of edit on one kind of compositions."""

  kind: str
  heldout: bool
  model: EditRates
  unchanged: EditRates
  ceiling: EditRates
  samples: tuple[EditSample, ...]

  def to_json(self) -> dict[str, Any]:
    return {
      "kind": self.kind,
      "heldout": self.heldout,
      "model": self.model.to_json(),
      "unchanged": self.unchanged.to_json(),
      "ceiling": self.ceiling.to_json(),
      "samples": [sample.to_json() for sample in self.samples],
    }


class EditScore(Cells[EditCell]):
  """Edits of a level; as JSON, each of its cells is

  kind, heldout              which cell
  model, unchanged, ceiling  {done, kept, correct}, each {successes, n, rate, lower, upper}
  samples                    [{instruction, done, kept, failed: [words]}]
  """

  NAME = "kind"

  def table(self) -> Table:
    """The score as a console table, one row per cell."""
    n = max(cell.model.correct.n for cell in self.cells)
    table = Table(
      title=f"Correct edits, level {self.level}, {self.size} px, n = {n} a cell, 95% intervals"
    )
    table.add_column("kind")
    table.add_column("compositions")
    for name in ("correct", "done", "kept", "unchanged: correct, kept", "ceiling"):
      table.add_column(name, justify="right")
    for cell in self.cells:
      correct, unchanged = cell.model.correct, cell.unchanged
      table.add_row(
        "" if cell.heldout else cell.kind,
        compositions(cell.heldout),
        f"{correct.percent()} {correct.interval()}",
        cell.model.done.percent(),
        cell.model.kept.percent(),
        f"{unchanged.correct.percent()}, {unchanged.kept.percent()}",
        cell.ceiling.correct.percent(),
        end_section=cell.heldout,
      )
    return table


def score_edits(
  draw: EditDraw,
  level: str,
  *,
  size: int,
  per_cell: int = 250,
  seed: int = 0,
  kinds: Sequence[str] | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> EditScore:
  """Scores edits of every cell of a level, all in one call of `draw`, and both baselines.

  draw      (images uint8 [n, size, size, 3], instructions, seed) -> uint8 [n, size, size, 3]
  size      pixels, at least the level's floor
  per_cell  edits per cell
  kinds     those to score; by default all of the level
  progress  called with (images judged, images to judge)
  Raises ConfigError for a level, kind or size that cannot be scored, and ValueError for another
  shape or dtype from `draw`.
  """
  if per_cell < 1:
    raise ConfigError(f"per_cell = {per_cell} edits: must be at least 1; use 250 or more.")
  groups = {
    (kind, heldout): edit_prompts(level, kind, heldout, per_cell, seed)
    for kind in kinds or edit_kinds(level)
    for heldout in (False, True)
  }
  turns = [turn for group in groups.values() for turn in group]
  before = np.stack([render(turn.before, size) for turn in turns])
  after = np.asarray(draw(before.copy(), [turn.edit.instruction for turn in turns], seed))
  if after.shape != before.shape or after.dtype != np.uint8:
    raise ValueError(f"draw returned {after.dtype} {after.shape} instead of uint8 {before.shape}")
  cells, start = [], 0
  for (kind, heldout), group in groups.items():
    mine = slice(start, start + len(group))
    cells.append(_cell(kind, heldout, group, before[mine], after[mine]))
    start = mine.stop
    if progress is not None:
      progress(start, len(turns))
  return EditScore(level, size, seed, tuple(cells))


def _cell(
  kind: str, heldout: bool, turns: Sequence[Turn], before: np.ndarray, after: np.ndarray
) -> EditCell:
  truth = [render(turn.after, before.shape[1]) for turn in turns]
  edits = [turn.edit for turn in turns]

  def verdicts(images: Iterable[np.ndarray]) -> list[EditVerdict]:
    return list(map(judge_edit, before, images, edits))

  model = verdicts(after)
  rows = zip(edits[:KEPT], before, after, truth, model, strict=False)
  samples = tuple(EditSample(kind, heldout, e.instruction, *row) for e, *row in rows)
  return EditCell(
    kind,
    heldout,
    EditRates.of(model),
    EditRates.of(verdicts(before)),
    EditRates.of(verdicts(truth)),
    samples,
  )
