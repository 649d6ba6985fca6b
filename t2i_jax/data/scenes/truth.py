"""Whether a statement is true of objects, and false statements for tests of the judge."""

import dataclasses
import random
from collections.abc import Iterator, Sequence

from t2i_jax.data.scenes.facts import Fact, Object, Scene, Spec
from t2i_jax.data.scenes.geometry import relation_between
from t2i_jax.data.scenes.vocabulary import COLORS, RELATIONS, SIZES, find_level

CHANGES = ("color", "shape", "size", "count", "total", "relation", "swap", "absent")


def holds(fact: Fact, objects: Sequence[Object]) -> bool:
  """Whether a fact is true of objects, stated or read from pixels."""
  fits = [o for o in objects if fact.a is None or fact.a.fits(o)]
  if fact.kind == "exists":
    return bool(fits)
  if fact.kind == "absent":
    return not fits
  if fact.kind in ("count", "total"):
    return len(fits) == fact.n
  others = [o for o in objects if fact.b is None or fact.b.fits(o)]
  return any(a is not b and relation_between(a, b) == fact.rel for a in fits for b in others)


def _respecified(spec: Spec, shapes: Sequence[str]) -> Iterator[tuple[str, Spec]]:
  for field, values in (("color", tuple(COLORS)), ("shape", shapes), ("size", tuple(SIZES))):
    stated = getattr(spec, field)
    if stated is not None:
      yield from ((field, dataclasses.replace(spec, **{field: v})) for v in values if v != stated)


def _variants(fact: Fact, scene: Scene) -> Iterator[tuple[str, Fact]]:
  """Statements of the same kind that differ in one attribute, with its name."""
  shapes = find_level(scene.level).shapes
  if fact.kind == "absent":
    assert fact.a is not None
    for o in scene.objects:
      color, shape = (fact.a.color and o.color), (fact.a.shape and o.shape)
      yield "absent", dataclasses.replace(fact, a=Spec(color, shape))
    return
  if fact.n is not None:
    name = "total" if fact.kind == "total" else "count"
    yield from ((name, dataclasses.replace(fact, n=n)) for n in (fact.n - 1, fact.n + 1) if n)
  if fact.a is not None:
    for name, spec in _respecified(fact.a, shapes):
      yield name, dataclasses.replace(fact, a=spec)
  if fact.b is not None:
    for name, spec in _respecified(fact.b, shapes):
      yield name, dataclasses.replace(fact, b=spec)
  if fact.kind == "relation":
    yield from (("relation", dataclasses.replace(fact, rel=rel)) for rel in RELATIONS)
    yield "swap", dataclasses.replace(fact, a=fact.b, b=fact.a)


def false_facts(scene: Scene) -> list[tuple[str, int, Fact]]:
  """All single changes to the caption's facts that make one of them false.

  Returns (the change, one of CHANGES; index of the fact; the false fact). Each is false of
  `scene.objects`: changed statements that happen to be true are left out.
  """
  return [
    (change, i, variant)
    for i, fact in enumerate(scene.facts)
    for change, variant in _variants(fact, scene)
    if not holds(variant, scene.objects)
  ]


def falsify(scene: Scene, rng: random.Random, change: str | None = None) -> tuple[Fact, ...]:
  """The scene's facts with one replaced by a false one.

  change  one of CHANGES (see `false_facts`); None draws among the possible ones.
  Raises ValueError where the caption has no such fact.
  """
  options = false_facts(scene)
  names = [c for c in CHANGES if any(c == o[0] for o in options) and change in (None, c)]
  if not names:
    raise ValueError(f"no fact of {scene.caption!r} can be falsified by its {change}")
  name = rng.choice(names)
  _, i, fact = rng.choice([o for o in options if o[0] == name])
  return (*scene.facts[:i], fact, *scene.facts[i + 1 :])
