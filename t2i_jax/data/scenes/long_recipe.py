"""The recipe of long captions: several sentences, more than 90 words, on four to six objects."""

import dataclasses
import random
from collections.abc import Sequence

from t2i_jax.data.scenes import captions as say
from t2i_jax.data.scenes.facts import Fact, Object, Scene, Spec
from t2i_jax.data.scenes.geometry import relation_between
from t2i_jax.data.scenes.heldout import heldout_triple
from t2i_jax.data.scenes.layout import clear, place
from t2i_jax.data.scenes.recipes import Draw
from t2i_jax.data.scenes.vocabulary import COLORS, OUTER_SHAPES, Level

MORE_WORDS_THAN = 90


def _plain_relations(objects: Sequence[Object], level: Level) -> list[Fact]:
  """Every relation of two objects that is clear enough to be stated, in one direction each."""
  facts = []
  for i, a in enumerate(objects):
    for b in objects[i + 1 :]:
      rel = relation_between(a, b)
      if clear(a, rel, b, level):
        facts.append(Fact("relation", Spec(a.color, a.shape), rel, Spec(b.color, b.shape)))
  return facts


def _is_heldout(fact: Fact) -> bool:
  assert fact.a and fact.b and fact.rel
  return heldout_triple(fact.a, fact.rel, fact.b)


def _flipped(fact: Fact, rng: random.Random) -> Fact:
  if rng.random() < 0.5:
    return fact
  assert fact.rel
  return Fact("relation", fact.b, say.INVERSE[fact.rel], fact.a)


def _counted(objects: Sequence[Object], rng: random.Random) -> Fact:
  """A count of a shape or a colour, of two or more if possible."""
  specs = {Spec(shape=o.shape): 0 for o in objects} | {Spec(color=o.color): 0 for o in objects}
  counts = {s: sum(s.fits(o) for o in objects) for s in specs}
  several = [s for s in specs if counts[s] > 1]
  spec = rng.choice(several or list(specs))
  return Fact("count", spec, n=counts[spec])


def _missing(objects: Sequence[Object], d: Draw) -> list[Fact]:
  colors = [c for c in COLORS if all(o.color != c for o in objects)]
  shapes = [s for s in d.level.shapes if all(o.shape != s for o in objects)]
  facts = [Fact("absent", Spec(color=d.rng.choice(colors)))]
  return facts + ([Fact("absent", Spec(shape=d.rng.choice(shapes)))] if shapes else [])


def long(d: Draw) -> Scene | None:
  """A scene whose caption has more than MORE_WORDS_THAN words in each of its two wordings."""
  nested = d.rng.random() < 0.4
  n = d.rng.randint(4, 5 if nested else 6)
  specs = d.sized(d.specs(n))
  if nested:
    if specs[0].shape not in OUTER_SHAPES or specs[0].color == specs[1].color:
      return None
    sizes = ["large", "small", *("small" for _ in specs[2:])]
    specs = [dataclasses.replace(s, size=z) for s, z in zip(specs, sizes, strict=True)]
  objects = place(d.rng, specs, d.level, nested=(0, 1) if nested else None, seen_only=not d.heldout)
  if objects is None:
    return None
  relations = _plain_relations(objects, d.level)
  d.rng.shuffle(relations)
  # Required statements come first: the held-out triple, then the nesting.
  relations.sort(key=lambda f: (not (d.triple and _is_heldout(f)), f.rel != "surrounding"))
  if d.triple and not (relations and _is_heldout(relations[0])):
    return None
  head = [Fact("total", n=n), *(Fact("exists", s) for s in specs)]
  tail = [_counted(objects, d.rng), *_missing(objects, d)]
  if len(relations) < 4:
    return None
  for stated in range(4, len(relations) + 1):
    facts = [*head, *(_flipped(f, d.rng) for f in relations[:stated]), *tail]
    texts = tuple(say.long_text(facts, d.rng, style) for style in (0, 1))
    if min(len(t.split()) for t in texts) > MORE_WORDS_THAN:
      return d.scene(objects, facts, texts)
  return None
