"""Scores images of scenes against their captions, beside two baselines.

A cell is one category of a level, on compositions seen in training or held out from it. Each cell
has three rates: the model's images judged against their captions; the same images against the
captions of other scenes of the cell (chance level); and exact renders of the scenes (the judge's
maximum).
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from rich.table import Table

from t2i_jax.data.scenes import Fact, Scene, prompts, render
from t2i_jax.data.scenes.vocabulary import INVERSE, find_level
from t2i_jax.errors import ConfigError
from t2i_jax.evaluation.chart import Series, line_chart
from t2i_jax.evaluation.judge import Verdict, judge
from t2i_jax.evaluation.phrases import fact_phrase, object_phrase
from t2i_jax.evaluation.stats import CONFIDENCE, Rate

Draw = Callable[[list[str], int], np.ndarray]
KEPT = 12  # images per cell for the report: the first ones, not selected


@dataclass(frozen=True)
class Sample:
  """One judged image: its caption, its pixels, and the judge's result."""

  category: str
  heldout: bool
  caption: str
  image: np.ndarray  # uint8 [H, W, 3]
  correct: bool
  failed: tuple[str, ...]  # the facts of the caption that do not hold, as text
  seen: tuple[str, ...]  # the detected objects, as text

  def to_json(self) -> dict[str, Any]:
    """Everything but the pixels."""
    return {
      "caption": self.caption,
      "correct": self.correct,
      "failed": list(self.failed),
      "seen": list(self.seen),
    }


@dataclass(frozen=True)
class Cell:
  """The rates of one category on one kind of compositions."""

  category: str
  heldout: bool
  model: Rate
  shuffled: Rate
  ceiling: Rate
  details: dict[str, Rate]  # the model's rate by attribute
  samples: tuple[Sample, ...]

  def to_json(self) -> dict[str, Any]:
    return {
      "category": self.category,
      "heldout": self.heldout,
      "model": self.model.to_json(),
      "shuffled": self.shuffled.to_json(),
      "ceiling": self.ceiling.to_json(),
      "details": {name: rate.to_json() for name, rate in self.details.items()},
      "samples": [sample.to_json() for sample in self.samples],
    }


class AnyCell(Protocol):
  """The common interface of cells."""

  @property
  def heldout(self) -> bool: ...
  @property
  def samples(self) -> tuple[Any, ...]: ...
  def to_json(self) -> dict[str, Any]: ...


def compositions(heldout: bool) -> str:
  """Their name in tables."""
  return "held-out" if heldout else "seen"


C = TypeVar("C", bound=AnyCell)


@dataclass(frozen=True)
class Cells(Generic[C]):
  """All cells of a level, seen and held-out compositions of a name next to each other.

  NAME  the field of a cell that says what it scores: a category, a kind of edit
  """

  level: str
  size: int
  seed: int
  cells: tuple[C, ...]

  NAME: ClassVar[str]

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys(getattr(cell, self.NAME) for cell in self.cells))

  @property
  def samples(self) -> tuple[Any, ...]:
    """The samples of all cells."""
    return tuple(sample for cell in self.cells for sample in cell.samples)

  def cell(self, name: str, heldout: bool) -> C:
    """The cell of that name and compositions. Raises KeyError where it was not scored."""
    for cell in self.cells:
      if (getattr(cell, self.NAME), cell.heldout) == (name, heldout):
        return cell
    raise KeyError((name, heldout))

  def to_json(self) -> dict[str, Any]:
    """level, size (pixels), seed, confidence (of all intervals), and cells: a list."""
    return {
      "level": self.level,
      "size": self.size,
      "seed": self.seed,
      "confidence": CONFIDENCE,
      "cells": [cell.to_json() for cell in self.cells],
    }


class Score(Cells[Cell]):
  """Images of a level; as score.json, each of its cells is

  category, heldout         which cell
  model, shuffled, ceiling  {successes, n, rate, lower, upper}; rate is null when n is 0
  details                   {attribute: the same five}, of the model's images
  samples                   [{caption, correct, failed: [words], seen: [words]}]
  """

  NAME = "category"

  @property
  def categories(self) -> tuple[str, ...]:
    return self.names

  def pooled(self, category: str) -> Rate:
    """The model's rate on seen and held-out compositions together."""
    both = [self.cell(category, heldout).model for heldout in (False, True)]
    return Rate(sum(rate.successes for rate in both), sum(rate.n for rate in both))

  def table(self) -> Table:
    """The score as a console table: rate and 95% interval, one row per category."""
    n = max(cell.model.n for cell in self.cells)
    table = Table(
      title=f"Correct images, level {self.level}, {self.size} px, n = {n} a cell, 95% intervals"
    )
    table.add_column("category")
    for name in ("seen", "held-out", "shuffled", "ceiling"):
      table.add_column(name, justify="right")
    for category in self.categories:
      seen, heldout = self.cell(category, False), self.cell(category, True)
      table.add_row(
        category,
        _cell_text(seen.model),
        _cell_text(heldout.model),
        f"{seen.shuffled.percent()}, {heldout.shuffled.percent()}",
        f"{seen.ceiling.percent()}, {heldout.ceiling.percent()}",
        end_section=not seen.details,
      )
      for at, name in enumerate(seen.details, 1):
        table.add_row(
          f"  {name}",
          _cell_text(seen.details[name]),
          _cell_text(heldout.details[name]),
          style="dim",
          end_section=at == len(seen.details),
        )
    return table


def score(
  draw: Draw,
  level: str,
  *,
  size: int,
  per_cell: int = 250,
  seed: int = 0,
  categories: Sequence[str] | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> Score:
  """Scores samples for the prompts of every cell of a level, and both baselines.

  draw        (captions, seed) -> uint8 [n, size, size, 3], in the order of the captions
  size        pixels, at least the level's floor
  per_cell    prompts per cell
  categories  those to score; by default all of the level
  progress    called with (images judged, images to judge)
  Raises ConfigError for a level, category or size that cannot be scored, and ValueError for
  another shape or dtype from `draw`.
  """
  chosen = _chosen(level, size, per_cell, categories)
  groups = {
    (category, heldout): prompts(level, category, heldout, per_cell, seed)
    for category in chosen
    for heldout in (False, True)
  }
  captions = [scene.caption for scenes in groups.values() for scene in scenes]
  images = np.asarray(draw(captions, seed))  # [n, size, size, 3]
  expected = (len(captions), size, size, 3)
  if images.shape != expected or images.dtype != np.uint8:
    raise ValueError(f"draw returned {images.dtype} {images.shape} instead of uint8 {expected}")
  rng = np.random.default_rng(seed)
  cells, start = [], 0
  for (category, heldout), scenes in groups.items():
    mine = images[start : start + len(scenes)]
    cells.append(_cell(category, heldout, scenes, mine, rng))
    start += len(scenes)
    if progress is not None:
      progress(start, len(captions))
  return Score(level, size, seed, tuple(cells))


def score_curve(points: Sequence[tuple[float, Score]], heldout: bool = False) -> str:
  """Score against minutes of training, one line per category with its 95% band, as SVG.

  points   (minutes, score) of one run at several times, in any order
  heldout  held-out compositions instead of the seen ones
  """
  ordered = sorted(points, key=lambda point: point[0])
  minutes = [at for at, _ in ordered]
  lines = []
  for category in ordered[-1][1].categories:
    rates = [score.cell(category, heldout).model for _, score in ordered]
    lines.append(
      Series(
        category,
        minutes,
        [rate.rate for rate in rates],
        [rate.lower for rate in rates],
        [rate.upper for rate in rates],
      )
    )
  return line_chart(
    lines,
    title=f"Correct images, {'held-out' if heldout else 'seen'} compositions",
    x_label="minutes of training",
    y_label="correct",
    percent=True,
    y_limits=(0.0, 1.0),
  )


def derange(keys: Sequence[Hashable], rng: np.random.Generator) -> np.ndarray:
  """A random permutation in which no item has the key of its index.

  Items are sorted into groups of equal keys, groups and members in random order, and rotated by the
  size of the largest group: no group then overlaps itself, unless one key has more than half of the
  items; the rest of these keep their key.

  Returns int [n]: index i has item result[i].
  """
  order = rng.permutation(len(keys))
  groups: dict[Hashable, list[int]] = {}
  for i in order:
    groups.setdefault(keys[i], []).append(int(i))
  line = np.array([i for members in groups.values() for i in members], int)
  result = np.empty(len(keys), int)
  if len(line):
    result[line] = np.roll(line, -max(len(members) for members in groups.values()))
  return result


def _key(scene: Scene) -> Hashable:
  """A key that is equal for equivalent captions: "a above b" is "b below a"."""

  def canonical(fact: Fact) -> Fact:
    inverse = INVERSE.get(fact.rel or "")
    if inverse is None or inverse > (fact.rel or ""):
      return fact
    return replace(fact, a=fact.b, rel=inverse, b=fact.a)

  return frozenset(canonical(fact) for fact in scene.facts)


def _chosen(
  level: str, size: int, per_cell: int, categories: Sequence[str] | None
) -> tuple[str, ...]:
  known = find_level(level)
  if size < known.floor:
    raise ConfigError(
      f"images of {size} px are below {known.floor} px, the minimum of level {level!r} for the "
      f"judge. Score a level with a lower minimum, or sample at {known.floor} px or more."
    )
  if per_cell < 1:
    raise ConfigError(f"per_cell = {per_cell} prompts: must be at least 1; use 250 or more.")
  unknown = [name for name in categories or () if name not in known.categories]
  if unknown:
    raise ConfigError(
      f"level {level!r} has no category {unknown[0]!r}; it has {', '.join(known.categories)}."
    )
  return tuple(name for name in known.categories if categories is None or name in categories)


def _cell(
  category: str,
  heldout: bool,
  scenes: Sequence[Scene],
  images: np.ndarray,
  rng: np.random.Generator,
) -> Cell:
  verdicts = [judge(p, s.facts) for p, s in zip(images, scenes, strict=True)]
  keys = [_key(scene) for scene in scenes]
  others = derange(keys, rng)
  swapped = [
    judge(images[i], scenes[j].facts).correct
    for i, j in enumerate(others)
    if keys[i] != keys[j]  # where all scenes of the cell are equivalent, there is no other caption
  ]
  exact = [judge(render(s, images.shape[1]), s.facts).correct for s in scenes]
  sizes = find_level(scenes[0].level).sizes  # without named sizes, detected ones mean nothing
  samples = tuple(
    Sample(
      category=category,
      heldout=heldout,
      caption=scene.caption,
      image=image,
      correct=verdict.correct,
      failed=tuple(fact_phrase(fact) for fact in verdict.failed),
      seen=tuple(object_phrase(o, sizes) for o in verdict.seen),
    )
    for scene, image, verdict in zip(scenes[:KEPT], images, verdicts, strict=False)
  )
  return Cell(
    category=category,
    heldout=heldout,
    model=Rate.of(verdict.correct for verdict in verdicts),
    shuffled=Rate.of(swapped),
    ceiling=Rate.of(exact),
    details=_details(category, scenes, verdicts),
    samples=samples,
  )


def _details(
  category: str, scenes: Sequence[Scene], verdicts: Sequence[Verdict]
) -> dict[str, Rate]:
  pairs = list(zip(scenes, verdicts, strict=True))
  if category == "single":
    return {
      f"{word} right": Rate.of(
        len(v.seen) == 1 and getattr(v.seen[0], name) == getattr(s.objects[0], name)
        for s, v in pairs
      )
      for word, name in (("shape", "shape"), ("colour", "color"))
    }
  if category in ("relation", "surrounding"):
    right = [_objects_right(s.facts, v) for s, v in pairs]
    return {
      "objects right": Rate.of(right),
      "relation right where objects are": Rate.of(
        v.correct for (_, v), objects in zip(pairs, right, strict=True) if objects
      ),
    }
  return {}


def _objects_right(facts: Sequence[Fact], verdict: Verdict) -> bool:
  """Whether all facts of a caption hold except its relation."""
  named = [spec for f in facts if f.kind == "relation" for spec in (f.a, f.b) if spec is not None]
  return all(f.kind == "relation" for f in verdict.failed) and all(
    any(spec.fits(o) for o in verdict.seen) for spec in named
  )


def _cell_text(rate: Rate) -> str:
  return f"{rate.percent()} {rate.interval()}" if rate.n else "none"
