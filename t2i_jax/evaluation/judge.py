"""The exact judge: detects objects in pixels and checks a caption's facts against them.

It uses the palette, the background and the outlines of the shapes, not the scene. Steps:

1. An image of 128 pixels or more is averaged down to 64 to 127.
2. Each pixel is fitted as a blend of the background and one colour of the palette, the one of least
   error, and assigned to that colour where its share is more than one half. A blend keeps its
   colour, so anti-aliasing and blur do not change it.
3. Objects are the connected regions of one colour that are large enough (MIN_AREA) and not merely a
   thin ring, as the blend of two colours is where one object is inside another. Regions that fit no
   colour but differ visibly from the background (VISIBLE) are objects, too.
4. The object's coverage of the pixels around it gives its centroid and area. Each shape is rendered
   there with that area; the best overlap determines the shape (analysis by synthesis).

A region whose colour is far from the palette, or whose outline fits no shape, is an object of
"unknown" colour or shape: it counts as an object but matches no description with that attribute.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from t2i_jax.data.scenes import BACKGROUND, COLORS, SHAPES, Fact, Object, holds
from t2i_jax.data.scenes.geometry import AREAS, coverage
from t2i_jax.data.scenes.vocabulary import size_name
from t2i_jax.errors import DataError

MIN_AREA = (
  0.009  # share of the image below which a region is ignored; the smallest object has 0.017
)
MIN_CORE = 0.15  # share of a region's pixels that have all four neighbours in it
MAX_COLOR_ERROR = (
  80.0  # RGB distance of a region's median from its colour; colours are 90 or more apart
)
VISIBLE = 70.0  # RGB distance from the background above which an unknown colour is an object
MIN_OVERLAP = 0.80  # intersection over union with the best shape
SHARP_OVERLAP = 0.92  # below it the shapes are also compared with soft edges, blurred by
BLURS = (0.6, 1.1)  # pixels (sigma)
UNKNOWN = "unknown"
_REACH = 2  # pixels beyond a region in which its anti-aliased edge may lie

_NAMES = tuple(COLORS)
_BACKGROUND = np.asarray(BACKGROUND, np.float32)
_PALETTE = np.asarray(list(COLORS.values()), np.float32)  # [8, 3]
_AXES = _PALETTE - _BACKGROUND
_LENGTH2 = (_AXES**2).sum(1)
_BLOCK = np.ones((3, 3), bool)
_DISK = ndimage.generate_binary_structure(2, 1)


@dataclasses.dataclass(frozen=True)
class Verdict:
  """correct: no fact failed;   seen: the objects that the judge detected"""

  correct: bool
  failed: tuple[Fact, ...]
  seen: tuple[Object, ...]


def judge(image: np.ndarray, facts: Sequence[Fact]) -> Verdict:
  """Whether all facts of a caption hold in an image, uint8 [H, W, 3]."""
  seen = read(image)
  failed = tuple(fact for fact in facts if not holds(fact, seen))
  return Verdict(not failed, failed, seen)


def read(image: np.ndarray) -> tuple[Object, ...]:
  """The objects in an image, in order of decreasing size.

  image  uint8 [H, W, 3]; lengths are fractions of the shorter side
  Raises DataError on another shape or dtype.
  """
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
    raise DataError(
      f"the image is {image.dtype} {list(image.shape)}; the judge takes uint8 [H, W, 3]."
    )
  pixels = _averaged(image)
  label = _classify(pixels)
  owner, regions = _regions(pixels, label)
  objects = [_identify(pixels, owner, k, box) for k, box in regions]
  return tuple(sorted(objects, key=lambda o: -o.r))


def _averaged(image: np.ndarray) -> np.ndarray:
  factor = min(image.shape[:2]) // 64
  if factor > 1:
    image = np.asarray(Image.fromarray(image).reduce(factor))
  return image.astype(np.float32)


def _classify(pixels: np.ndarray) -> np.ndarray:
  """[h, w] of 0 = background, k + 1 = colour k."""
  offset = pixels - _BACKGROUND  # [h, w, 3]
  projection = offset @ _AXES.T  # [h, w, 8]
  share = np.clip(projection / _LENGTH2, 0.0, 1.0)
  error = share * (share * _LENGTH2 - 2 * projection)  # squared distance, less |offset|^2
  best = error.argmin(-1)
  enough = np.take_along_axis(share, best[..., None], -1)[..., 0] > 0.5
  return np.where(enough, best + 1, 0)


def _regions(
  pixels: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, tuple[slice, slice]]]]:
  """Regions that are objects: a map of their numbers [h, w] (0 elsewhere) and their boxes."""
  owner = np.zeros(label.shape, np.int32)
  regions: list[tuple[int, tuple[slice, slice]]] = []

  def add(mask: np.ndarray, core: np.ndarray) -> None:
    parts, _ = ndimage.label(mask)
    areas = np.bincount(parts.ravel())
    cores = np.bincount(parts[core], minlength=len(areas))
    for i, box in enumerate(ndimage.find_objects(parts), 1):
      if areas[i] >= least and cores[i] >= max(1.0, MIN_CORE * areas[i]):
        regions.append((len(regions) + 1, box))
        owner[box][parts[box] == i] = len(regions)

  least = MIN_AREA * min(label.shape) ** 2
  core = _core(label)
  for color in np.unique(label[core & (label > 0)]):
    add(label == color, core & (label == color))
  foreign = ((pixels - _BACKGROUND) ** 2).sum(-1) > VISIBLE**2
  foreign &= ~ndimage.binary_dilation(owner > 0, _DISK, iterations=_REACH)
  if foreign.sum() >= least:
    add(foreign, _core(foreign) & foreign)
  return owner, regions


def _core(label: np.ndarray) -> np.ndarray:
  """Pixels whose four neighbours have the same label [h, w]."""
  core = np.zeros(label.shape, bool)
  middle = label[1:-1, 1:-1]
  core[1:-1, 1:-1] = (
    (middle == label[:-2, 1:-1])
    & (middle == label[2:, 1:-1])
    & (middle == label[1:-1, :-2])
    & (middle == label[1:-1, 2:])
  )
  return core


def _identify(
  pixels: np.ndarray, owner: np.ndarray, number: int, box: tuple[slice, slice]
) -> Object:
  """Colour, shape and place of one region."""
  rows, columns = (
    slice(max(0, s.start - _REACH - 1), min(n, s.stop + _REACH + 1))
    for s, n in zip(box, owner.shape, strict=True)
  )
  around = owner[rows, columns]
  mine = around == number
  core = ndimage.binary_erosion(mine, _BLOCK)  # the edge's blends left out
  median = np.median(pixels[rows, columns][core if core.any() else mine], 0)
  error = np.sqrt(((_PALETTE - median) ** 2).sum(1))
  color = _NAMES[int(error.argmin())] if error.min() <= MAX_COLOR_ERROR else UNKNOWN
  share = _coverage(pixels[rows, columns], around, number, median)
  area = float(share.sum())
  y = np.arange(rows.start, rows.stop)
  x = np.arange(columns.start, columns.stop)
  cx = float(share.sum(0) @ (x + 0.5)) / area
  cy = float(share.sum(1) @ (y + 0.5)) / area
  shape, overlap = _best_shape(share, cx, cy, area, y, x)
  side = min(owner.shape)
  r = math.sqrt(area / AREAS[shape])
  shape = shape if overlap >= MIN_OVERLAP else UNKNOWN
  return Object(shape, color, size_name(r / side), cx / side, cy / side, r / side)


def _coverage(pixels: np.ndarray, owner: np.ndarray, number: int, color: np.ndarray) -> np.ndarray:
  """Share of each pixel [h, w] that the region covers, holes with other objects filled in."""
  mine = owner == number
  whole = ndimage.binary_fill_holes(mine)
  near = ndimage.binary_dilation(whole, _DISK, iterations=_REACH)
  rim = ndimage.binary_dilation(near, _DISK) & ~near
  neighbours = np.bincount(owner[rim])
  # What lies behind the edge: the object that surrounds this one, or the background.
  behind = int(neighbours.argmax()) if len(neighbours) else 0
  under = np.median(pixels[owner == behind], 0) if behind else _BACKGROUND
  axis = color - under
  share = np.clip((pixels - under) @ axis / max(float(axis @ axis), 1.0), 0.0, 1.0)
  share[~near | ((owner != 0) & (owner != behind) & ~mine)] = 0.0
  if not share.any():  # mixed colours, whose median is what lies behind
    share = whole.astype(share.dtype)
  holes, n = ndimage.label(whole & ~mine)
  for i in range(1, n + 1):
    hole = holes == i
    if owner[hole].any():
      share[hole] = 1.0
  return share


def _best_shape(
  share: np.ndarray, cx: float, cy: float, area: float, rows: np.ndarray, columns: np.ndarray
) -> tuple[str, float]:
  """The shape that overlaps best at this centroid and area, and its intersection over union."""
  radii = [math.sqrt(area / AREAS[shape]) for shape in SHAPES]
  drawn = np.stack(
    [coverage(z, cx, cy, r, rows, columns) for z, r in zip(SHAPES, radii, strict=True)]
  )
  scores = _overlaps(share, drawn)
  if scores.max() < SHARP_OVERLAP:
    soft = [_overlaps(share, ndimage.gaussian_filter(drawn, (0, b, b))) for b in BLURS]
    scores = np.maximum(scores, np.max(soft, 0))
  best = int(scores.argmax())
  return SHAPES[best], float(scores[best])


def _overlaps(share: np.ndarray, drawn: np.ndarray) -> np.ndarray:
  """Intersection over union of one coverage [h, w] with several [S, h, w]; gives [S]."""
  both = np.minimum(share, drawn).sum((1, 2))
  return both / (share.sum() + drawn.sum((1, 2)) - both)
