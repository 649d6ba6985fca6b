"""Outlines of the shapes, their coverage of pixels, and the relation of one object to another.

Coordinates: x to the right, y down, the image is [0, 1] x [0, 1]. Every outline has its centroid
at the origin and radius 1.
"""

import functools
import math

import numpy as np

from t2i_jax.data.scenes.facts import Object
from t2i_jax.data.scenes.vocabulary import SHAPES


def _regular(corners: int, radii: tuple[float, ...]) -> np.ndarray:
  angle = 2 * np.pi * np.arange(corners) / corners - np.pi / 2
  reach = np.resize(np.asarray(radii), corners)
  return np.stack([reach * np.cos(angle), reach * np.sin(angle)], 1)


def _cross(length: float, width: float) -> np.ndarray:
  a, b = length, width
  right = [(b, -a), (b, -b), (a, -b), (a, b), (b, b), (b, a)]
  return np.array(right + [(-x, -y) for x, y in right])


# Vertices [V, 2] in order along the outline; a circle has none. The radii give the shapes similar
# sizes: areas between 2.2 (triangle) and 3.2 (square), where the circle has 3.14.
OUTLINES: dict[str, np.ndarray] = {
  "square": np.array([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
  "triangle": _regular(3, (1.3,)),
  "diamond": _regular(4, (1.2,)),
  "star": _regular(10, (1.3, 0.62)),
  "cross": _cross(1.1, 0.42),
}


def _shoelace(points: np.ndarray) -> float:
  x, y = points.T
  return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


AREAS = {s: _shoelace(OUTLINES[s]) if s in OUTLINES else math.pi for s in SHAPES}
# (left, top, right, bottom) of the bounding box at radius 1.
BOXES: dict[str, tuple[float, float, float, float]] = {
  s: (*OUTLINES[s].min(0).tolist(), *OUTLINES[s].max(0).tolist())
  if s in OUTLINES
  else (-1.0, -1.0, 1.0, 1.0)
  for s in SHAPES
}


@functools.cache
def _edges(shape: str) -> tuple[np.ndarray, ...]:
  start = OUTLINES[shape]
  edge = np.roll(start, -1, 0) - start
  slope = np.divide(edge[:, 0], edge[:, 1], out=np.zeros(len(edge)), where=edge[:, 1] != 0)
  length2 = (edge**2).sum(1)
  columns = (start[:, 0], start[:, 1], edge[:, 0], edge[:, 1], length2, slope)
  return tuple(c[:, None].astype(np.float32) for c in columns)


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Distance from the outline of radius 1, negative inside; x, y [...] give [...]."""
  if shape == "circle":
    return np.hypot(x, y) - 1.0
  x0, y0, ex, ey, length2, slope = _edges(shape)  # [V, 1]
  px, py = np.ravel(x).astype(np.float32), np.ravel(y).astype(np.float32)
  wx, wy = px - x0, py - y0  # [V, N]
  along = np.clip((wx * ex + wy * ey) / length2, 0.0, 1.0)
  distance = np.sqrt(((wx - along * ex) ** 2 + (wy - along * ey) ** 2).min(0))
  crosses = ((wy < 0) != (wy < ey)) & (wx < wy * slope)
  inside = np.logical_xor.reduce(crosses, 0)
  return np.where(inside, -distance, distance).reshape(np.shape(x))


def coverage(
  shape: str, x: float, y: float, r: float, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
  """Share of each pixel that a shape covers, from the signed distance at the pixel's centre.

  x, y, r        centre and radius in pixels
  rows, columns  [R], [C] indices of pixel rows and columns
  Returns [R, C] in [0, 1]; exact for an edge parallel to the grid, within 0.1 for a slanted one
  and 0.3 at a sharp tip.
  """
  return np.clip(0.5 - _distance(shape, x, y, r, rows, columns), 0.0, 1.0)


def line(
  shape: str, x: float, y: float, r: float, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
  """Of a line of 1 pixel along the outline: 1 at pixels on it, 0 from 1 pixel off.

  Arguments and result as of `coverage`.
  """
  return np.clip(1.0 - np.abs(_distance(shape, x, y, r, rows, columns)), 0.0, 1.0)


def stroke(
  shape: str, x: float, y: float, r: float, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
  """Of a horizontal stroke through the centre, r long and 0.4 r thick, whatever the shape.

  Arguments and result as of `coverage`; exact.
  """

  def covered(offset: np.ndarray, half: float) -> np.ndarray:
    ends = np.minimum(offset + 0.5, half) - np.maximum(offset - 0.5, -half)
    return np.clip(ends, 0.0, 1.0)

  return covered(rows + 0.5 - y, 0.2 * r)[:, None] * covered(columns + 0.5 - x, 0.5 * r)


def _distance(
  shape: str, x: float, y: float, r: float, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
  """From the outline to each pixel's centre, in pixels, negative inside.   # [R, C]"""
  dx, dy = np.meshgrid((columns + 0.5 - x) / r, (rows + 0.5 - y) / r)
  return r * signed_distance(shape, dx, dy)


def box_of(o: Object) -> tuple[float, float, float, float]:
  """(left, top, right, bottom) of an object."""
  left, top, right, bottom = BOXES[o.shape]
  return o.x + o.r * left, o.y + o.r * top, o.x + o.r * right, o.y + o.r * bottom


@functools.cache
def _rim(shape: str) -> np.ndarray:
  if shape not in OUTLINES:
    return _regular(16, (1.0,))
  start = OUTLINES[shape]
  edge = np.roll(start, -1, 0) - start
  # Corners are not enough: an edge may touch a notch of the outer outline far from all corners.
  return np.concatenate([start + t * edge for t in (0.0, 0.25, 0.5, 0.75)])


def clearance(inner: Object, outer: Object) -> float:
  """Minimum distance from inner's outline to outer's, in sides; negative where it is outside.

  Measured at points along inner's outline: 16 of a circle, 4 of each edge.
  """
  rim = (inner.r * _rim(inner.shape) + (inner.x - outer.x, inner.y - outer.y)) / outer.r
  return -outer.r * float(signed_distance(outer.shape, rim[:, 0], rim[:, 1]).max())


def _within(inner: Object, outer: Object) -> bool:
  if inner.r >= outer.r or inner.shape not in BOXES or outer.shape not in BOXES:
    return False
  (l0, t0, r0, b0), (l1, t1, r1, b1) = box_of(inner), box_of(outer)
  slack = 0.02  # half a pixel at 32, the error of the judge
  if l0 < l1 - slack or t0 < t1 - slack or r0 > r1 + slack or b0 > b1 + slack:
    return False
  return clearance(inner, outer) > -slack


def lead(a: Object, b: Object, relation: str) -> float:
  """Distance of the centres along the relation's direction minus that across it, in sides.

  For "left of": dx - |dy| with dx = b.x - a.x. Positive for one of the four directions only.
  """
  dx, dy = b.x - a.x, b.y - a.y
  along, across = (dx, dy) if relation in ("left of", "right of") else (dy, dx)
  return (along if relation in ("left of", "above") else -along) - abs(across)


def relation_between(a: Object, b: Object) -> str:
  """The relation in RELATIONS of a to b.

  inside or surrounding where one outline is within the other (to 0.02 of the side), otherwise the
  direction in which the centres are farther apart.
  """
  if _within(a, b):
    return "inside"
  if _within(b, a):
    return "surrounding"
  return max(("left of", "right of", "above", "below"), key=lambda rel: lead(a, b, rel))
