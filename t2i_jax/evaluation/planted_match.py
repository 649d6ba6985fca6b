"""Compares regions of images of level planted with renderings of all identities.

A pixel of a rendering is linear in its colours (scenes/planted/render.py), so the squared error of
all pairs of colours follows from sums over pixels that do not depend on them:

  |y - B b - M m|^2 = |y|^2 - 2 (yB.b + yM.m) + BB |b|^2 + 2 BM b.m + MM |m|^2

with y the pixels, B and M the shares of body and mark, b and m their colours, all less the ground;
yB and yM, BB, BM and MM are sums over pixels.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from t2i_jax.data.scenes.geometry import signed_distance
from t2i_jax.data.scenes.planted import ALL_MARKS, FLOOR
from t2i_jax.data.scenes.planted.render import STROKE, colors_of, ground_of, layers, scale_of

REACH = 0.375  # half the side of the window around a centroid, sides
BLURS = (0.0, 0.6, 1.0)  # sigma in pixels at 32
STEP = 0.006  # of a derivative, sides
MAX_STEP = 0.02  # of a centroid or radius, sides


class Region(NamedTuple):
  """Where an object is: its image's index, its number there, centroid and area in pixels."""

  image: int
  number: int
  x: float
  y: float
  area: float


@functools.cache
def _blurring(width: int, sigma: float) -> np.ndarray:
  """The matrix [width, width] that blurs along one axis."""
  at = np.arange(width)
  kernel = np.exp(-0.5 * ((at[:, None] - at) / sigma) ** 2)
  middle = kernel[width // 2].sum()
  return (kernel / middle).astype(np.float32)


class Windows(NamedTuple):
  """Windows of N regions, P pixels each.

  y       [N, P, 3] pixels less the ground, 0 at those of other objects
  weight  [N, P] 0 there, 1 elsewhere
  px, py  [N, P] offsets from the centroid, pixels;   x, y_at: places in the image
  """

  y: np.ndarray
  weight: np.ndarray
  px: np.ndarray
  py: np.ndarray
  x: np.ndarray
  y_at: np.ndarray


def windows_of(
  pixels: np.ndarray, owners: Sequence[np.ndarray], regions: Sequence[Region], ground: np.ndarray
) -> Windows:
  side = pixels.shape[1]
  half = round(REACH * side)
  rows = np.array([round(r.y) for r in regions])[:, None] + np.arange(-half, half)  # [N, W]
  columns = np.array([round(r.x) for r in regions])[:, None] + np.arange(-half, half)
  images = np.array([r.image for r in regions])[:, None, None]
  at = (images, np.clip(rows, 0, side - 1)[:, :, None], np.clip(columns, 0, side - 1)[:, None, :])
  inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None]
  numbers = np.array([r.number for r in regions])[:, None, None]
  maps = np.stack(owners)[at]
  others = ndimage.binary_dilation((maps != 0) & (maps != numbers), np.ones((1, 3, 3), bool))
  weight = inside & ~(others & (maps != numbers))
  y = (pixels[at] - ground) * weight[..., None]
  x_at, y_at = np.broadcast_arrays(columns[:, None, :] + 0.5, rows[:, :, None] + 0.5)
  px = x_at - np.array([r.x for r in regions])[:, None, None]
  py = y_at - np.array([r.y for r in regions])[:, None, None]
  flat = [a.reshape(len(regions), -1).astype(np.float32) for a in (weight, px, py, x_at, y_at)]
  return Windows(y.reshape(len(regions), -1, 3), *flat)


def _drawn(
  windows: Windows, shape: str, rendering: str, r: np.ndarray, scale: np.ndarray, side: int
) -> np.ndarray:
  """Shares of body and mark for each mark: [N, marks, 2, P]."""
  drawn = layers(shape, ALL_MARKS, rendering, windows.px, windows.py, r[:, None], side)
  return (np.moveaxis(drawn, 2, 0) * scale[:, None, None]).astype(np.float32)


def _widened(sigma: float, side: int) -> float:
  """How far outside of a blurred stroke's edge its share is one half of its peak, pixels."""
  stroke = STROKE * side
  return max(0.0, 1.18 * (sigma**2 + stroke**2 / 12) ** 0.5 - stroke / 2)


@functools.cache
def _inner(shape: str) -> float:
  """The distance of the outline from the centroid at radius 1."""
  return -float(signed_distance(shape, np.zeros(1), np.zeros(1))[0])


def errors_of_all(
  windows: Windows, shape: str, r: np.ndarray, rendering: str, side: int
) -> np.ndarray:
  """|T|^2 - 2 y T of a shape in a rendering, less |y|^2 of the error: [N, marks, 8, 8].

  The best over BLURS; the last axes are the colours of body and mark. A plain object's mark has
  the first colour alone, a mark in the body's colour is none: inf elsewhere.
  """
  n, p = windows.weight.shape
  scale = scale_of(rendering, windows.x, windows.y_at, side)
  scale = np.broadcast_to(np.asarray(scale, np.float32), (n, p))
  sharp = None
  palette = np.asarray(list(colors_of(rendering).values()), np.float32)  # [8, 3]
  colors = palette - np.asarray(ground_of(rendering), np.float32)
  inner = colors @ colors.T  # [8, 8]
  length2 = np.diag(inner)
  best = np.full((n, len(ALL_MARKS), 8, 8), np.inf, np.float32)
  for blur in BLURS:
    sigma = blur * side / FLOOR
    if sharp is None or rendering == "outline":
      radius = r - (_widened(sigma, side) / _inner(shape) if rendering == "outline" else 0.0)
      sharp = _drawn(windows, shape, rendering, radius, scale, side)
    drawn = _blurred(sharp, sigma) * windows.weight[:, None, None]
    y = np.matmul(drawn.reshape(n, -1, p), windows.y).reshape(n, len(ALL_MARKS), 2, 3)
    gram = drawn @ drawn.swapaxes(-1, -2)  # [N, marks, 2, 2]
    linear = y @ colors.T  # [N, marks, 2, 8]
    body = gram[..., 0, 0, None] * length2 - 2 * linear[..., 0, :]
    mark = gram[..., 1, 1, None] * length2 - 2 * linear[..., 1, :]
    both = body[..., None] + mark[..., None, :] + 2 * gram[..., 0, 1, None, None] * inner
    both[:, 0] = np.where(np.arange(8) == 0, body[:, 0, :, None], np.inf)
    both[:, 1:, np.arange(8), np.arange(8)] = np.inf
    best = np.minimum(best, both)
  return best


class Choice(NamedTuple):
  """Identities for each of N regions, K of them: indices [N, K]."""

  kind: np.ndarray  # of the list of (rendering, shape)
  mark: np.ndarray
  color: np.ndarray
  mark_color: np.ndarray


def refined_errors(
  windows: Windows,
  radii: np.ndarray,
  choice: Choice,
  kinds: Sequence[tuple[str, str]],
  side: int,
) -> tuple[np.ndarray, np.ndarray]:
  """The squared errors of identities, each moved and scaled to fit best.

  radii  [N, K] pixels
  A step of Gauss and Newton in (x, y, r), whose derivatives are differences of renderings; the best
  over BLURS. Returns errors [N, K] and steps [N, K, 3] in pixels.
  """
  errors = np.full(radii.shape, np.inf, np.float32)
  steps = np.zeros((*radii.shape, 3), np.float32)
  for kind, mark in set(zip(choice.kind.flat, choice.mark.flat, strict=True)):
    row, column = np.nonzero((choice.kind == kind) & (choice.mark == mark))
    rendering, shape = kinds[kind]
    some = Windows(*(a[row] for a in windows))
    palette = np.asarray(list(colors_of(rendering).values()), np.float32)
    palette = palette - np.asarray(ground_of(rendering), np.float32)
    pair = [palette[index[row, column]] for index in (choice.color, choice.mark_color)]
    colors = np.stack(pair, 1)[:, None]  # [n, 1, 2, 3]
    scale = np.asarray(scale_of(rendering, some.x, some.y_at, side), np.float32)
    r = radii[row, column][:, None]
    scale = np.broadcast_to(scale, some.px.shape)[:, None, None]
    sharp = None
    for blur in BLURS:
      sigma = blur * side / FLOOR
      if sharp is None or rendering == "outline":
        wider = _widened(sigma, side) / _inner(shape) if rendering == "outline" else 0.0
        moved = [
          layers(shape, ALL_MARKS[mark : mark + 1], rendering, some.px - x, some.py - y, z, side)
          for x, y, z in _nearby(r - wider, side)
        ]
        sharp = np.concatenate(moved).transpose(2, 0, 1, 3) * scale  # [n, 7, 2, P]
      shares = _blurred(sharp, sigma) * some.weight[:, None, None]
      drawn = (shares.swapaxes(-1, -2) @ colors).reshape(len(row), 7, -1)  # [n, 7, 3P]
      found, step = _step(some.y.reshape(len(row), -1), drawn, side)
      better = found < errors[row, column]
      errors[row[better], column[better]] = found[better]
      steps[row[better], column[better]] = step[better]
  return errors, steps


def _nearby(r: np.ndarray, side: int) -> list[tuple[float, float, np.ndarray]]:
  """(x, y, r) at the middle, then a small step up and down in each."""
  h = STEP * side
  moves = [(0, 0, 0), (h, 0, 0), (-h, 0, 0), (0, h, 0), (0, -h, 0), (0, 0, h), (0, 0, -h)]
  return [(dx, dy, r + dr) for dx, dy, dr in moves]


def _step(y: np.ndarray, drawn: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
  """Errors [n] after a step, and steps [n, 3], from y [n, Q] and `_nearby` renderings [n, 7, Q]."""
  slopes = (drawn[:, 1::2] - drawn[:, 2::2]) / (2 * STEP * side)  # [n, 3, Q]
  left = y - drawn[:, 0]
  pull = np.einsum("niq,nq->ni", slopes, left)
  hessian = slopes @ slopes.swapaxes(-1, -2)
  # Where nothing depends on the step, as of a region larger than its window, it is 0.
  ridge = 1e-3 * np.trace(hessian, axis1=1, axis2=2) + 1
  steady = hessian + np.eye(3) * ridge[:, None, None]
  step = np.linalg.solve(steady, pull[..., None])[..., 0]
  step = np.clip(step, -MAX_STEP * side, MAX_STEP * side)
  gain = 2 * (step * pull).sum(-1) - np.einsum("ni,nij,nj->n", step, hessian, step)
  return (left**2).sum(-1) - gain, step


def _blurred(images: np.ndarray, sigma: float) -> np.ndarray:
  """Images [..., P] of square windows, blurred."""
  if not sigma:
    return images.astype(np.float32)
  width = round(images.shape[-1] ** 0.5)
  along = _blurring(width, sigma)
  square = images.astype(np.float32).reshape(*images.shape[:-1], width, width)
  return (along @ square @ along.T).reshape(images.shape)
