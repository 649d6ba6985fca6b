"""ComFusion on the planted world: one image of a subject, and scenes, half of which are trained.

A scene is a relation to another object. The network that compares images and reads scenes in the
losses is a noisy classifier, which is trained here and judges nothing.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from benchmarks.few_step import cell as percent
from benchmarks.few_step import finished
from benchmarks.pages import table
from benchmarks.personalisation_adapt import PER_ROLE, PRIORS
from benchmarks.personalisation_bench import Base, Groups, cells_of, judged, scene_of
from benchmarks.personalisation_beside import Beside, Given, in_turn
from benchmarks.personalisation_settings import balance
from benchmarks.personalisation_tables import change
from benchmarks.personalisation_world import (
  SIZE,
  Cell,
  Subject,
  Verdicts,
  own_scene,
  shown,
)
from benchmarks.quickstart import t2i
from t2i_jax.adapt.objectives import TEXTUAL, VISUAL
from t2i_jax.data.scenes.planted import UNSEEN_MARK, Look, draw, subject_scene
from t2i_jax.data.scenes.planted.world import NONE
from t2i_jax.data.sheet import grid
from t2i_jax.evaluation.paired import Paired
from t2i_jax.evaluation.placement import repeats
from t2i_jax.evaluation.planted_judge import PlantedVerdict
from t2i_jax.evaluation.stats import Rate
from t2i_jax.inference import open_model

WORD, CLASS = "<v0>", "circle"
PROMPT, CLASS_PROMPT = f"a {WORD} {CLASS}", f"a {CLASS}"
SEEDS = (0, 1)
AT_ONCE = 6
RATES, STEPS = (1e-3, 3e-3, 1e-2), (50, 100, 200)  # that are tried


def _circle(name: str, color: str, mark: str, mark_color: str) -> Subject:
  return Subject(name, WORD, Look(color, CLASS, None, mark, mark_color))


# Of one class and one word, so that one program learns all. No individual is a circle with a half.
SUBJECTS = (
  _circle("blue", "blue", "half", "yellow"),
  _circle("black", "black", "half", "red"),
  _circle("yellow", "yellow", UNSEEN_MARK, "blue"),
)
DEVELOPMENT = (
  _circle("cyan", "cyan", "half", "red"),
  _circle("green", "green", UNSEEN_MARK, "black"),
)
RELATIONS = ("left of", "right of", "above", "below")
OTHERS = (("red", "square"), ("green", "triangle"), ("purple", "square"), ("orange", "triangle"),
          ("cyan", "square"), ("red", "triangle"))  # fmt: skip


class Scene(NamedTuple):
  relation: str
  color: str
  shape: str

  @property
  def text(self) -> str:
    article = "an" if self.color[0] in "aeiou" else "a"
    return f"{self.relation} {article} {self.color} {self.shape}"


# Every relation and every object is in both halves, as often.
EVERY = [(i + j, Scene(relation, *other)) for i, relation in enumerate(RELATIONS)
         for j, other in enumerate(OTHERS)]  # fmt: skip
TRAINED = tuple(scene for place, scene in EVERY if place % 2 == 0)
HELD_OUT = tuple(scene for place, scene in EVERY if place % 2 == 1)


class Row(NamedTuple):
  """prior: "", images of the class; "class"; "scenes", those in scenes;   terms: of fusion"""

  name: str
  prior: str
  terms: tuple[str, ...] = ()


ROWS = {
  "none": Row("DreamBooth, no prior", ""),
  "class": Row("+ class prior", "class"),
  "scenes": Row("class-scene prior in its place", "scenes"),
  "textual": Row("+ textual", "scenes", ("textual",)),
  "visual": Row("+ visual", "scenes", ("visual",)),
  "both": Row("+ both: ComFusion", "scenes", ("visual", "textual")),
}
WEIGHTS = {"visual": VISUAL, "textual": TEXTUAL}


def training_image(subject: Subject) -> Any:
  """The scene of the one image."""
  rng = random.Random(f"comfusion/{subject.name}")
  return subject_scene(WORD, subject.look, rng, kind="individual")


def prompts(subject: Subject, phrase: str = f"{WORD} {CLASS}", look: Look | None = None) -> Groups:
  """phrase, look: what the subject is called, and is, in its prompts"""
  look, each = look or subject.look, 3
  article = "an" if phrase[0] in "aeiou" else "a"

  def within(scenes: Sequence[Scene]) -> list[Any]:
    return [
      scene_of(f"{article} {phrase} {s.text}", look, Look(s.color, s.shape, None, NONE),
               relation=s.relation)
      for _ in range(each) for s in scenes
    ]  # fmt: skip

  return {
    "trained": within(TRAINED),
    "heldout": within(HELD_OUT),
    "alone": [scene_of(f"{article} {phrase}", look)] * 16,
    "class": [scene_of(CLASS_PROMPT, Look(None, CLASS, None, NONE))] * 16,
    "own": [own_scene(i) for i in range(24)],
  }


class Fusion:
  """Runs on a base."""

  def __init__(self, base: Base, folder: Path, data: str, steps: int):
    self.base, self.folder, self.data, self.steps = base, folder, data, steps
    self.classifier = folder / "classifier"

  def _train_classifier(self) -> None:
    if not finished(self.classifier):
      t2i("train", "--config=configs/scenes_classifier.py", f"--workdir={self.classifier}",
          f"--config.data.dir={self.data}", "--config.text.length=16",
          f"--config.train.steps={self.steps}", "--config.train.batch=64")  # fmt: skip

  def stage(self, row: Row) -> Beside:
    rows = PER_ROLE * (2 if row.prior else 1)
    given, base = {"train.batch": str(rows)}, dict(self.base.model.params)
    if not row.prior:
      given |= {"train.objective": "denoising", "data.train_split": "instance"}
    else:
      fields: dict[str, Any] = {"prompt": PROMPT, "class_prompt": CLASS_PROMPT}
      fields["scenes"] = tuple(scene.text for scene in TRAINED)
      start = f"run:{self.classifier}"
      if "visual" in row.terms:
        fields["features"] = start
      if "textual" in row.terms:
        fields["reader"] = start
      fields |= {term: WEIGHTS[term] for term in row.terms}
      text = ", ".join(f"{name}={value!r}" for name, value in fields.items())
      given["train.objective"] = f"comfusion({text})"
    if row.terms:
      part = "features" if "visual" in row.terms else "reader"
      base[part] = open_model(self.classifier).params["classifier"]
    config = self.base.config("comfusion", given)
    return Beside(config, self.base.model.tokenizer, base, rows, AT_ONCE)

  def learn(
    self, row: Row, runs: Sequence[tuple[Subject, int, float]], steps: Sequence[int]
  ) -> Any:
    """Runs of subjects, seeds and learning rates."""
    scenes = tuple(scene.text for scene in TRAINED) if row.prior == "scenes" else ()
    images, captions = self.base.of_class(CLASS, scenes)
    ids, mask = self.base.encode([PROMPT, *captions])
    given = [
      Given(np.concatenate([draw(training_image(s).objects, SIZE)[None], images]), ids, mask,
            np.float32(rate), np.int32(seed), {})
      for s, seed, rate in runs
    ]  # fmt: skip
    ranges = [(0, 1), (1, PRIORS)][: 2 if row.prior else 1]
    return self.stage(row).learn(given, in_turn(ranges, PER_ROLE), steps)

  def develop(self) -> dict[str, Any]:
    """One rate and number of steps of all rows, by the class prior on two other subjects."""
    chosen = self.folder / "chosen.json"
    if not chosen.is_file():
      dev = self.folder / "dev"
      runs = [(s, 0, rate) for rate in RATES for s in DEVELOPMENT]
      path = lambda subject, rate, step: dev / f"{subject.name}_{rate:g}_{step}.json"
      if not all(path(s, rate, step).is_file() for s, _, rate in runs for step in STEPS):
        for learned in self.learn(ROWS["class"], runs, STEPS):
          for (subject, _, rate), params in zip(runs, learned.params, strict=True):
            about = {"rate": rate, "step": learned.step, "subject": subject.name}
            self.base.cell(path(subject, rate, learned.step), params, prompts(subject), about)
        self.base.read()
      of = {s.name: s for s in DEVELOPMENT}
      found = dict[tuple[float, int], list[Verdicts]]()
      for cell in cells_of(dev, "*"):
        verdicts = judged(cell, prompts(of[cell.about["subject"]]))
        found.setdefault((cell.about["rate"], cell.about["step"]), []).append(verdicts)
      groups = ("trained", "heldout", "alone")
      tried = [[*key, balance(cells, groups)] for key, cells in sorted(found.items())]
      rate, step, _ = max(tried, key=lambda one: one[-1])
      text = json.dumps({"rate": rate, "step": step, "tried": tried}, indent=1)
      chosen.write_text(f"{text}\n")
    settings: dict[str, Any] = json.loads(chosen.read_text())
    return settings

  def path(self, name: str, subject: Subject, seed: int) -> Path:
    return self.folder / "cells" / f"{name}_{subject.name}_{seed}.json"

  def make(self) -> None:
    self._train_classifier()
    base = self.base.model.params
    for s in SUBJECTS:
      named = Look(s.look.color, CLASS, None, NONE)
      for name, given in (("base", (s,)), ("named", (s, f"{s.look.color} {CLASS}", named))):
        if not self.path(name, s, 0).is_file():
          self.base.cell(self.path(name, s, 0), base, prompts(*given), {"subject": s.name})
    settings = self.develop()
    for name, row in ROWS.items():
      runs = [(s, seed, settings["rate"]) for seed in SEEDS for s in SUBJECTS]
      if all(self.path(name, s, seed).is_file() for s, seed, _ in runs):
        continue
      (found,) = self.learn(row, runs, [settings["step"]])
      print(f"comfusion: {name}, {found.seconds:.1f} s a run", flush=True)
      for (s, seed, _), params in zip(runs, found.params, strict=True):
        about = {"subject": s.name, "seed": seed, "seconds": found.seconds}
        self.base.cell(self.path(name, s, seed), params, prompts(s), about)
      self.base.read()


class One(NamedTuple):
  """A cell, its subject and its verdicts."""

  cell: Cell
  subject: Subject
  verdicts: dict[str, list[PlantedVerdict]]


def read(folder: Path, name: str) -> list[One]:
  found = []
  for s in SUBJECTS:
    named = Look(s.look.color, CLASS, None, NONE)
    of = prompts(s, f"{s.look.color} {CLASS}", named) if name == "named" else prompts(s)
    found += [One(c, s, judged(c, of)) for c in cells_of(folder / "cells", f"{name}_{s.name}_?")]
  return found


def rate(ones: Sequence[One], group: str, test: Any) -> Rate:
  return Rate.of(test(one, v) for one in ones for v in one.verdicts[group])


def place_copied(one: One, v: PlantedVerdict) -> bool:
  """Whether the object most like the subject is in the place of its one image."""
  look, layout = one.subject.look, training_image(one.subject).objects
  alike = lambda o: sum(getattr(o, a) == getattr(look, a) for a in ("shape", "color", "mark"))
  best = max(v.seen.objects, key=alike, default=None)
  return best is not None and repeats(best, layout)


def joint_table(folder: Path) -> str:
  rows = []
  for name, row in ROWS.items():
    ones = read(folder, name)
    if not ones:
      rows.append([row.name, "not run", *[""] * 7])
      continue
    cells = []
    for group in ("trained", "heldout"):
      cells += [
        percent(rate(ones, group, lambda _, v: bool(v.identity))),
        percent(rate(ones, group, lambda _, v: v.adherence)),
        percent(rate(ones, group, lambda _, v: v.correct)),
      ]
    n = rate(ones, "trained", lambda _, v: v.correct).n
    rows.append([row.name, percent(rate(ones, "alone", lambda _, v: v.correct)), *cells, n])
  head = ["", "alone, right"]
  for group in ("trained", "held out"):
    head += [f"{group}: subject", f"{group}: scene", f"{group}: both"]
  return table([*head, "n of a group of scenes"], rows)


def ceiling(folder: Path) -> str:
  """The scenes by the base, of a plain circle that is named by its colour."""
  ones = read(folder, "named")
  if not ones:
    return "not run"
  each = (percent(rate(ones, g, lambda _, v: v.correct)) for g in ("trained", "heldout"))
  return " and ".join(each)


def harm_table(folder: Path) -> str:
  base = {one.subject.name: one for one in read(folder, "base")}
  rows = []
  for name in ("base", *ROWS):
    ones = read(folder, name)
    if not ones:
      continue
    has_mark = lambda one, v: any(o.mark == one.subject.look.mark for o in v.seen.objects)
    has_color = lambda one, v: any(o.color == one.subject.look.color for o in v.seen.objects)
    drift, seconds = "", ""
    if name in ROWS:
      pairs = [
        (a.correct, b.correct)
        for one in ones
        for a, b in zip(base[one.subject.name].verdicts["own"], one.verdicts["own"], strict=True)
      ]
      drift = change(Paired.of(*zip(*pairs, strict=True)))
      seconds = f"{fmean(one.cell.about['seconds'] for one in ones):.0f}"
    rows.append([
      ROWS[name].name if name in ROWS else "base, untouched",
      percent(rate(ones, "class", has_mark)),
      percent(rate(ones, "class", has_color)),
      drift,
      percent(rate(ones, "alone", place_copied)),
      percent(rate(ones, "heldout", place_copied)),
      seconds,
    ])  # fmt: skip
  head = ["", "class prompt: its mark", "class prompt: its colour",
          "base's prompts right: change, points", "alone: place of the image",
          "held out: place of the image", "seconds"]  # fmt: skip
  return table(head, rows)


def subject_table(folder: Path) -> str:
  rows = []
  for name, row in ROWS.items():
    ones = read(folder, name)
    each = [[one for one in ones if one.subject == s] for s in SUBJECTS]
    both = lambda some: rate(some, "heldout", lambda _, v: v.correct).percent()
    rows.append([row.name, *(both(some) if some else "not run" for some in each)])
  names = [f"{s.look.color}, {s.look.mark}, {s.look.mark_color}" for s in SUBJECTS]
  return table(["held out: both", *names], rows)


def section(folder: Path, to: Path) -> list[str]:
  """Of the page, with its image in `to`."""
  weights = ", ".join(f"{name} {value:g}" for name, value in WEIGHTS.items())
  chosen = folder / "chosen.json"
  lines = [
    "## ComFusion",
    "",
    f"One image of a subject, a circle with a mark, in {len(TRAINED)} scenes that are trained",
    f"({TRAINED[0].text}, ...) and {len(HELD_OUT)} that are not: every relation and every object",
    f"is in both. {len(SUBJECTS)} subjects on {len(SEEDS)} seeds, adapters of rank 4; {PRIORS}",
    "images of the class that the base draws in each row with a prior, in the class-scene prior",
    f"in the trained scenes. Weights of the fusion stream: {weights}, ours. Its network, a noisy",
    "classifier of the same data, is in no judgement, and the reader in no loss. Subject: shape,",
    "colour, mark and the mark's colour; scene: the other object, the relation, their number;",
    "both: all of these, and no other mark.",
    "",
    joint_table(folder),
    "",
    "The base draws the trained and the held-out scenes of a plain circle, named by its colour,",
    f"right in {ceiling(folder)}: what adherence can reach.",
    "",
    harm_table(folder),
    "",
    "Place of the image: within 1 pixel of the place and of the radius in the one image that was",
    "trained on; for the base chance.",
    "",
    subject_table(folder),
    "",
    f"The last subject's mark is in no record. Of each cell n is {3 * len(HELD_OUT) * len(SEEDS)}:",
    "differences of less than about 15 points are not told from chance.",
    "",
  ]
  files = [folder / "cells" / f"{name}_{SUBJECTS[0].name}_0.png" for name in ("base", *ROWS)]
  if any(path.is_file() for path in files):
    image = draw(training_image(SUBJECTS[0]).objects, SIZE)
    strips = [shown(path) for path in files if path.is_file()]
    first = [image, *[np.full_like(image, 255)] * (len(strips[0]) - 1)]
    grid([first, *strips], 2).save(to / "personalisation_comfusion.png")
    lines += [
      "![Drawings by row](personalisation_comfusion.png)",
      "",
      "First the image. Then the base and the rows of the table; four drawings each of trained",
      "scenes, held-out scenes, the subject alone, the class, the base's own prompts.",
      "",
    ]
  if chosen.is_file():
    found = json.loads(chosen.read_text())
    lines += [
      f"The learning rate, {found['rate']:g}, and the number of steps, {found['step']}, were",
      "chosen for the row with the class prior on two other subjects, by the harmonic mean of what",
      "is right with the subject and without it in the prompt; all rows have them.",
      "",
    ]
  return lines
