"""Where objects are, and how they are distributed: copied layouts, spread, total variation."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from t2i_jax.data.scenes import Object

PIXEL = 1 / 32  # sides


def repeats(o: Object, layouts: Iterable[Object], tolerance: float = PIXEL) -> bool:
  """Whether an object has the place and the radius of one of others, whatever it is.

  tolerance  of the distance of the centroids, and of the radius, sides
  """
  return any(
    np.hypot(o.x - other.x, o.y - other.y) <= tolerance and abs(o.r - other.r) <= tolerance
    for other in layouts
  )


def spread(objects: Sequence[Object]) -> float:
  """The root mean square distance of centroids from their mean, sides; nan of no object."""
  if not objects:
    return float("nan")
  places = np.array([(o.x, o.y) for o in objects])
  return float(np.sqrt(np.square(places - places.mean(0)).sum(1).mean()))


def cell_of(o: Object, cells: int = 3) -> tuple[int, int]:
  """Row and column of the centroid in a grid of cells x cells."""
  return tuple(min(cells - 1, max(0, int(at * cells))) for at in (o.y, o.x))  # type: ignore[return-value]


def total_variation(first: Iterable[Hashable], second: Iterable[Hashable]) -> float:
  """Half the sum of |p - q| over all values: 0 = the same shares, 1 = no value in common.

  Of finite samples of one distribution it is above 0: compare it with that of two such samples.
  nan where one of them is empty.
  """
  one, two = Counter(first), Counter(second)
  n, m = one.total(), two.total()
  if not n or not m:
    return float("nan")
  return sum(abs(one[value] / n - two[value] / m) for value in one | two) / 2
