"""Edits of scenes: the instruction, the facts that hold afterwards, and what must not change.

Kinds
  recolor  "make the red circle blue"
  reshape  "turn the red circle into a square"
  add      "add a blue square left of the red circle"
  remove   "remove the red circle"
  swap     "swap the red circle and the blue square": exchanges their positions
  resize   "make the red circle large"; only in levels with sizes
  move     "move the red circle above the blue square"; of `make_edit_of` and `edit_prompts` alone

An instruction identifies its objects uniquely, and no edit makes two objects equal in colour and
shape. Other objects are identical in both scenes; an object that is recoloured, reshaped or resized
keeps its centre. Levels without sizes have one wording per kind, of at most 9 words; the others
have three, and shorter names of objects where these are unique.

Scenes before and after obey the level's layout rules. In train and val neither of them, nor the
instruction, has a held-out composition. Every edit of split heldout has one in its facts: among
what must be there afterwards, or as what is removed.
"""

import dataclasses
import random
from collections import Counter
from collections.abc import Sequence

from t2i_jax.data.scenes import captions as say
from t2i_jax.data.scenes.edit_plans import MOVE, PLANS, Plan, Sketch, Wanted, fits, looks
from t2i_jax.data.scenes.facts import Fact, Object, Scene, Spec
from t2i_jax.data.scenes.heldout import heldout_in_facts, heldout_in_objects
from t2i_jax.data.scenes.recipes import RECIPES, Draw
from t2i_jax.data.scenes.vocabulary import SPLITS, Level, find_level
from t2i_jax.errors import ConfigError

EDITS = ("recolor", "reshape", "add", "remove", "swap", "resize")
FIRST = ("single", "binding", "count", "relation")  # categories of scenes that are edited
_TRIES = 20  # draws of an edit before another scene is drawn


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


def _allows(d: Sketch, kind: str) -> bool:
  """Whether the scene allows an edit of a kind."""
  if kind == "add" and len(d.objects) == d.level.max_objects:
    return False
  if kind == "remove" and len(d.objects) == 1:  # an empty image has no caption
    return False
  return len(d.alone) >= (2 if kind in ("swap", MOVE) else 1)


def _replaced(
  objects: Sequence[Object], old: Sequence[Object], new: Sequence[Object]
) -> tuple[Object, ...]:
  """The objects with the old ones replaced or removed; added objects come last."""
  becomes = dict(zip(old, new, strict=False))
  rest = [becomes.get(o, o) for o in objects if o in becomes or o not in old]
  return (*rest, *new[len(old) :])


def _asks_heldout(plan: Plan) -> bool:
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


def _allowed(objects: tuple[Object, ...], plan: Plan, level: Level, heldout: bool) -> bool:
  """Whether these objects, the result of a plan, are allowed."""
  number = Counter(map(looks, objects))
  if any(number[looks(o)] > 1 for o in plan.new) or not fits(objects, level):
    return False
  return heldout or not heldout_in_objects(objects)


def _edit(d: Sketch, kind: str, plan: Plan, total: int, heldout: bool) -> Edit:
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
  sketch = Sketch(rng, level, scene.objects)
  if not _allows(sketch, kind):
    return None
  for _ in range(_TRIES):
    plan = PLANS[kind](sketch)
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


def make_edit_of(kind: str, index: int, level: str, split: str, seed: int = 0) -> Turn:
  """One edit of this kind, MOVE as well; else as `make_edits`, whose scenes are others."""
  found = _checked(kind, level)
  if split not in SPLITS:
    raise ConfigError(f"{split!r} is not a split of edits. Use one of {list(SPLITS)}.")
  rng = random.Random(f"edits of {kind}/{seed}/{level}/{split}/{index}")
  chain = None
  while chain is None:
    chain = _chain(rng, found, [kind], split == "heldout")
  return chain[0]


def _checked(kind: str, level: str) -> Level:
  """The level. Raises ConfigError where it is unknown, or does not have the kind."""
  kinds = (*edit_kinds(level), MOVE)
  if kind not in kinds:
    known = "a kind of edit of other levels" if kind in EDITS else "no kind of edit"
    raise ConfigError(f"{kind!r} is {known}; level {level!r} has {list(kinds)}.")
  return find_level(level)


def edit_prompts(level: str, kind: str, heldout: bool, n: int, seed: int = 0) -> list[Turn]:
  """n edits of one kind for evaluation, in a fixed order.

  The random streams differ from those of `make_edits` at every index, so that no scene repeats; an
  instruction may. Raises ConfigError on an unknown level, or a kind that the level does not have.
  """
  found = _checked(kind, level)
  chosen: list[Turn] = []
  split = "heldout" if heldout else "seen"
  for index in range(n):
    rng = random.Random(f"edit_prompts/{seed}/{level}/{kind}/{split}/{index}")
    chain = None
    while chain is None:
      chain = _chain(rng, found, [kind], heldout)
    chosen += chain
  return chosen
