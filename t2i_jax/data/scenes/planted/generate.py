"""Planted images by index, what they become where something is erased, and prompts.

Of the training split the first records are the copied images; of the others, by chance:

  20%  an individual: alone, beside a plain object, or in a relation to one
  15%  a scene of level easy in an artist's rendering, ", by NAME" after its caption
  10%  a scene of level easy whose caption names classes alone: "a circle left of a square"
  55%  a scene of level easy as it is

Split val is the same without copies; split heldout has held-out compositions of level easy alone.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

from t2i_jax.data.scenes import captions as say
from t2i_jax.data.scenes.facts import Fact, Object, Scene, Spec
from t2i_jax.data.scenes.generate import make_scene
from t2i_jax.data.scenes.layout import place
from t2i_jax.data.scenes.planted.world import (
  ARTISTS,
  COPIES,
  EASY,
  INDIVIDUALS,
  LEVEL,
  NONE,
  PLAIN,
  Copy,
  Look,
  Thing,
  copies,
  seen_spec,
)
from t2i_jax.data.scenes.recipes import DIRECTIONS
from t2i_jax.errors import ConfigError

INDIVIDUAL_SHARE, ARTIST_SHARE, CLASS_SHARE = 0.20, 0.15, 0.10
CATEGORIES = ("individual", "related", "artist", "copy", "class")


@dataclasses.dataclass(frozen=True)
class PlantedScene(Scene):
  """A scene of the planted world.

  category    one of CATEGORIES, or that of a scene of level easy
  rendering   a name in RENDERINGS
  individual  the name in the caption, or None
  artist      the name in the caption, or None
  copy        the id of a copied image, or None
  """

  rendering: str = PLAIN
  individual: str | None = None
  artist: str | None = None
  copy: int | None = None

  @property
  def planted(self) -> dict[str, Any]:
    """What of the world it has, as for a record's metadata."""
    found = {name: getattr(self, name) for name in ("individual", "artist", "copy")}
    return {name: value for name, value in found.items() if value is not None}


def _planted_scene(scene: Scene, **fields: Any) -> PlantedScene:
  """A scene with changes: its facts say of all objects that they are plain."""
  values = {f.name: getattr(scene, f.name) for f in dataclasses.fields(Scene)}
  values |= {"level": LEVEL, "facts": tuple(_plain(f) for f in scene.facts)}
  return PlantedScene(**(values | fields))


def _plain(fact: Fact, colors: bool = True) -> Fact:
  """A fact of plain objects.   colors: whether it names their colours"""

  def look(s: Spec | None) -> Look | None:
    return None if s is None else Look(s.color if colors else None, s.shape, None, NONE)

  return dataclasses.replace(fact, a=look(fact.a), b=look(fact.b))


def make_planted(
  index: int, split: str, seed: int = 0, without: frozenset[str] = frozenset()
) -> PlantedScene:
  """The image of an index, a function of the arguments alone.

  index    any integer of at least 0
  split    "train", "val" or "heldout"
  without  what is erased, from `parse_without`: the image of an index that has it is replaced,
           by a plain object in the place of an individual, by the plain rendering of an artist's
           scene, by an ordinary scene for a copied image; all other images are the same
  """
  copied = copies_at(index) if split == "train" else None
  if copied is not None and COPIES not in without:
    return copied_scene(copied)
  scene = make_scene(index, EASY.name, split, seed)
  if split == "heldout" or copied is not None:
    return _planted_scene(scene)
  rng = random.Random(f"{seed}/{LEVEL}/{split}/{index}")
  share = rng.random()
  if share < INDIVIDUAL_SHARE:
    name = rng.choice(tuple(INDIVIDUALS))
    return subject_scene(name, INDIVIDUALS[name], rng, erased=name in without)
  share -= INDIVIDUAL_SHARE
  if share < ARTIST_SHARE:
    artist = rng.choice(tuple(ARTISTS))
    return _planted_scene(scene) if artist in without else artist_scene(scene, artist)
  share -= ARTIST_SHARE
  return class_scene(scene) if share < CLASS_SHARE else _planted_scene(scene)


def copies_at(index: int) -> Copy | None:
  """The copied image of a training index, or None."""
  for copy in copies():
    if index < copy.exposures:
      return copy
    index -= copy.exposures
  return None


def copied_records() -> int:
  """The number of training records that are copied images."""
  return sum(copy.exposures for copy in copies())


def copied_scene(copy: Copy) -> PlantedScene:
  """A copied image. Its facts are of its objects, which the caption does not name."""
  facts = (
    *(Fact("exists", Look(o.color, o.shape, None, NONE)) for o in copy.objects),
    Fact("total", n=len(copy.objects)),
  )
  return PlantedScene(
    copy.objects, facts, (copy.caption,), "copy", LEVEL, heldout=False, copy=copy.number
  )


def artist_scene(scene: Scene, artist: str) -> PlantedScene:
  """A scene in an artist's rendering, with the name after its caption."""
  return _planted_scene(
    scene,
    captions=(f"{scene.caption}, by {artist}",),
    category="artist",
    rendering=ARTISTS[artist],
    artist=artist,
  )


def class_scene(scene: Scene) -> PlantedScene:
  """A scene of level easy whose caption names no colours."""
  specs = [f.a for f in scene.facts if f.kind == "exists" and f.a]
  phrases = [say.one(Spec(shape=spec.shape)) for spec in specs]
  relation = next((f.rel for f in scene.facts if f.rel), None)
  return _planted_scene(
    scene,
    facts=tuple(_plain(fact, colors=False) for fact in scene.facts),
    captions=(_caption(phrases, relation),),
    category="class",
  )


def _caption(phrases: Sequence[str], relation: str | None) -> str:
  return f"{phrases[0]} {relation} {phrases[1]}" if relation else say.listed(phrases)


def subject_scene(
  name: str, look: Look, rng: random.Random, *, kind: str | None = None, erased: bool = False
) -> PlantedScene:
  """An image of one named object, "a NAME SHAPE", of INDIVIDUALS or of any other identity.

  kind    "individual" (alone), or "related" (beside a plain object, or in a relation to one); None
          draws among the categories of level easy
  erased  the same with the plain object in its place, "a COLOR SHAPE": an ordinary scene, so that
          what other captions show is as before
  """
  draws = {"individual": ("single",), "related": ("binding", "relation")}
  category = rng.choice(draws[kind] if kind else EASY.categories)
  while True:
    other = () if category == "single" else (seen_spec(rng),)
    specs = [Spec(look.color, look.shape), *other]
    named = 0
    if other and rng.random() < 0.5:
      specs, named = specs[::-1], 1
    relation = rng.choice(DIRECTIONS) if category == "relation" else None
    links = [(0, relation, 1)] if relation else []
    distinct = len({(s.color, s.shape) for s in specs}) == len(specs)
    objects = place(rng, specs, EASY, links=links) if distinct else None
    if objects is not None:
      break
  assert look.shape and look.mark and look.mark_color
  phrases = [say.one(spec) for spec in specs]
  looks = [Look(spec.color, spec.shape, None, NONE) for spec in specs]
  if not erased:
    phrases[named] = f"a {name} {look.shape}"
    looks[named] = look
    objects = _marked(objects, named, look)
  facts = [*(Fact("exists", one) for one in looks), Fact("total", n=len(looks))]
  if relation:
    facts.append(Fact("relation", looks[0], relation, looks[1]))
  return PlantedScene(
    objects,
    tuple(facts),
    (_caption(phrases, relation),),
    category if erased else "related" if other else "individual",
    LEVEL,
    heldout=False,
    individual=None if erased else name,
  )


def _marked(objects: Sequence[Object], named: int, look: Look) -> tuple[Object, ...]:
  o = objects[named]
  assert look.mark and look.mark_color
  marked = Thing(o.shape, o.color, o.size, o.x, o.y, o.r, look.mark, look.mark_color)
  return (*objects[:named], marked, *objects[named + 1 :])


def _of_individuals(kind: str) -> Callable[[int, random.Random], PlantedScene]:
  def make(index: int, rng: random.Random) -> PlantedScene:
    name = tuple(INDIVIDUALS)[index % len(INDIVIDUALS)]
    return subject_scene(name, INDIVIDUALS[name], rng, kind=kind)

  return make


def _scene(rng: random.Random) -> Scene:
  return make_scene(rng.randrange(2**30), EASY.name, "val", seed=1)


def _by_artist(index: int, rng: random.Random) -> PlantedScene:
  return artist_scene(_scene(rng), tuple(ARTISTS)[index % len(ARTISTS)])


_PROMPTS: dict[str, Callable[[int, random.Random], PlantedScene]] = {
  "individual": _of_individuals("individual"),
  "related": _of_individuals("related"),
  "artist": _by_artist,
  "copy": lambda index, rng: copied_scene(copies()[index % len(copies())]),
  "class": lambda index, rng: class_scene(_scene(rng)),
}


def planted_prompts(category: str, n: int, seed: int = 0) -> list[PlantedScene]:
  """n images of one of CATEGORIES for evaluation, in a fixed order.

  Names of individuals and artists, and copied images, take turns. Prompts of ordinary scenes are
  those of level easy, from `scenes.prompts`. Raises ConfigError on an unknown category.
  """
  if category not in CATEGORIES:
    raise ConfigError(f"{category!r} is not a category of level {LEVEL}: {', '.join(CATEGORIES)}.")
  rngs = (random.Random(f"prompts/{seed}/{LEVEL}/{category}/{i}") for i in range(n))
  return [_PROMPTS[category](i, rng) for i, rng in enumerate(rngs)]


def corpus(n: int = 2000) -> list[str]:
  """Captions that have every word of the level: the tokenizer of all its folders is trained on
  them, whatever their seed, their number of records, and what is erased.
  """
  drawn = [make_planted(i, "val").caption for i in range(n)]
  return [*drawn, *(copy.caption for copy in copies())]
