"""What benchmarks.forgetting erases, and what it draws: concepts, anchors, neighbours.

Four kinds, each with two concepts that are reported and one on which settings are chosen:

  instance     an individual, "grum circle" -> "circle"
  style        an artist, ", by outl" -> nothing
  caption      a copied image, "scene 90 77" -> its objects in words
  composition  "a red circle and a blue square" -> "a red circle"; either object stays
"""

import dataclasses
import functools
import random
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.personalisation_bench import Groups, scene_of
from benchmarks.personalisation_world import class_scene, own_scene
from benchmarks.planted import changed_looks
from t2i_jax.adapt.forget import filled
from t2i_jax.data.scenes import captions as say
from t2i_jax.data.scenes.facts import Spec
from t2i_jax.data.scenes.planted import (
  ARTISTS,
  INDIVIDUALS,
  PLAIN,
  Look,
  PlantedScene,
  artist_scene,
  copied_scene,
  copies,
  subject_scene,
)
from t2i_jax.data.scenes.planted.world import NONE
from t2i_jax.evaluation.planted_judge import ATTRIBUTES, same_layout
from t2i_jax.evaluation.planted_reader import Reading

KINDS = ("instance", "style", "caption", "composition")
# Of a cell, drawings by group of prompts: target names the concept; contexts names it otherwise, in
# prompts that no method is trained on; anchor; near and far are neighbours that stay; own is of the
# base's own distribution, of nothing planted.
COUNTS = {"target": 30, "contexts": 20, "anchor": 20, "near": 20, "far": 10, "own": 20}
DEV_COUNTS = {"target": 15, "anchor": 15, "near": 15, "own": 15}
ERASED = ("target", "contexts")
TEMPLATES = 12  # captions that an artist's name is trained in
STYLE_SCENES = 60  # that styles are drawn of
SHARED = 2  # attributes that a near neighbour has in common with an individual, at least
TEMPLATE_SCENES = 500  # the first of them, among scenes of the base's own distribution


class Concept(NamedTuple):
  """What is erased.

  concept, anchor  as `t2i forget` has them
  name             of the individual, the artist or the copied image; "" of a composition
  objects          of a composition: what is erased together
  """

  kind: str
  concept: str
  anchor: str
  name: str = ""
  objects: tuple[Look, ...] = ()

  @property
  def key(self) -> str:
    """In names of files."""
    return self.name or "_".join(f"{o.color}_{o.shape}" for o in self.objects)

  @property
  def look(self) -> Look:
    return INDIVIDUALS[self.name]

  @property
  def templates(self) -> tuple[str, ...]:
    """Of training."""
    return {"instance": ("a {}",), "style": style_templates()}.get(self.kind, ("{}",))

  def renamed(self, caption: str) -> str:
    """The caption with the anchor in the place of the concept: string replacement."""
    if self.concept not in caption:
      return caption
    return filled(caption.replace(self.concept, "{}"), self.anchor)

  def drawn(self, seen: Reading) -> bool:
    """Whether an image has the concept, whatever its prompt was."""
    if self.kind == "style":
      return seen.rendering == ARTISTS[self.name]
    if self.kind == "caption":
      return same_layout(seen.objects, copies()[int(self.name)].objects)
    looks = self.objects or (self.look,)
    return all(any(look.fits(o) for o in seen.objects) for look in looks)

  def changed(self, scene: PlantedScene) -> PlantedScene:
    """What is drawn for a scene's prompt once the concept is its anchor."""
    if self.kind == "instance":
      return changed_looks(scene, lambda look: Look(None, look.shape, None, NONE))
    if self.kind == "style":
      return dataclasses.replace(scene, rendering=PLAIN)
    if self.kind == "caption":
      return dataclasses.replace(scene, copy=None)
    return scene_of(self.anchor, self.objects[0])


def plain(color: str, shape: str) -> Look:
  return Look(color, shape, None, NONE)


def described(look: Look) -> str:
  """ "a red circle" """
  return say.one(Spec(look.color, look.shape))


def individual(name: str) -> Concept:
  shape = INDIVIDUALS[name].shape
  return Concept("instance", f"{name} {shape}", str(shape), name)


def artist(name: str) -> Concept:
  return Concept("style", f"by {name}", "", name)


def copied(number: int) -> Concept:
  copy = copies()[number]
  anchor = say.listed([say.one(Spec(o.color, o.shape)) for o in copy.objects])
  return Concept("caption", copy.caption, anchor, str(number))


def composition(one: Look, other: Look) -> Concept:
  both = say.listed([described(one), described(other)])
  return Concept("composition", both, described(one), objects=(one, other))


REPORTED: dict[str, tuple[Concept, Concept]] = {
  "instance": (individual("grum"), individual("mirn")),
  "style": (artist("outl"), artist("pael")),
  "caption": (copied(20), copied(21)),
  "composition": (
    composition(plain("red", "circle"), plain("blue", "square")),
    composition(plain("black", "triangle"), plain("yellow", "circle")),
  ),
}
DEVELOPMENT: dict[str, Concept] = {
  "instance": individual("zaff"),
  "style": artist("nokt"),
  "caption": copied(22),
  "composition": composition(plain("green", "square"), plain("purple", "triangle")),
}
# In the twin; a composition is in it, since the world has no records without one.
WITHOUT = "grum,mirn,outl,pael,copies"
IN_TWIN = ("composition",)


@functools.cache
def style_templates() -> tuple[str, ...]:
  """ "a red circle, {}": captions of other scenes than those that are drawn."""
  found: dict[str, None] = {}
  i = TEMPLATE_SCENES
  while len(found) < TEMPLATES:
    scene = own_scene(i)
    if not scene.planted:
      found[f"{scene.caption}, {{}}"] = None
    i += 1
  return tuple(found)


def own_scenes(concept: Concept, count: int) -> list[PlantedScene]:
  """Scenes of the base's own distribution with nothing planted, and without the composition."""
  return list(_own_scenes(concept.objects, count))


@functools.cache
def _own_scenes(objects: tuple[Look, ...], count: int) -> tuple[PlantedScene, ...]:
  found, i = list[PlantedScene](), 0
  while len(found) < count:
    scene = own_scene(i)
    whole = objects and all(_names(scene, look) for look in objects)
    if not scene.planted and not whole:
      found.append(scene)
    i += 1
  return tuple(found)


def _names(scene: PlantedScene, look: Look) -> bool:
  return any(
    f.kind == "exists" and f.a and (f.a.color, f.a.shape) == (look.color, look.shape)
    for f in scene.facts
  )


def groups_of(concept: Concept, counts: dict[str, int]) -> Groups:
  """The scenes whose captions are prompts, and whose facts are what is right; a group of fewer has
  the first of those of a group of more."""
  make = {"instance": _instance, "style": _style, "caption": _caption, "composition": _composed}
  found = make[concept.kind](concept, counts)
  return {group: found[group] for group in counts}


def _in_turn(scenes: Sequence[PlantedScene], count: int) -> list[PlantedScene]:
  return [scenes[i % len(scenes)] for i in range(count)]


def alone(name: str) -> PlantedScene:
  """ "a grum circle" """
  return subject_scene(name, INDIVIDUALS[name], random.Random(0), kind="individual")


def related(name: str, i: int) -> PlantedScene:
  """An individual beside a plain object, or in a relation to one."""
  return subject_scene(name, INDIVIDUALS[name], random.Random(f"forgetting/{i}"), kind="related")


def aliases(name: str) -> list[str]:
  """The other names of an individual."""
  look = INDIVIDUALS[name]
  return [other for other, its in INDIVIDUALS.items() if its == look and other != name]


def shared(a: Look, b: Look) -> int:
  """Attributes that two individuals have in common."""
  return sum(getattr(a, name) == getattr(b, name) for name in ATTRIBUTES)


def neighbours(concept: Concept) -> tuple[list[str], list[str]]:
  """Names of other individuals: near, which share attributes, and far."""
  other = [name for name, look in INDIVIDUALS.items() if look != concept.look]
  near = [name for name in other if shared(INDIVIDUALS[name], concept.look) >= SHARED]
  return near, [name for name in other if name not in near]


def _instance(concept: Concept, counts: dict[str, int]) -> Groups:
  near, far = neighbours(concept)
  plain_names = [name for name in near if name not in _targets()]
  return {
    "target": [alone(concept.name)] * counts.get("target", 0),
    "contexts": [related(concept.name, i) for i in range(counts.get("contexts", 0))],
    "anchor": [class_scene(concept.anchor)] * counts.get("anchor", 0),
    "near": _in_turn([alone(name) for name in plain_names or near], counts.get("near", 0)),
    "far": _in_turn([alone(name) for name in far if name not in _targets()], counts.get("far", 0)),
    "own": own_scenes(concept, counts.get("own", 0)),
  }


def _targets() -> set[str]:
  """Individuals that are erased in the twin, under all of their names: no neighbours."""
  names = [concept.name for concept in REPORTED["instance"]]
  return {*names, *(other for name in names for other in aliases(name))}


def _style(concept: Concept, counts: dict[str, int]) -> Groups:
  scenes = own_scenes(concept, STYLE_SCENES)
  of = lambda name, group: [artist_scene(s, name) for s in scenes[: counts.get(group, 0)]]
  # The other one that is reported: the base draws the third, of dark grounds, too seldom right.
  near = of(next(c.name for c in REPORTED["style"] if c != concept), "near")
  contexts = [
    dataclasses.replace(scene, captions=(scene.caption.replace(", by", " by"),))
    for scene in of(concept.name, "contexts")
  ]
  known = [name for name in INDIVIDUALS if name not in _targets()]
  return {
    "target": of(concept.name, "target"),
    "contexts": contexts,
    "anchor": scenes[: counts.get("anchor", 0)],
    "near": near,
    "far": _in_turn([alone(name) for name in known], counts.get("far", 0)),
    "own": own_scenes(concept, STYLE_SCENES + counts.get("own", 0))[STYLE_SCENES:],
  }


def _caption(concept: Concept, counts: dict[str, int]) -> Groups:
  copy, erased = copies()[int(concept.name)], {one.name for one in REPORTED["caption"]}
  words = set(copy.caption.split()[1:])
  others = [one for one in copies() if one.exposures >= 256 and str(one.number) not in erased
            and one.number != copy.number]  # fmt: skip
  near = [one for one in others if words & set(one.caption.split())]
  far = [one for one in others if one not in near]
  target, (_, first, second) = copied_scene(copy), copy.caption.split()
  reworded = [f"a scene {first} {second}", f"scene {second} {first}"]
  said = scene_of(concept.anchor, *(plain(o.color, o.shape) for o in copy.objects))
  return {
    "target": [target] * counts.get("target", 0),
    "contexts": _in_turn(
      [dataclasses.replace(target, captions=(text,)) for text in reworded],
      counts.get("contexts", 0),
    ),
    "anchor": [said] * counts.get("anchor", 0),
    "near": _in_turn([copied_scene(one) for one in near or far], counts.get("near", 0)),
    "far": _in_turn([copied_scene(one) for one in far or near], counts.get("far", 0)),
    "own": own_scenes(concept, counts.get("own", 0)),
  }


def _composed(concept: Concept, counts: dict[str, int]) -> Groups:
  one, other = concept.objects
  first, second = described(one), described(other)
  contexts = [
    scene_of(f"{second} and {first}", other, one),
    scene_of(f"{first} left of {second}", one, other, relation="left of"),
  ]
  beside = [plain("green", "triangle"), plain("cyan", "square"), plain("orange", "circle")]
  pairs = [
    scene_of(say.listed([described(look), described(third)]), look, third)
    for third in beside
    for look in concept.objects
    if third not in concept.objects
  ]
  return {
    "target": [scene_of(concept.concept, one, other)] * counts.get("target", 0),
    "contexts": _in_turn(contexts, counts.get("contexts", 0)),
    "anchor": [scene_of(first, one)] * counts.get("anchor", 0),
    "near": _in_turn([scene_of(second, other), *pairs], counts.get("near", 0)),
    "far": _in_turn([alone(n) for n in INDIVIDUALS if n not in _targets()], counts.get("far", 0)),
    "own": own_scenes(concept, counts.get("own", 0)),
  }


def keep_of(concept: Concept) -> tuple[str, ...]:
  """Prompts that UCE preserves: of neighbours, as they are drawn."""
  groups = groups_of(concept, {"near": 8, "far": 8})
  return tuple(dict.fromkeys(scene.caption for group in groups.values() for scene in group))


def renamed(concept: Concept, groups: Groups) -> Groups:
  """The prompts with the concept replaced; what is right is as before."""
  of = lambda s: dataclasses.replace(s, captions=(concept.renamed(s.caption),))
  return {group: [of(scene) for scene in scenes] for group, scenes in groups.items()}
