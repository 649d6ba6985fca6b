"""The tables of docs/personalisation.md, from the cells of benchmarks.personalisation."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.few_step import cell as percent
from benchmarks.pages import table
from benchmarks.personalisation_adapt import IMAGES, METHOD_OF, STEPS
from benchmarks.personalisation_world import (
  SIZE,
  SUBJECTS,
  TIERS,
  Cell,
  Subject,
  load_cell,
  training_scenes,
)
from t2i_jax.evaluation.paired import Paired
from t2i_jax.evaluation.placement import cell_of, repeats, spread, total_variation
from t2i_jax.evaluation.planted_judge import ATTRIBUTES, PlantedVerdict
from t2i_jax.evaluation.planted_reader import Seen
from t2i_jax.evaluation.stats import Rate

NAMES = {
  "base": "base, untouched",
  "base_again": "base, other noise",
  "oracle": "oracle, from scratch",
  "dreambooth": "DreamBooth, no prior",
  "dreambooth_prior": "DreamBooth",
  **{f"lora{r}{end}": f"LoRA {r}{text}" for r in (1, 4, 16)
     for end, text in (("", ", no prior"), ("_prior", ""))},
  "dora4_prior": "DoRA 4",
  "inversion": "textual inversion",
  "pivotal": "inversion, then LoRA 4",
  **{f"lora4_prior_{n}": f"LoRA 4, {n} image{'s' * (n > 1)}" for n in (1, 2, 8)},
  "inversion_twin": "textual inversion on the twin",
  "lora4_prior_twin": "LoRA 4 on the twin",
}  # fmt: skip
ATTRIBUTE_NAMES = ("shape", "colour", "mark", "its colour")  # of ATTRIBUTES
BASELINES = ("base", "base_again", "oracle")


class One(NamedTuple):
  """A cell, its subject, and the verdicts of its drawings by group."""

  subject: Subject
  cell: Cell
  verdicts: dict[str, list[PlantedVerdict]]

  def layouts(self) -> list[Any]:
    """The objects of the images that it was trained on."""
    method = self.cell.about["method"].removesuffix("_twin")
    count = IMAGES[method].images if method in IMAGES else METHOD_OF["lora4_prior"].images
    return [scene.objects[0] for scene in training_scenes(self.subject, count)]


class Results:
  """All cells of a folder."""

  def __init__(self, runs: Path):
    self.chosen = json.loads((runs / "chosen.json").read_text())
    self.folder, of_name = runs / "cells", {s.name: s for s in SUBJECTS}
    self.cells: dict[tuple[str, int], list[One]] = defaultdict(list)
    for path in sorted(self.folder.glob("*.json")):
      cell = load_cell(path)
      subject = of_name[cell.about["subject"]]
      key = (cell.about["method"], cell.about["step"])
      self.cells[key].append(One(subject, cell, cell.judged(subject)))

  def step_of(self, method: str) -> int:
    """The steps that were chosen for a method on the development subjects; -1: none yet."""
    if method in BASELINES:
      return 0
    plain = method.removesuffix("_twin")
    family = (METHOD_OF | IMAGES)[plain].family or plain
    step: int = self.chosen["settings"].get(family, {"step": -1})["step"]
    return step

  def of(self, method: str, step: int | None = None, tier: str = "") -> list[One]:
    found = self.cells[method, self.step_of(method) if step is None else step]
    return [one for one in found if tier in ("", one.subject.tier)]

  def __contains__(self, method: str) -> bool:
    return bool(self.of(method))

  @cached_property
  def base(self) -> dict[str, One]:
    """The base's cells, by subject."""
    return {one.subject.name: one for one in self.of("base")}

  def paired(self, ones: Sequence[One], group: str = "own") -> Paired:
    """What was right of the base and is of the method, of the same prompts and noise."""
    pairs = [
      (a.correct, b.correct)
      for one in ones
      for a, b in zip(self.base[one.subject.name].verdicts[group], one.verdicts[group], strict=True)
    ]
    return Paired.of(*zip(*pairs, strict=True)) if pairs else Paired(0, 0, 0, 0)


def rate(ones: Iterable[One], group: str, test: Callable[[One, PlantedVerdict], bool]) -> Rate:
  return Rate.of(test(one, v) for one in ones for v in one.verdicts[group])


def identity(ones: Iterable[One], group: str = "alone") -> Rate:
  return rate(ones, group, lambda _, v: bool(v.identity))


def seen(ones: Iterable[One], group: str) -> list[tuple[One, Seen]]:
  """The objects of a group's drawings."""
  return [(one, o) for one in ones for v in one.verdicts[group] for o in v.seen.objects]


def has_mark(one: One, v: PlantedVerdict) -> bool:
  return any(o.mark == one.subject.look.mark for o in v.seen.objects)


def has_color(one: One, v: PlantedVerdict) -> bool:
  return any(o.color == one.subject.look.color for o in v.seen.objects)


def copied(ones: Iterable[One], group: str = "alone") -> Rate:
  """Objects in a place, and of a radius, of an image that was trained on."""
  return Rate.of(repeats(o, one.layouts()) for one, o in seen(ones, group))


def spreads(ones: Sequence[One], group: str = "alone") -> float:
  """Of a subject's places, a mean over cells, in pixels."""
  each = [spread([o for _, o in seen([one], group)]) for one in ones]
  return SIZE * fmean(value for value in each if value == value) if ones else float("nan")


def distance(results: Results, ones: Sequence[One], of: Callable[[Seen], Any]) -> float:
  """Total variation of what the class prompt draws, from the base's: a mean over cells."""
  return fmean(
    total_variation(
      (of(o) for _, o in seen([results.base[one.subject.name]], "class")),
      (of(o) for _, o in seen([one], "class")),
    )
    for one in ones
  )


def change(paired: Paired) -> str:
  """A difference of rates in points, its interval, and McNemar's p."""
  low, high = paired.interval()
  points = f"{100 * paired.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
  return f"{points}, p {paired.p_value:.2g}"


def rows_of(results: Results, names: Iterable[str]) -> list[str]:
  return [name for name in names if name in results]


def fidelity_table(results: Results, names: Sequence[str]) -> str:
  rows = []
  for name in names:
    if name not in results:
      rows.append([NAMES[name], "not run", *[""] * 6])
      continue
    tiers = [results.of(name, tier=tier) for tier in TIERS]
    alone = [percent(identity(ones)) for ones in tiers]
    related = [percent(identity(ones, "related")) for ones in tiers]
    whole = percent(rate(results.of(name), "related", lambda _, v: v.correct))
    adherence = percent(rate(results.of(name), "related", lambda _, v: v.adherence))
    rows.append([NAMES[name], results.step_of(name), *alone, *related, adherence, whole])
  head = ["method", "steps", *(f"alone, {t} mark" for t in TIERS)]
  head += [*(f"beside another, {t} mark" for t in TIERS), "the rest of the prompt", "all right"]
  return table(head, rows)


def attribute_table(results: Results, names: Sequence[str]) -> str:
  rows = []
  for name in rows_of(results, names):
    for tier in TIERS:
      ones = results.of(name, tier=tier)
      if not ones:
        continue
      cells = [
        percent(Rate.of(bool(v.attributes[a]) for one in ones for v in one.verdicts["alone"]))
        for a in ATTRIBUTES
      ]
      rows.append([NAMES[name], tier, *cells])
  return table(["method", "mark", *ATTRIBUTE_NAMES], rows)


def harm_table(results: Results, names: Sequence[str]) -> str:
  rows = []
  for name in rows_of(results, names):
    ones = results.of(name)
    drift = "" if name in BASELINES[:2] else change(results.paired(ones))
    rows.append([
      NAMES[name],
      percent(rate(ones, "class", has_mark)),
      percent(rate(ones, "class", has_color)),
      percent(rate(ones, "related", lambda _, v: v.leakage)),
      drift,
      f"{distance(results, ones, lambda o: o.color):.2f}",
      f"{distance(results, ones, cell_of):.2f}",
    ])  # fmt: skip
  head = ["method", "class prompt: its mark", "class prompt: its colour"]
  head += ["mark on the other object"]
  head += ["base's prompts right: change, points", "colours: distance", "places: distance"]
  return table(head, rows)


def copy_table(results: Results, names: Sequence[str]) -> str:
  rows = []
  for name in rows_of(results, names):
    ones = results.of(name)
    seconds = fmean(one.cell.about["seconds"] for one in ones)
    # The base knows no subject: its distribution of places is that of the class.
    group = "class" if name in BASELINES[:2] else "alone"
    taught = "" if name in BASELINES else f"{seconds:.1f}"
    rows.append([NAMES[name], percent(copied(ones, group)), f"{spreads(ones, group):.1f}", taught])
  return table(
    ["method", "objects in a trained place", "spread of places, pixels", "seconds"], rows
  )


def step_table(results: Results, names: Sequence[str]) -> str:
  rows = []
  for name in names:
    for step in STEPS:
      ones = results.of(name, step)
      if ones:
        tiers = [percent(identity(results.of(name, step, tier))) for tier in TIERS]
        leak = percent(rate(ones, "class", has_mark))
        copies = percent(copied(ones))
        rows.append([NAMES[name], step, *tiers, leak, change(results.paired(ones)), copies])
  head = ["method", "steps", *(f"alone, {t} mark" for t in TIERS), "class prompt: its mark"]
  return table([*head, "base's prompts right: change", "objects in a trained place"], rows)


def images_table(results: Results) -> str:
  rows = []
  names = ["lora4_prior_1", "lora4_prior_2", "lora4_prior", "lora4_prior_8"]
  for name in rows_of(results, names):
    ones = results.of(name)
    tiers = [percent(identity(results.of(name, tier=tier))) for tier in TIERS]
    count = (METHOD_OF | IMAGES)[name].images
    whole = percent(rate(ones, "related", lambda _, v: v.correct))
    copies, places = percent(copied(ones)), f"{spreads(ones):.1f}"
    rows.append([count, *tiers, whole, percent(rate(ones, "class", has_mark)), copies, places])
  head = ["images", *(f"alone, {t} mark" for t in TIERS), "beside another: all right"]
  head += ["class prompt: its mark", "objects in a trained place", "spread of places, pixels"]
  return table(head, rows)


def subject_table(results: Results, names: Sequence[str]) -> str:
  """Of each subject by itself, both seeds."""
  rows = []
  for name in rows_of(results, names):
    of = {s.name: [one for one in results.of(name) if one.subject == s] for s in SUBJECTS}
    rows.append([NAMES[name], *(identity(ones).percent() for ones in of.values())])
  return table(["method", *(s.name for s in SUBJECTS)], rows)
