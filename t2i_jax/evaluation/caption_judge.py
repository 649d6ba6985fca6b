"""Judges captions of scenes: whether they describe the whole image correctly.

A caption is parsed into facts with the vocabulary of scene captions (data.scenes.captions); a
caption with other words is wrong.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from t2i_jax.data.scenes import (
  COLORS,
  SHAPES,
  SIZES,
  Fact,
  Object,
  Scene,
  Spec,
  holds,
  prompts,
  render,
)
from t2i_jax.data.scenes.captions import NUMBERS, WORDINGS
from t2i_jax.data.scenes.vocabulary import find_level
from t2i_jax.evaluation.score import KEPT, Cells, compositions, derange
from t2i_jax.evaluation.stats import Rate

Describe = Callable[[np.ndarray, int], list[str]]

_COUNTS = {"a": 1, "an": 1} | {word: n for n, word in enumerate(NUMBERS) if n}
_RELATIONS = {words: relation for relation, ways in WORDINGS.items() for words in ways}
_NOUN = re.compile(
  rf"(?:exactly )?({'|'.join(_COUNTS)})(?: ({'|'.join(SIZES)}))?(?: ({'|'.join(COLORS)}))?"
  rf" ({'|'.join(SHAPES)})(?:es|s)?\b"
)
_BETWEEN = re.compile(rf" ({'|'.join(sorted(_RELATIONS, key=len, reverse=True))}) | and |, ")


def read_caption(text: str) -> tuple[Fact, ...] | None:
  """The facts of a caption that lists an image's objects, or None where it cannot be parsed.

  The list is taken as complete: the last fact is the number of objects.
  """
  text = re.sub(r"^(there is|there are|a picture of) ", "", text.strip().lower().rstrip("."))
  specs: list[Spec] = []
  numbers: list[int] = []
  relations: list[tuple[int, str]] = []
  at = 0
  while True:
    noun = _NOUN.match(text, at)
    if noun is None:
      return None
    count, size, color, shape = noun.groups()
    specs.append(Spec(color, shape, size))
    numbers.append(_COUNTS[count])
    at = noun.end()
    if at == len(text):
      break
    between = _BETWEEN.match(text, at)
    if between is None:
      return None
    if between[1]:
      relations.append((len(specs) - 1, _RELATIONS[between[1]]))
    at = between.end()
  facts = [
    Fact("exists", spec) if n == 1 else Fact("count", spec, n=n)
    for spec, n in zip(specs, numbers, strict=True)
  ]
  facts += [Fact("relation", specs[i], relation, specs[i + 1]) for i, relation in relations]
  return (*facts, Fact("total", n=sum(numbers)))


@dataclass(frozen=True)
class CaptionVerdict:
  """objects: all objects are listed correctly; correct: and the stated relations hold"""

  objects: bool
  correct: bool


def judge_caption(text: str, objects: Sequence[Object]) -> CaptionVerdict:
  """Whether a caption is exactly true of objects: none is missing, none is added."""
  facts = read_caption(text)
  if facts is None:
    return CaptionVerdict(False, False)
  listed: Counter[Spec] = Counter()
  for fact in facts:
    if fact.kind in ("exists", "count") and fact.a is not None:
      listed[fact.a] += fact.n or 1
  there = Counter(
    next((spec for spec in listed if spec.fits(o)), Spec("nothing of the caption")) for o in objects
  )
  right = listed == there
  return CaptionVerdict(right, right and all(holds(fact, objects) for fact in facts))


@dataclass(frozen=True)
class CaptionCell:
  """Rates of one category of scenes, on compositions seen in training or held out from it.

  model     captions that are exactly true of their image; objects: that list its objects correctly
  shuffled  the same captions judged against other images of the cell
  majority  the most frequent caption of the cell for every image
  samples   (image, caption, whether it is correct), the first ones
  """

  category: str
  heldout: bool
  model: Rate
  objects: Rate
  shuffled: Rate
  majority: Rate
  samples: tuple[tuple[np.ndarray, str, bool], ...]

  def to_json(self) -> dict[str, Any]:
    return {
      "category": self.category,
      "heldout": self.heldout,
      **{n: getattr(self, n).to_json() for n in ("model", "objects", "shuffled", "majority")},
      "samples": [{"caption": text, "correct": right} for _, text, right in self.samples],
    }


class CaptionScore(Cells[CaptionCell]):
  """Captions of a level; as JSON, each of its cells is

  category, heldout                   which cell
  model, objects, shuffled, majority  {successes, n, rate, lower, upper}
  samples                             [{caption, correct}]
  """

  NAME = "category"

  def table(self) -> Table:
    """The score as a console table, one row per cell."""
    n = max(cell.model.n for cell in self.cells)
    table = Table(
      title=f"Correct captions, level {self.level}, {self.size} px, n = {n} a cell, 95% intervals"
    )
    for name in ("category", "compositions"):
      table.add_column(name)
    for name in ("correct", "objects", "shuffled", "commonest"):
      table.add_column(name, justify="right")
    for cell in self.cells:
      table.add_row(
        "" if cell.heldout else cell.category,
        compositions(cell.heldout),
        f"{cell.model.percent()} {cell.model.interval()}",
        *(rate.percent() for rate in (cell.objects, cell.shuffled, cell.majority)),
        end_section=cell.heldout,
      )
    return table


def score_captions(
  describe: Describe,
  level: str,
  *,
  size: int,
  per_cell: int = 250,
  seed: int = 0,
  categories: Sequence[str] | None = None,
) -> CaptionScore:
  """Scores captions for images of every cell of a level, and the baselines.

  describe  (images uint8 [n, size, size, 3], seed) -> n captions
  """
  cells = []
  for category in categories or find_level(level).categories:
    for heldout in (False, True):
      scenes = prompts(level, category, heldout, per_cell, seed)
      images = np.stack([render(scene, size) for scene in scenes])
      cells.append(_cell(category, heldout, scenes, images, describe(images, seed)))
  return CaptionScore(level, size, seed, tuple(cells))


def _cell(
  category: str,
  heldout: bool,
  scenes: Sequence[Scene],
  images: np.ndarray,
  captions: Sequence[str],
) -> CaptionCell:
  verdicts = [judge_caption(t, s.objects) for t, s in zip(captions, scenes, strict=True)]
  swapped = derange([scene.caption for scene in scenes], np.random.default_rng(0))
  others = [captions[i] for i in swapped]
  common = Counter(scene.caption for scene in scenes).most_common(1)[0][0]
  right = lambda texts: Rate.of(
    judge_caption(text, scene.objects).correct for text, scene in zip(texts, scenes, strict=True)
  )
  samples = zip(images[:KEPT], captions, (v.correct for v in verdicts), strict=False)
  return CaptionCell(
    category,
    heldout,
    Rate.of(v.correct for v in verdicts),
    Rate.of(v.objects for v in verdicts),
    right(others),
    right([common] * len(scenes)),
    tuple(samples),
  )
