"""The compositions that train and val never contain.

Two rules, the same for every seed and level:
- each shape in the colour of HELDOUT_COLORS;
- a tenth of the triples (coloured shape, relation, coloured shape), chosen by a hash. A triple and
  its inverse ("a left of b", "b right of a") are equivalent. Sizes are not considered.
"""

import functools
import hashlib
from collections.abc import Sequence

from t2i_jax.data.scenes.facts import Fact, Object, Spec
from t2i_jax.data.scenes.geometry import relation_between
from t2i_jax.data.scenes.vocabulary import INVERSE

HELDOUT_COLORS = {
  "circle": "purple",
  "square": "orange",
  "triangle": "cyan",
  "diamond": "red",
  "star": "blue",
  "cross": "yellow",
}
_CANONICAL = ("left of", "above", "inside")


def heldout_pair(color: str | None, shape: str | None) -> bool:
  """Whether this colour is held out for this shape."""
  return color is not None and shape is not None and HELDOUT_COLORS.get(shape) == color


@functools.cache
def _hashed(a: str, relation: str, b: str) -> bool:
  digest = hashlib.blake2b(f"{a} {relation} {b}".encode(), digest_size=8).digest()
  return int.from_bytes(digest, "little") % 10 == 0


def heldout_triple(a: Spec | Object, relation: str, b: Spec | Object) -> bool:
  """Whether the hash holds out this relation of two coloured shapes."""
  if relation not in _CANONICAL:
    a, relation, b = b, INVERSE[relation], a
  return _hashed(f"{a.color} {a.shape}", relation, f"{b.color} {b.shape}")


def heldout_in_facts(facts: Sequence[Fact]) -> bool:
  """Whether any statement, negated or not, has a held-out composition."""
  for fact in facts:
    if any(s is not None and heldout_pair(s.color, s.shape) for s in (fact.a, fact.b)):
      return True
    if fact.rel and fact.a and fact.b and heldout_triple(fact.a, fact.rel, fact.b):
      return True
  return False


def heldout_in_objects(objects: Sequence[Object]) -> bool:
  """Whether any object or any relation of two objects, stated or not, is held out."""
  if any(heldout_pair(o.color, o.shape) for o in objects):
    return True
  return any(
    heldout_triple(a, relation_between(a, b), b)
    for i, a in enumerate(objects)
    for b in objects[i + 1 :]
  )
