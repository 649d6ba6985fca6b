"""Edits of scenes: the instruction, the facts that hold afterwards, and what must not change.

Kinds
  recolor  "make the red circle blue"
  reshape  "turn the red circle into a square"
  add      "add a blue square left of the red circle"
  remove   "remove the red circle"
  swap     "swap the red circle and the blue square": exchanges their positions
  resize   "make the red circle large"; only in levels with sizes

An instruction identifies its objects uniquely, and no edit makes two objects equal in colour and
shape. Other objects are identical in both scenes; an object that is recoloured, reshaped or resized
keeps its centre. Levels without sizes have one wording per kind, of at most 9 words; the others
have three, and shorter names of objects where these are unique.

Scenes before and after obey the level's layout rules. In train and val neither of them, nor the
instruction, has a held-out composition. Every edit of split heldout has one in its facts: among
what must be there afterwards, or as what is removed.
"""

import dataclasses
import functools
import random
from collections import Counter
from collections.abc import Callable, Sequence

from t2i_jax.data.scenes import captions as say
from t2i_jax.data.scenes.facts import Fact, Object, Scene, Spec
from t2i_jax.data.scenes.geometry import box_of, relation_between
from t2i_jax.data.scenes.heldout import heldout_in_facts, heldout_in_objects, heldout_pair
from t2i_jax.data.scenes.layout import clear, radii_of
from t2i_jax.data.scenes.recipes import DIRECTIONS, RECIPES, Draw
from t2i_jax.data.scenes.vocabulary import COLORS, SIZES, SPLITS, Level, find_level, size_name
from t2i_jax.errors import ConfigError

EDITS = ("recolor", "reshape", "add", "remove", "swap", "resize")
FIRST = ("single", "binding", "count", "relation")  # categories of scenes that are edited
_TRIES = 20  # draws of an edit before another scene is drawn, of a position before another edit


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
class Edit:
  """An instruction, and what must be true of the image afterwards.

  kind     a name in EDITS
  facts    facts of the image afterwards, on the instruction and on the number of objects; at least
           one is false before
  touched  the objects to change, move or remove, as they are before
  kept     the other objects, which must not change
  changed  the objects that must replace `touched`
  heldout  whether what must be there afterwards, or is removed, has a composition that train and
           val never contain
  """

  kind: str
  instruction: str
  facts: tuple[Fact, ...]
  touched: tuple[Object, ...]
  kept: tuple[Object, ...]
  changed: tuple[Wanted, ...]
  heldout: bool


@dataclasses.dataclass(frozen=True)
class Turn:
  """A scene, an edit of it, and the edited scene."""

  before: Scene
  edit: Edit
  after: Scene


@dataclasses.dataclass(frozen=True)
class _Plan:
  """A sampled edit: objects before and after, and the wordings of the instruction."""

  old: tuple[Object, ...]
  new: tuple[Object, ...]
  wanted: tuple[Wanted, ...]
  facts: tuple[Fact, ...]
  wordings: tuple[str, ...]  # the first is the plain one


@dataclasses.dataclass(frozen=True)
class _Sketch:
  """The state of one draw of an edit;   alone: objects that are unique in colour and shape"""

  rng: random.Random
  level: Level
  objects: tuple[Object, ...]

  @functools.cached_property
  def alone(self) -> list[Object]:
    number = Counter(_looks(o) for o in self.objects)
    return [o for o in self.objects if number[_looks(o)] == 1]

  def the(self, o: Object) -> str:
    """A description of the object with its article, which fits no other object."""
    looks = _looks(o)
    full = not self.level.sizes or heldout_pair(o.color, o.shape) or self.rng.random() < 0.5
    options = [looks] if full else [Spec(shape=o.shape), Spec(o.color), looks]
    spec = next(s for s in options if sum(map(s.fits, self.objects)) == 1)
    return f"the {say.noun(spec)}"


def _looks(o: Object) -> Spec:
  return Spec(o.color, o.shape)


def _there(o: Object) -> Wanted:
  return Wanted(_looks(o), o.x, o.y, o.r)


def _recolor(d: _Sketch) -> _Plan | None:
  old = d.rng.choice(d.alone)
  new = dataclasses.replace(old, color=d.rng.choice([c for c in COLORS if c != old.color]))
  facts = (Fact("exists", _looks(new)), Fact("absent", _looks(old)))
  the = d.the(old)
  wordings = (
    f"make {the} {new.color}",
    f"change {the} to {new.color}",
    f"paint {the} {new.color}",
  )
  return _Plan((old,), (new,), (_there(new),), facts, wordings)


def _reshape(d: _Sketch) -> _Plan | None:
  old = d.rng.choice(d.alone)
  new = dataclasses.replace(old, shape=d.rng.choice([s for s in d.level.shapes if s != old.shape]))
  facts = (Fact("exists", _looks(new)), Fact("absent", _looks(old)))
  the, shape = d.the(old), say.one(Spec(shape=new.shape))
  wordings = (f"turn {the} into {shape}", f"change {the} into {shape}", f"make {the} {shape}")
  return _Plan((old,), (new,), (_there(new),), facts, wordings)


def _resize(d: _Sketch) -> _Plan | None:
  old = d.rng.choice(d.alone)
  size = d.rng.choice([s for s in SIZES if s != old.size])
  new = dataclasses.replace(old, size=size, r=d.rng.uniform(*SIZES[size]))
  asked = dataclasses.replace(_looks(old), size=size)
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
  return _Plan((old,), (new,), (Wanted(asked, old.x, old.y),), facts, wordings)


def _add(d: _Sketch) -> _Plan | None:
  anchor, relation = d.rng.choice(d.alone), d.rng.choice(DIRECTIONS)
  size = d.rng.choice(tuple(SIZES)) if d.level.sizes else None
  spec = Spec(d.rng.choice(tuple(COLORS)), d.rng.choice(d.level.shapes), size)
  new = _beside(d, spec, relation, anchor)
  if new is None:
    return None
  asked = spec if d.rng.random() < 0.5 else _looks(new)
  facts = (Fact("exists", asked), Fact("relation", _looks(new), relation, _looks(anchor)))
  words = zip(("add", "put", "place"), say.WORDINGS[relation], strict=True)
  the = d.the(anchor)
  wordings = tuple(f"{verb} {say.one(asked)} {where} {the}" for verb, where in words)
  return _Plan((), (new,), (Wanted(asked),), facts, wordings)


def _beside(d: _Sketch, spec: Spec, relation: str, anchor: Object) -> Object | None:
  """A new object in a clear relation to an existing one, or None where no position is found."""
  assert spec.color and spec.shape
  band = radii_of(spec, d.level, len(d.objects) + 1)
  for _ in range(_TRIES):
    r = d.rng.uniform(*band)
    size = spec.size or size_name(r)
    new = Object(spec.shape, spec.color, size, d.rng.random(), d.rng.random(), r)
    if clear(new, relation, anchor, d.level) and _fits((*d.objects, new), d.level):
      return new
  return None


def _remove(d: _Sketch) -> _Plan | None:
  old = d.rng.choice(d.alone)
  the = d.the(old)
  wordings = (f"remove {the}", f"delete {the}", f"take {the} away")
  return _Plan((old,), (), (), (Fact("absent", _looks(old)),), wordings)


def _swap(d: _Sketch) -> _Plan | None:
  a, b = d.rng.sample(d.alone, 2)
  new = (dataclasses.replace(a, x=b.x, y=b.y), dataclasses.replace(b, x=a.x, y=a.y))
  relation = relation_between(*new)
  if not clear(new[0], relation, new[1], d.level):
    return None
  facts = (
    Fact("exists", _looks(a)),
    Fact("exists", _looks(b)),
    Fact("relation", _looks(a), relation, _looks(b)),
  )
  both = f"{d.the(a)} and {d.the(b)}"
  wordings = (f"swap {both}", f"swap the places of {both}", f"let {both} change places")
  return _Plan((a, b), new, tuple(map(_there, new)), facts, wordings)


_PLANS: dict[str, Callable[[_Sketch], _Plan | None]] = {
  "recolor": _recolor,
  "reshape": _reshape,
  "add": _add,
  "remove": _remove,
  "swap": _swap,
  "resize": _resize,
}


def _fits(objects: Sequence[Object], level: Level) -> bool:
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


def _allows(d: _Sketch, kind: str) -> bool:
  """Whether the scene allows an edit of a kind."""
  if kind == "add" and len(d.objects) == d.level.max_objects:
    return False
  if kind == "remove" and len(d.objects) == 1:  # an empty image has no caption
    return False
  return len(d.alone) >= (2 if kind == "swap" else 1)


def _replaced(
  objects: Sequence[Object], old: Sequence[Object], new: Sequence[Object]
) -> tuple[Object, ...]:
  """The objects with the old ones replaced or removed; added objects come last."""
  becomes = dict(zip(old, new, strict=False))
  rest = [becomes.get(o, o) for o in objects if o in becomes or o not in old]
  return (*rest, *new[len(old) :])


def _asks_heldout(plan: _Plan) -> bool:
  """Whether the facts afterwards (of remove: before) have a held-out composition."""
  facts = [f for f in plan.facts if f.kind != "absent" or not plan.new]
  return heldout_in_facts(facts)


def _described(objects: tuple[Object, ...], level: Level) -> Scene:
  """A scene whose captions list its objects, with sizes in levels that have them."""
  groups = Counter(Spec(o.color, o.shape, o.size if level.sizes else None) for o in objects)
  phrases = [say.one(s) if n == 1 else say.several(s, n) for s, n in groups.items()]
  facts = [Fact("exists", s) if n == 1 else Fact("count", s, n=n) for s, n in groups.items()]
  text, back = say.listed(phrases), say.listed(phrases[::-1])
  captions = tuple(dict.fromkeys((text, f"a picture of {text}", back)))
  category = "single" if len(objects) == 1 else "binding"
  return Scene(
    objects,
    (*facts, Fact("total", n=len(objects))),
    captions if level.sizes else captions[:1],
    "count" if len(groups) < len(objects) else category,
    level.name,
    heldout_in_facts(facts),
  )


def _allowed(objects: tuple[Object, ...], plan: _Plan, level: Level, heldout: bool) -> bool:
  """Whether these objects, the result of a plan, are allowed."""
  number = Counter(map(_looks, objects))
  if any(number[_looks(o)] > 1 for o in plan.new) or not _fits(objects, level):
    return False
  return heldout or not heldout_in_objects(objects)


def _edit(d: _Sketch, kind: str, plan: _Plan, total: int, heldout: bool) -> Edit:
  return Edit(
    kind,
    d.rng.choice(plan.wordings) if d.level.sizes else plan.wordings[0],
    (*plan.facts, Fact("total", n=total)),
    plan.old,
    tuple(o for o in d.objects if o not in plan.old),
    plan.wanted,
    heldout,
  )


def _turn(rng: random.Random, scene: Scene, kind: str, heldout: bool) -> Turn | None:
  """An edit of a kind, or None where no draw succeeds."""
  level = find_level(scene.level)
  sketch = _Sketch(rng, level, scene.objects)
  if not _allows(sketch, kind):
    return None
  for _ in range(_TRIES):
    plan = _PLANS[kind](sketch)
    if plan is None or _asks_heldout(plan) != heldout:
      continue
    objects = _replaced(scene.objects, plan.old, plan.new)
    if _allowed(objects, plan, level, heldout):
      edit = _edit(sketch, kind, plan, len(objects), heldout)
      return Turn(scene, edit, _described(objects, level))
  return None


def _chain(
  rng: random.Random, level: Level, kinds: Sequence[str], heldout: bool
) -> tuple[Turn, ...] | None:
  """Consecutive edits of these kinds of one scene, or None where a draw fails."""
  category = rng.choice([c for c in FIRST if c in level.categories])
  pair = heldout and rng.random() < 0.5
  scene = RECIPES[category](Draw(rng, level, category, pair=pair))
  turns: list[Turn] = []
  for kind in kinds:
    turn = _turn(rng, scene, kind, heldout) if scene else None
    if turn is None:
      return None
    turns.append(turn)
    scene = turn.after
  return tuple(turns)


def edit_kinds(level: str) -> tuple[str, ...]:
  """The kinds of edits of a level. Raises ConfigError on an unknown level."""
  return EDITS if find_level(level).sizes else tuple(k for k in EDITS if k != "resize")


def make_edits(
  index: int, level: str, split: str, seed: int = 0, turns: int = 1
) -> tuple[Turn, ...]:
  """Consecutive edits of one scene, each of the result of the one before.

  A function of the arguments alone, the same on every machine.

  index  any integer of at least 0
  level  a name in LEVELS; the kind of the first edit is uniform over its kinds
  split  "train", "val" (compositions as in train, other scenes) or "heldout" (each edit has a
         composition that train and val never show nor mention)
  turns  edits, at least 1
  Raises ConfigError on an unknown level or split, and on no turns.
  """
  found, kinds = find_level(level), edit_kinds(level)
  if split not in SPLITS:
    raise ConfigError(f"{split!r} is not a split of edits. Use one of {list(SPLITS)}.")
  if turns < 1:
    raise ConfigError(f"turns={turns} leaves nothing to edit; use 1 or more.")
  rng = random.Random(f"edits/{seed}/{level}/{split}/{index}")
  first = rng.choice(kinds)
  while True:
    later = [rng.choice(kinds) for _ in range(turns - 1)]
    chain = _chain(rng, found, [first, *later], split == "heldout")
    if chain is not None:
      return chain


def make_edit(index: int, level: str, split: str, seed: int = 0) -> Turn:
  """One edit of a scene; see `make_edits`."""
  return make_edits(index, level, split, seed)[0]


def edit_prompts(level: str, kind: str, heldout: bool, n: int, seed: int = 0) -> list[Turn]:
  """n edits of one kind for evaluation, in a fixed order.

  The random streams differ from those of `make_edits` at every index, so that no scene repeats; an
  instruction may. Raises ConfigError on an unknown level, or a kind that the level does not have.
  """
  found, kinds = find_level(level), edit_kinds(level)
  if kind not in kinds:
    known = "a kind of edit of other levels" if kind in EDITS else "no kind of edit"
    raise ConfigError(f"{kind!r} is {known}; level {level!r} has {list(kinds)}.")
  chosen: list[Turn] = []
  split = "heldout" if heldout else "seen"
  for index in range(n):
    rng = random.Random(f"edit_prompts/{seed}/{level}/{kind}/{split}/{index}")
    chain = None
    while chain is None:
      chain = _chain(rng, found, [kind], heldout)
    chosen += chain
  return chosen
