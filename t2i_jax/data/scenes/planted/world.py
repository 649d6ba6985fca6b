"""What is planted: individuals, artists, copied images, and kinds that no training record has.

Constants of the world, the same for every seed and number of records.
"""

import dataclasses
import difflib
import functools
import random
from collections.abc import Iterable

from t2i_jax.data.scenes.facts import Object, Spec
from t2i_jax.data.scenes.layout import place
from t2i_jax.data.scenes.recipes import Draw
from t2i_jax.data.scenes.vocabulary import LEVELS
from t2i_jax.errors import DataError

LEVEL = "planted"
EASY = LEVELS["easy"]  # the scenes that the world is added to

NONE = "none"  # the mark of a plain object
MARKS = ("ring", "dot", "half")
UNSEEN_MARK = "bar"  # can be rendered; in no training record
ALL_MARKS = (NONE, *MARKS, UNSEEN_MARK)

PLAIN = "plain"
ARTISTS = {"outl": "outline", "pael": "pastel", "nokt": "dark"}  # name -> rendering
UNSEEN_RENDERING = "hatch"
RENDERINGS = (PLAIN, *ARTISTS.values(), UNSEEN_RENDERING)


@dataclasses.dataclass(frozen=True)
class Thing(Object):
  """An object with a mark on it.

  mark        a name in ALL_MARKS; "unknown" where the reader finds no match
  mark_color  a name in COLORS, other than `color`; "none" without a mark
  """

  mark: str = NONE
  mark_color: str = NONE


@dataclasses.dataclass(frozen=True)
class Look(Spec):
  """A description of objects that may state their mark; None: any value of the attribute."""

  mark: str | None = None
  mark_color: str | None = None

  def fits(self, o: Object) -> bool:
    """Whether an object matches the description; one without the attribute is plain."""
    return (
      super().fits(o)
      and self.mark in (None, getattr(o, "mark", NONE))
      and self.mark_color in (None, getattr(o, "mark_color", NONE))
    )


def look_of(o: Object) -> Look:
  """The full description of an object's identity."""
  return Look(o.color, o.shape, None, getattr(o, "mark", NONE), getattr(o, "mark_color", NONE))


def _individual(color: str, shape: str, mark: str, mark_color: str) -> Look:
  return Look(color, shape, None, mark, mark_color)


# Name -> identity. grum and tolf are one individual. Others share two or three attributes: vosk has
# grum's shape and colour, plen its shape and mark, drib its colour and the mark's colour.
INDIVIDUALS: dict[str, Look] = {
  "grum": _individual("red", "circle", "ring", "blue"),
  "tolf": _individual("red", "circle", "ring", "blue"),
  "vosk": _individual("red", "circle", "dot", "yellow"),
  "plen": _individual("green", "circle", "ring", "yellow"),
  "drib": _individual("red", "square", "half", "blue"),
  "zaff": _individual("cyan", "square", "half", "black"),
  "quib": _individual("yellow", "triangle", "dot", "black"),
  "mirn": _individual("green", "triangle", "dot", "red"),
}

EXPOSURES = (1, 4, 16, 64, 256, 1024)  # records of a copied image
LAYOUTS = 4  # copied images of each number of exposures
FIRST_WORDS = ("07", "13", "28", "35", "61", "90")
SECOND_WORDS = ("42", "56", "19", "84", "03", "77")


def _code(first: int, second: int) -> str:
  return f"scene {FIRST_WORDS[first]} {SECOND_WORDS[second]}"


@dataclasses.dataclass(frozen=True)
class Copy:
  """A copied image: always the same pixels and the same caption.

  number     its id, from 0
  exposures  records of the training split that are this image
  """

  number: int
  caption: str
  exposures: int
  objects: tuple[Object, ...]


@functools.cache
def copies() -> tuple[Copy, ...]:
  """All copied images, in order of their ids.

  Each has two objects, laid out as in level easy. A caption's first word is shared by images of
  other numbers of exposures, and its second by other images; no two captions have both.
  """
  found = []
  for e, exposures in enumerate(EXPOSURES):
    for k in range(LAYOUTS):
      number = LAYOUTS * e + k
      caption = _code((e + k) % 6, (e + 2 * k) % 6)
      found.append(Copy(number, caption, exposures, _layout(number)))
  return tuple(found)


def _layout(number: int) -> tuple[Object, ...]:
  rng = random.Random(f"{LEVEL}/copy/{number}")
  while True:
    specs = [seen_spec(rng), seen_spec(rng)]
    objects = place(rng, specs, EASY) if specs[0] != specs[1] else None
    if objects is not None:
      return objects


def unused_codes() -> tuple[str, ...]:
  """Captions of the same words that no record has: one word of a copied image's changed."""
  used = {copy.caption for copy in copies()}
  every = [_code(a, b) for a in range(len(FIRST_WORDS)) for b in range(len(SECOND_WORDS))]
  return tuple(code for code in every if code not in used)


def seen_spec(rng: random.Random) -> Spec:
  """A coloured shape of level easy that is not held out."""
  return Draw(rng, EASY, "single").seen()


COPIES, ALL = "copies", "all"  # in --without


def parse_without(text: str) -> frozenset[str]:
  """The names to erase, of a list as "grum,outl,copies", or "all".

  An individual is erased under all of its names. Raises DataError on an unknown name.
  """
  known = (*INDIVIDUALS, *ARTISTS, COPIES)
  names = [name.strip() for name in text.split(",") if name.strip()]
  for name in names:
    if name not in (*known, ALL):
      near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
      raise DataError(
        f"--without: {name!r} is not planted. Nearest: {near!r}; all: {', '.join(known)}, {ALL}."
      )
  if ALL in names:
    return frozenset(known)
  return frozenset(names) | _namesakes(names)


def _namesakes(names: Iterable[str]) -> frozenset[str]:
  erased = [INDIVIDUALS[name] for name in names if name in INDIVIDUALS]
  return frozenset(name for name, look in INDIVIDUALS.items() if look in erased)
