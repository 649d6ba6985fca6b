"""One edit of each kind, as a plan: objects before and after, the facts, the instruction."""

import dataclasses
import functools
import random
from collections import Counter
from collections.abc import Callable, Sequence

from t2i_jax.data.scenes import captions as say
from t2i_jax.data.scenes.facts import Fact, Object, Spec
from t2i_jax.data.scenes.geometry import box_of, relation_between
from t2i_jax.data.scenes.heldout import heldout_pair
from t2i_jax.data.scenes.layout import clear, radii_of
from t2i_jax.data.scenes.recipes import DIRECTIONS
from t2i_jax.data.scenes.vocabulary import COLORS, SIZES, Level, size_name

MOVE = "move"
TRIES = 20  # draws of a position before another edit


@dataclasses.dataclass(frozen=True)
class Wanted:
  """An object that must be in the image after an edit.

  spec  its colour and shape, and its size where the instruction names one
  x, y  its centroid in [0, 1], y down; None where only the edit's facts constrain it
  r     its radius, a fraction of the side; None where the instruction does not determine it
  """

  spec: Spec
  x: float | None = None
  y: float | None = None
  r: float | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
  """A sampled edit: objects before and after, and the wordings of the instruction."""

  old: tuple[Object, ...]
  new: tuple[Object, ...]
  wanted: tuple[Wanted, ...]
  facts: tuple[Fact, ...]
  wordings: tuple[str, ...]  # the first is the plain one


@dataclasses.dataclass(frozen=True)
class Sketch:
  """The state of one draw of an edit;   alone: objects that are unique in colour and shape"""

  rng: random.Random
  level: Level
  objects: tuple[Object, ...]

  @functools.cached_property
  def alone(self) -> list[Object]:
    number = Counter(looks(o) for o in self.objects)
    return [o for o in self.objects if number[looks(o)] == 1]

  def the(self, o: Object) -> str:
    """A description of the object with its article, which fits no other object."""
    whole = looks(o)
    full = not self.level.sizes or heldout_pair(o.color, o.shape) or self.rng.random() < 0.5
    options = [whole] if full else [Spec(shape=o.shape), Spec(o.color), whole]
    spec = next(s for s in options if sum(map(s.fits, self.objects)) == 1)
    return f"the {say.noun(spec)}"


def looks(o: Object) -> Spec:
  return Spec(o.color, o.shape)


def _there(o: Object) -> Wanted:
  return Wanted(looks(o), o.x, o.y, o.r)


def _recolor(d: Sketch) -> Plan | None:
  old = d.rng.choice(d.alone)
  new = dataclasses.replace(old, color=d.rng.choice([c for c in COLORS if c != old.color]))
  facts = (Fact("exists", looks(new)), Fact("absent", looks(old)))
  the = d.the(old)
  wordings = (
    f"make {the} {new.color}",
    f"change {the} to {new.color}",
    f"paint {the} {new.color}",
  )
  return Plan((old,), (new,), (_there(new),), facts, wordings)


def _reshape(d: Sketch) -> Plan | None:
  old = d.rng.choice(d.alone)
  new = dataclasses.replace(old, shape=d.rng.choice([s for s in d.level.shapes if s != old.shape]))
  facts = (Fact("exists", looks(new)), Fact("absent", looks(old)))
  the, shape = d.the(old), say.one(Spec(shape=new.shape))
  wordings = (f"turn {the} into {shape}", f"change {the} into {shape}", f"make {the} {shape}")
  return Plan((old,), (new,), (_there(new),), facts, wordings)


def _resize(d: Sketch) -> Plan | None:
  old = d.rng.choice(d.alone)
  size = d.rng.choice([s for s in SIZES if s != old.size])
  new = dataclasses.replace(old, size=size, r=d.rng.uniform(*SIZES[size]))
  asked = dataclasses.replace(looks(old), size=size)
  facts = (
    Fact("exists", asked),
    Fact("absent", dataclasses.replace(asked, size=old.size)),
  )
  the = d.the(old)
  wordings = (
    f"make {the} {size}",
    f"change the size of {the} to {size}",
    f"turn {the} into a {size} one",
  )
  return Plan((old,), (new,), (Wanted(asked, old.x, old.y),), facts, wordings)


def _add(d: Sketch) -> Plan | None:
  anchor, relation = d.rng.choice(d.alone), d.rng.choice(DIRECTIONS)
  size = d.rng.choice(tuple(SIZES)) if d.level.sizes else None
  spec = Spec(d.rng.choice(tuple(COLORS)), d.rng.choice(d.level.shapes), size)
  new = _beside(d, spec, relation, anchor)
  if new is None:
    return None
  asked = spec if d.rng.random() < 0.5 else looks(new)
  facts = (Fact("exists", asked), Fact("relation", looks(new), relation, looks(anchor)))
  words = zip(("add", "put", "place"), say.WORDINGS[relation], strict=True)
  the = d.the(anchor)
  wordings = tuple(f"{verb} {say.one(asked)} {where} {the}" for verb, where in words)
  return Plan((), (new,), (Wanted(asked),), facts, wordings)


def _beside(d: Sketch, spec: Spec, relation: str, anchor: Object) -> Object | None:
  """A new object in a clear relation to an existing one, or None where no position is found."""
  assert spec.color and spec.shape
  band = radii_of(spec, d.level, len(d.objects) + 1)
  for _ in range(TRIES):
    r = d.rng.uniform(*band)
    size = spec.size or size_name(r)
    new = Object(spec.shape, spec.color, size, d.rng.random(), d.rng.random(), r)
    if clear(new, relation, anchor, d.level) and fits((*d.objects, new), d.level):
      return new
  return None


def _remove(d: Sketch) -> Plan | None:
  old = d.rng.choice(d.alone)
  the = d.the(old)
  wordings = (f"remove {the}", f"delete {the}", f"take {the} away")
  return Plan((old,), (), (), (Fact("absent", looks(old)),), wordings)


def _swap(d: Sketch) -> Plan | None:
  a, b = d.rng.sample(d.alone, 2)
  new = (dataclasses.replace(a, x=b.x, y=b.y), dataclasses.replace(b, x=a.x, y=a.y))
  relation = relation_between(*new)
  if not clear(new[0], relation, new[1], d.level):
    return None
  facts = (
    Fact("exists", looks(a)),
    Fact("exists", looks(b)),
    Fact("relation", looks(a), relation, looks(b)),
  )
  both = f"{d.the(a)} and {d.the(b)}"
  wordings = (f"swap {both}", f"swap the places of {both}", f"let {both} change places")
  return Plan((a, b), new, tuple(map(_there, new)), facts, wordings)


def _move(d: Sketch) -> Plan | None:
  old, anchor = d.rng.sample(d.alone, 2)
  relation = d.rng.choice([rel for rel in DIRECTIONS if rel != relation_between(old, anchor)])
  others = [o for o in d.objects if o != old]
  for _ in range(TRIES):
    new = dataclasses.replace(old, x=d.rng.random(), y=d.rng.random())
    if clear(new, relation, anchor, d.level) and fits((*others, new), d.level):
      break
  else:
    return None
  facts = (Fact("exists", looks(old)), Fact("relation", looks(old), relation, looks(anchor)))
  words = zip(("move", "put", "place"), say.WORDINGS[relation], strict=True)
  the, other = d.the(old), d.the(anchor)
  wordings = tuple(f"{verb} {the} {where} {other}" for verb, where in words)
  return Plan((old,), (new,), (Wanted(looks(old), r=old.r),), facts, wordings)


def fits(objects: Sequence[Object], level: Level) -> bool:
  """Whether all lie inside the border, and their boxes apart by the level's gap."""
  border, gap = level.border_px / level.floor, level.gap_px / level.floor
  boxes = [box_of(o) for o in objects]
  if any(min(left, top, 1 - right, 1 - bottom) < border for left, top, right, bottom in boxes):
    return False
  return all(
    max(l0 - r1, l1 - r0, t0 - b1, t1 - b0) >= gap
    for i, (l0, t0, r0, b0) in enumerate(boxes)
    for l1, t1, r1, b1 in boxes[i + 1 :]
  )


PLANS: dict[str, Callable[[Sketch], Plan | None]] = {
  "recolor": _recolor,
  "reshape": _reshape,
  "add": _add,
  "remove": _remove,
  "swap": _swap,
  "resize": _resize,
  MOVE: _move,
}
