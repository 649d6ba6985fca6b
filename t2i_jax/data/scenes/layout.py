"""Layout of objects: apart, inside the image, and clearly in the required relations."""

import random
from collections.abc import Sequence

from t2i_jax.data.scenes.facts import Object, Spec
from t2i_jax.data.scenes.geometry import BOXES, box_of, clearance, lead, relation_between
from t2i_jax.data.scenes.heldout import heldout_triple
from t2i_jax.data.scenes.vocabulary import OUTER_RADII, SIZES, Level, size_name

Link = tuple[int, str, int]  # (object, relation, object), by index
_TRIES = 120
_INNER_CLEARANCE = 0.047  # sides: 3 pixels at 64


def radii_of(spec: Spec, level: Level, n: int) -> tuple[float, float]:
  """The range of radii for one of n objects: of its named size, or of the level."""
  return SIZES[spec.size] if spec.size else level.radii[n > 2]


def _propose(
  rng: random.Random, spec: Spec, band: tuple[float, float], border: float, within: Object | None
) -> Object:
  assert spec.shape is not None and spec.color is not None
  r = rng.uniform(*band)
  left, top, right, bottom = BOXES[spec.shape]
  x0, y0, x1, y1 = 0.0, 0.0, 1.0, 1.0
  if within is not None:
    x0, y0, x1, y1 = box_of(within)
  x = rng.uniform(x0 + border - r * left, x1 - border - r * right)
  y = rng.uniform(y0 + border - r * top, y1 - border - r * bottom)
  return Object(spec.shape, spec.color, spec.size or size_name(r), x, y, r)


def _apart(a: Object, b: Object, gap: float) -> bool:
  (l0, t0, r0, b0), (l1, t1, r1, b1) = box_of(a), box_of(b)
  return l0 - r1 >= gap or l1 - r0 >= gap or t0 - b1 >= gap or t1 - b0 >= gap


def clear(a: Object, relation: str, b: Object, level: Level) -> bool:
  """Whether the relation is clear enough to be stated: the level's margin, or true nesting."""
  if relation in ("inside", "surrounding"):
    return relation_between(a, b) == relation
  return (
    lead(a, b, relation) >= level.margin_px / level.floor and relation_between(a, b) == relation
  )


def place(
  rng: random.Random,
  specs: Sequence[Spec],
  level: Level,
  *,
  links: Sequence[Link] = (),
  nested: tuple[int, int] | None = None,
  seen_only: bool = True,
) -> tuple[Object, ...] | None:
  """Positions and radii that meet all constraints, by rejection sampling; None after _TRIES draws.

  specs      colour, shape and optionally size of each object, in painting order
  links      relations (left of, right of, above, below) that must hold by the level's margin
  nested     (outer, inner): indices of an object and of a later one inside it
  seen_only  whether held-out relations between any two objects are excluded
  """
  stated = [*links, *([(nested[1], "inside", nested[0])] if nested else [])]
  if seen_only and any(heldout_triple(specs[a], rel, specs[b]) for a, rel, b in stated):
    return None
  border, gap = level.border_px / level.floor, level.gap_px / level.floor
  placed: list[Object] = []

  def fits(o: Object) -> bool:
    i = len(placed)
    for j, other in enumerate(placed):
      if nested == (j, i):
        if clearance(o, other) < _INNER_CLEARANCE:
          return False
      elif not _apart(o, other, gap):
        return False
      if seen_only and heldout_triple(o, relation_between(o, other), other):
        return False
    together = [*placed, o]
    return all(clear(together[a], rel, together[b], level) for a, rel, b in links if max(a, b) == i)

  for i, spec in enumerate(specs):
    outer = placed[nested[0]] if nested is not None and i == nested[1] else None
    band = OUTER_RADII if nested and i == nested[0] else radii_of(spec, level, len(specs))
    space = _INNER_CLEARANCE if outer else border
    for _ in range(_TRIES):
      o = _propose(rng, spec, band, space, outer)
      if fits(o):
        placed.append(o)
        break
    else:
      return None
  return tuple(placed)
