"""What benchmarks.personalisation teaches and measures: subjects, prompts, drawings as read.

Five subjects are reported, of two tiers: `known`, a mark that training records have, on an object
that never has it; `unseen`, the mark that no record has. Settings are chosen on three others.
"""

import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from t2i_jax.data.from_planted import Planted
from t2i_jax.data.images import encode
from t2i_jax.data.record import Record
from t2i_jax.data.scenes import Fact
from t2i_jax.data.scenes.planted import (
  UNSEEN_MARK,
  Look,
  PlantedScene,
  copied_records,
  draw,
  make_planted,
  subject_scene,
)
from t2i_jax.data.scenes.planted.world import NONE
from t2i_jax.evaluation.planted_judge import PlantedVerdict, judge_reading
from t2i_jax.evaluation.planted_reader import Reading, Seen, read_all

SIZE = 32
TIERS = ("known", "unseen")
MOST_IMAGES = 8  # of a subject; a run is given the first ones
SUBJECT_SHARE = 0.125  # of the oracle's records: 2.5% a subject, as each individual has
VAL_FROM = 100_000  # of split val: scenes of the base's own prompts that no record is


class Subject(NamedTuple):
  """What a model is taught.   name: in the oracle's captions;   word: a placeholder"""

  name: str
  word: str
  look: Look

  @property
  def tier(self) -> str:
    return TIERS[self.look.mark == UNSEEN_MARK]

  @property
  def shape(self) -> str:
    assert self.look.shape
    return self.look.shape


def _subject(name: str, word: str, *look: str) -> Subject:
  color, shape, mark, mark_color = look
  return Subject(name, word, Look(color, shape, None, mark, mark_color))


SUBJECTS = (
  _subject("jolb", "<v0>", "green", "square", "ring", "red"),
  _subject("frux", "<v1>", "blue", "circle", "half", "yellow"),
  _subject("skep", "<v2>", "purple", "triangle", "ring", "yellow"),
  _subject("wint", "<v3>", "yellow", "circle", UNSEEN_MARK, "blue"),
  _subject("hask", "<v4>", "cyan", "square", UNSEEN_MARK, "red"),
)
DEVELOPMENT = (
  _subject("dev0", "<v8>", "blue", "square", "dot", "yellow"),
  _subject("dev1", "<v9>", "cyan", "circle", "ring", "black"),
  _subject("dev2", "<v10>", "red", "triangle", UNSEEN_MARK, "black"),
)


def training_scenes(subject: Subject, count: int = MOST_IMAGES) -> list[PlantedScene]:
  """Images of a subject alone, each at another place; of another count the first are the same."""
  rng = random.Random(f"personalisation/{subject.name}")
  return [subject_scene(subject.word, subject.look, rng, kind="individual") for _ in range(count)]


def training_images(subject: Subject) -> np.ndarray:
  """uint8 [MOST_IMAGES, SIZE, SIZE, 3]."""
  return np.stack([draw(scene.objects, SIZE) for scene in training_scenes(subject)])


# Drawings of a run by group of prompts, and how many: alone "a <v0> circle"; related beside another
# object; class "a circle"; own: prompts of the base's own distribution.
COUNTS = {"alone": 32, "related": 48, "class": 32, "own": 48}
FIRST_SEED = {"alone": 0, "related": 1_000, "class": 2_000, "own": 3_000}
SHOWN = {"alone": 3, "related": 3, "class": 2}  # drawings that are kept as images


def scenes_of(subject: Subject, group: str, count: int, phrase: str) -> list[PlantedScene]:
  """The scenes whose captions a group's prompts are.

  phrase  what the subject is called: "<v0> circle", "<v0>", "jolb circle"
  """
  if group == "own":
    return [own_scene(i) for i in range(count)]
  if group == "class":
    return [class_scene(subject.shape)] * count
  kind = {"alone": "individual", "related": "related"}[group]
  found = []
  for i in range(count):
    rng = random.Random(f"personalisation/{group}/{i}")
    scene = subject_scene("NAME", subject.look, rng, kind=kind)
    caption = scene.caption.replace(f"NAME {subject.shape}", phrase)
    found.append(dataclasses.replace(scene, captions=(caption,)))
  return found


def own_scene(i: int) -> PlantedScene:
  return make_planted(VAL_FROM + i, "val")


def class_scene(shape: str) -> PlantedScene:
  """One object of a shape in any colour, without a mark: "a circle"."""
  facts = (Fact("exists", Look(None, shape, None, NONE)), Fact("total", n=1))
  return PlantedScene((), facts, (f"a {shape}",), "class", "planted", heldout=False)


def all_scenes(
  subject: Subject, phrase: str, counts: dict[str, int]
) -> dict[str, list[PlantedScene]]:
  return {group: scenes_of(subject, group, n, phrase) for group, n in counts.items()}


Verdicts = dict[str, list[PlantedVerdict]]  # by group of prompts


class Cell(NamedTuple):
  """Drawings of one model: what was read of each, by group of prompts.

  about  method, subject, seed, step, rate, guidance, seconds
  """

  about: dict[str, Any]
  readings: dict[str, list[Reading]]

  def judged(self, subject: Subject) -> Verdicts:
    """A verdict of each drawing, by group."""
    counts = {group: len(found) for group, found in self.readings.items()}
    scenes = all_scenes(subject, f"{subject.word} {subject.shape}", counts)
    return {
      group: [judge_reading(*pair) for pair in zip(found, scenes[group], strict=True)]
      for group, found in self.readings.items()
    }


def read_groups(images: np.ndarray, counts: dict[str, int]) -> dict[str, list[Reading]]:
  """Reads drawings, one group after the other."""
  readings, found, start = read_all(images), {}, 0
  for group, n in counts.items():
    found[group] = readings[start : start + n]
    start += n
  return found


def strip(images: np.ndarray, counts: dict[str, int]) -> np.ndarray:
  """The drawings of SHOWN beside each other.   uint8 [n, H, W, 3] -> [H, k W, 3]"""
  starts = dict(zip(counts, np.cumsum([0, *counts.values()]).tolist(), strict=False))
  few = [images[starts[group] + i] for group, n in SHOWN.items() for i in range(n)]
  return np.concatenate(few, axis=1)


def shown(path: Path) -> list[np.ndarray]:
  """The drawings of a `strip`."""
  image = np.asarray(Image.open(path))
  return np.split(image, image.shape[1] // image.shape[0], axis=1)


def save_cell(path: Path, cell: Cell, images: np.ndarray | None = None) -> None:
  """Writes a cell, and a strip of its drawings beside it."""
  rows = {group: list(map(_packed, found)) for group, found in cell.readings.items()}
  path.parent.mkdir(parents=True, exist_ok=True)
  if images is not None:
    counts = {group: len(found) for group, found in rows.items()}
    Image.fromarray(strip(images, counts)).save(path.with_suffix(".png"))
  part = path.with_suffix(".part")
  part.write_text(json.dumps({"about": cell.about, "readings": rows}))
  part.replace(path)


def load_cell(path: Path) -> Cell:
  saved = json.loads(path.read_text())
  readings = {group: [_unpacked(*one) for one in rows] for group, rows in saved["readings"].items()}
  return Cell(saved["about"], readings)


def _packed(reading: Reading) -> list[Any]:
  fields = [
    [round(value, 4) if isinstance(value, float) else value for value in dataclasses.astuple(o)]
    for o in reading.objects
  ]
  return [reading.rendering, fields]


def _unpacked(rendering: str, fields: Sequence[Any]) -> Reading:
  return Reading(tuple(Seen(*values) for values in fields), rendering)


@dataclasses.dataclass(frozen=True)
class WithSubjects(Planted):
  """Level planted with SUBJECTS among its records, under their names: what an oracle learns."""

  def _record(self, split: str, index: int) -> Any:
    rng = random.Random(f"oracle/{self.seed}/{split}/{index}")
    copied = split == "train" and index < copied_records()
    if split == "heldout" or copied or rng.random() >= SUBJECT_SHARE:
      return super()._record(split, index)
    subject = rng.choice(SUBJECTS)
    scene = subject_scene(subject.name, subject.look, rng)
    data = encode(Image.fromarray(draw(scene.objects, self.size or SIZE)), format="PNG")
    return Record(data, scene.captions, self._key(split, index), scene.planted)
