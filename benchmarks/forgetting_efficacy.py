"""Erasing: what is drawn for a concept after it, and what else has changed.

Cells RUNS/efficacy/cells/METHOD_CONCEPT_SEED.json, of all groups of prompts; those of the
development concepts, by rate, in RUNS/efficacy/dev. The params of the concept that is
attacked are kept in RUNS/models.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import jax

from benchmarks.forgetting_methods import CHUNK, METHOD_OF, STEPS, Eraser, Run
from benchmarks.forgetting_world import (
  COUNTS,
  DEV_COUNTS,
  DEVELOPMENT,
  IN_TWIN,
  KINDS,
  REPORTED,
  Concept,
  groups_of,
  renamed,
)
from benchmarks.personalisation_bench import Base, judged
from benchmarks.personalisation_world import Cell, load_cell
from benchmarks.recorded import save_params
from t2i_jax.evaluation.paired import Paired
from t2i_jax.evaluation.placement import cell_of, total_variation
from t2i_jax.evaluation.planted_judge import PlantedVerdict, judge_reading
from t2i_jax.evaluation.planted_reader import Reading
from t2i_jax.evaluation.stats import Rate

ATTACKED = REPORTED["instance"][0]
BASELINES = {
  "base": "base, untouched",
  "base_again": "base, other noise",
  "twin": "twin, trained without it",
  "rename": "rename the prompt",
}
NAMES = BASELINES | {name: method.title for name, method in METHOD_OF.items()}
OTHER_NOISE = 50_000  # added to the seeds of drawings


class Scale(NamedTuple):
  """How much is run.

  counts, dev_counts  drawings of a cell, by group
  steps, seeds        of the methods
  """

  counts: dict[str, int]
  dev_counts: dict[str, int]
  steps: int
  seeds: tuple[int, ...]


FULL = Scale(COUNTS, DEV_COUNTS, STEPS, (0,))
TINY = Scale(dict.fromkeys(COUNTS, 4), dict.fromkeys(DEV_COUNTS, 4), CHUNK, (0,))


class Efficacy:
  """The runs of erasure on a base."""

  def __init__(self, base: Base, runs: Path, scale: Scale, methods: Sequence[str]):
    self.base, self.runs, self.scale, self.methods = base, runs, scale, methods
    self.folder = runs / "efficacy"
    self.eraser = Eraser(base)

  def dev_path(self, name: str, concept: Concept, rate: float) -> Path:
    return self.folder / "dev" / f"{name}_{concept.kind}_{concept.key}_{rate:g}.json"

  def path(self, name: str, concept: Concept, seed: int) -> Path:
    return path_of(self.folder, name, concept, seed)

  def develop(self) -> None:
    """Drawings of the development concepts at all settings."""
    for name in self.methods:
      method = METHOD_OF[name]
      for concept in DEVELOPMENT.values():
        groups = groups_of(concept, self.scale.dev_counts)
        paths = [self.dev_path(name, concept, rate) for rate in method.rates]
        if all(path.is_file() for path in paths):
          continue
        for path, rate in zip(paths, method.rates, strict=True):
          found = self.eraser.learn(name, Run(concept, 0, rate), self.scale.steps)
          about = {"method": name, "concept": concept.key, "kind": concept.kind, "rate": rate}
          about |= {"seconds": found.seconds}
          self.base.cell(path, found.params[0], groups, about, may_diverge=True)
        self.base.read()
      self.eraser.release()
    self.base.read()

  def make(self) -> None:
    """Cells of all methods, at the chosen settings."""
    for name in self.methods:
      for kind in KINDS:
        for run in (Run(c, seed, 0) for c in REPORTED[kind] for seed in self.scale.seeds):
          if not self._there(name, run):
            self._erase(name, run._replace(rate=chosen(self.folder, name, kind).rate))
        self.base.read()
      self.eraser.release()

  def _erase(self, name: str, run: Run) -> None:
    found, concept = self.eraser.learn(name, run, self.scale.steps), run.concept
    (params,) = found.params
    print(f"{name}, {concept.concept}: {found.seconds:.1f} s", flush=True)
    about = {"method": name, "concept": concept.key, "kind": concept.kind, "seed": run.seed}
    about |= {"rate": run.rate, "seconds": found.seconds}
    if concept == ATTACKED and run.seed == 0:
      own = {part: params[part] for part in self.base.model.params}
      save_params(model_path(self.runs, name), jax.device_get(own))
    path, groups = self.path(name, concept, run.seed), groups_of(concept, self.scale.counts)
    self.base.cell(path, params, groups, about, may_diverge=True)

  def _there(self, name: str, run: Run) -> bool:
    attacked = run.concept == ATTACKED and run.seed == 0
    kept = not attacked or model_path(self.runs, name).is_file()
    return kept and self.path(name, run.concept, run.seed).is_file()

  def baselines(self) -> None:
    """Cells of the base, and of prompts in which the concept is renamed."""
    for concept in (concept for some in REPORTED.values() for concept in some):
      groups, params = groups_of(concept, self.scale.counts), self.base.model.params
      about = {"concept": concept.key, "kind": concept.kind, "seconds": 0.0}
      for name, asked, noise in (
        ("base", groups, 0),
        ("base_again", groups, OTHER_NOISE),
        ("rename", renamed(concept, groups), 0),
      ):
        path = self.path(name, concept, 0)
        if not path.is_file():
          self.base.cell(path, params, asked, about | {"method": name}, noise=noise)
    self.base.read()

  def twin(self, params: Any) -> None:
    """Cells of the twin; a composition is in it.   params: of the twin"""
    for concept in (c for kind, some in REPORTED.items() if kind not in IN_TWIN for c in some):
      path = self.path("twin", concept, 0)
      if not path.is_file():
        about = {"method": "twin", "concept": concept.key, "kind": concept.kind, "seconds": 0.0}
        self.base.cell(path, params, groups_of(concept, self.scale.counts), about)
    self.base.read()


def path_of(folder: Path, name: str, concept: Concept, seed: int) -> Path:
  return folder / "cells" / f"{name}_{concept.kind}_{concept.key}_{seed}.json"


def model_path(runs: Path, name: str) -> Path:
  return runs / "models" / f"{name}.npz"


# Measures.


class One(NamedTuple):
  """A cell, its concept, and the verdicts of its drawings on their own prompts, by group."""

  concept: Concept
  cell: Cell
  verdicts: dict[str, list[PlantedVerdict]]

  @classmethod
  def of(cls, concept: Concept, cell: Cell) -> "One":
    counts = {group: len(found) for group, found in cell.readings.items()}
    return cls(concept, cell, judged(cell, groups_of(concept, counts)))

  def drawn(self, group: str) -> list[bool]:
    """Whether each drawing of a group has the concept."""
    return [self.concept.drawn(seen) for seen in self.cell.readings[group]]

  def valid(self, group: str = "target") -> list[bool]:
    """Whether each drawing is what the anchor's prompt asks for, without the concept."""
    seen = self.cell.readings[group]
    scenes = groups_of(self.concept, {group: len(seen)})[group]
    pairs = zip(seen, map(self.concept.changed, scenes), strict=True)
    return [judge_reading(*pair).correct and not self.concept.drawn(pair[0]) for pair in pairs]

  def right(self, group: str) -> list[bool]:
    return [v.correct for v in self.verdicts[group]]


def score(one: One) -> float:
  """What settings are chosen by: the harmonic mean of what is erased and of what stays.

  Erased: the mean of the rates of drawings without the concept, and of those with its anchor in its
  place; stays: that of what is right for the anchor, neighbours and own prompts. A model in which
  nothing has changed has 0 where the concept was always drawn, as has one that draws nothing right.
  """
  erased = fmean([1 - fmean(one.drawn("target")), fmean(one.valid())])
  stays = fmean(fmean(one.right(group)) for group in ("anchor", "near", "own"))
  return 2 * erased * stays / (erased + stays) if erased + stays else 0.0


class Setting(NamedTuple):
  """A learning rate, or a ridge, on the development concept of a kind."""

  rate: float
  score: float
  one: One


def tried(folder: Path, name: str, kind: str) -> list[Setting]:
  """All that were run, by rate."""
  concept, found = DEVELOPMENT[kind], list[Setting]()
  for path in (folder / "dev").glob(f"{name}_{kind}_{concept.key}_*.json"):
    one = One.of(concept, load_cell(path))
    found.append(Setting(one.cell.about["rate"], score(one), one))
  return sorted(found, key=lambda each: each.rate)


def chosen(folder: Path, name: str, kind: str) -> Setting:
  """The best setting on the development concept of a kind. FileNotFoundError where none was run."""
  every = tried(folder, name, kind)
  if not every:
    raise FileNotFoundError(f"{folder / 'dev'}: {name} on {kind} was not run; --only=develop does.")
  return max(every, key=lambda one: one.score)


def best_of(folder: Path, method: str, kind: str) -> str:
  """The name, of those of a method of `t2i forget`, with the best score on a kind."""
  names = [name for name, one in METHOD_OF.items() if one.method == method]
  return max(names, key=lambda name: chosen(folder, name, kind).score)


class Results:
  """All cells of a folder of `Efficacy`."""

  def __init__(self, folder: Path):
    self.folder = folder
    self.cells: dict[tuple[str, str], list[One]] = defaultdict(list)
    for kind, concepts in REPORTED.items():
      for concept in concepts:
        for name in NAMES:
          pattern = path_of(folder, name, concept, 0).name.replace("_0.json", "_[0-9].json")
          for path in sorted((folder / "cells").glob(pattern)):
            self.cells[name, kind].append(One.of(concept, load_cell(path)))

  def of(self, name: str, kind: str) -> list[One]:
    return self.cells[name, kind]

  @cached_property
  def base(self) -> dict[tuple[str, str], One]:
    ones = [one for (name, _), some in self.cells.items() if name == "base" for one in some]
    return {(one.concept.kind, one.concept.key): one for one in ones}

  def base_of(self, one: One) -> One:
    return self.base[one.concept.kind, one.concept.key]

  def drift(self, ones: Sequence[One], group: str = "own") -> Paired:
    """What was right of the base and is, of the same prompts and noise."""
    pairs = [
      pair for one in ones
      for pair in zip(self.base_of(one).right(group), one.right(group), strict=True)
    ]  # fmt: skip
    return Paired.of(*zip(*pairs, strict=True)) if pairs else Paired(0, 0, 0, 0)

  def distance(
    self, ones: Sequence[One], of: Callable[[Reading], Iterable[Any]], group: str = "target"
  ) -> float:
    """Total variation of what is drawn for the concept from what the base draws of the anchor."""
    return fmean(
      total_variation(
        (v for seen in self.base_of(one).cell.readings["anchor"] for v in of(seen)),
        (v for seen in one.cell.readings[group] for v in of(seen)),
      )
      for one in ones
    )


def looks_in(seen: Reading) -> list[tuple[str, ...]]:
  return [(o.shape, o.color, o.mark, o.mark_color, o.rendering) for o in seen.objects]


def places_in(seen: Reading) -> list[Any]:
  return [cell_of(o) for o in seen.objects]


def rate(ones: Sequence[One], of: Callable[[One], Sequence[bool]]) -> Rate:
  return Rate.of(value for one in ones for value in of(one))
