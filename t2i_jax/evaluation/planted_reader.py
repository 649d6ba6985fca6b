"""Reads images of level planted: identity, place and rendering of every object, from pixels.

Analysis by synthesis, as in the judge of scenes, over whole identities. Steps:

1. The ground is the one of the two grounds that is nearest to the median of the image's border.
2. Objects are the connected regions that differ from the ground, holes filled; their coverage gives
   a centroid and an area.
3. At this centroid and area each shape with each mark is rendered in each rendering that has this
   ground, sharp and blurred, and compared in all pairs of colours (planted_match). The nearest few
   are moved and scaled to fit.
4. The best identity is read where it leads the second by a margin, and fits; otherwise the object
   is of "unknown" shape, colour and mark.

About 170 objects a second on one core.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from t2i_jax.data.scenes.geometry import AREAS
from t2i_jax.data.scenes.planted import (
  ALL_MARKS,
  DARK,
  FLOOR,
  PLAIN,
  RENDERINGS,
  Thing,
)
from t2i_jax.data.scenes.planted.render import ground_of
from t2i_jax.data.scenes.planted.world import NONE
from t2i_jax.data.scenes.vocabulary import BACKGROUND, COLORS, SHAPES, size_name
from t2i_jax.errors import DataError
from t2i_jax.evaluation.planted_match import (
  Choice,
  Region,
  errors_of_all,
  refined_errors,
  windows_of,
)

UNKNOWN = "unknown"
MAX_GROUND_ERROR = 50.0  # RGB distance of the border's median from the nearest ground
VISIBLE = 50.0  # RGB distance from the ground below which a pixel is ground
MIN_SHARE = 0.25  # of the largest distance nearby, below which it is an object's blurred edge
MAX_EXTENT = 0.55  # of one object, sides: a region that is longer is cut where shares are below
CUTS = (0.35, 0.45, 0.55, 0.65)
MIN_AREA = 0.009  # share of the image below which a region is ignored
RADII = (0.11, 0.25)  # of a disc of the region's area, sides: others match no identity
MAX_ERROR = 0.15  # share of the squared distance from the ground that is not explained
MARGIN = 0.002  # lead over the second identity, in the same unit
MAX_NOISE = 20.0  # of 255, of the ground's pixels: more is held against an identity
CANDIDATES = 6  # identities that are moved and scaled to fit before they are compared
CHUNK = 128  # regions matched together

_COLORS = tuple(COLORS)
_BLOCK = np.ones((3, 3), bool)


@dataclasses.dataclass(frozen=True)
class Seen(Thing):
  """An object that was read.   rendering: a name in RENDERINGS, or "unknown" """

  rendering: str = PLAIN


class Reading(NamedTuple):
  """objects: in order of decreasing size; rendering: of all of them, else "unknown"."""

  objects: tuple[Seen, ...]
  rendering: str


def read(image: np.ndarray) -> Reading:
  """`read_all` of one image, uint8 [H, H, 3]."""
  return read_all(np.asarray(image)[None])[0]


def read_all(images: np.ndarray, off: np.ndarray | None = None) -> list[Reading]:
  """Reads square images, uint8 [n, H, H, 3] with H of at least FLOOR.

  off  [n, 2] pixels by which centroids are moved before they are matched, for proofs
  Raises DataError on another shape or dtype.
  """
  pixels = _checked(images)  # [n, h, h, 3]
  grounds = [_ground(image) for image in pixels]
  owners, regions = [], []
  for i, (image, ground) in enumerate(zip(pixels, grounds, strict=True)):
    owner, found = find_regions(image, np.asarray(ground, np.float32), i)
    owners.append(owner)
    regions += found
  if off is not None:
    regions = [r._replace(x=r.x + off[r.image][0], y=r.y + off[r.image][1]) for r in regions]
  noises = [_noise(*one) for one in zip(pixels, owners, grounds, strict=True)]
  seen: list[list[Seen]] = [[] for _ in grounds]
  for ground in (BACKGROUND, DARK):
    mine = [r for r in regions if grounds[r.image] == ground]
    for start in range(0, len(mine), CHUNK):
      some = mine[start : start + CHUNK]
      for region, one in zip(some, _identify(pixels, owners, some, noises, ground), strict=True):
        seen[region.image].append(one)
  pairs = zip(pixels, grounds, strict=True)
  known = [bool(np.linalg.norm(_border(p) - g) <= MAX_GROUND_ERROR) for p, g in pairs]
  return [_reading(objects, g, ok) for objects, g, ok in zip(seen, grounds, known, strict=True)]


def _reading(objects: Sequence[Seen], ground: tuple[int, int, int], known: bool) -> Reading:
  names = {o.rendering for o in objects} or {"dark" if ground == DARK else PLAIN}
  rendering = names.pop() if known and len(names) == 1 else UNKNOWN
  return Reading(tuple(sorted(objects, key=lambda o: -o.r)), rendering)


def _checked(images: np.ndarray) -> np.ndarray:
  images = np.asarray(images)
  square = images.ndim == 4 and images.shape[1] == images.shape[2] and images.shape[3] == 3
  if images.dtype != np.uint8 or not square or images.shape[1] < FLOOR:
    raise DataError(
      f"the images are {images.dtype} {list(images.shape)}; the reader takes uint8 [n, H, H, 3] "
      f"with H of at least {FLOOR}."
    )
  factor = images.shape[1] // FLOOR
  if factor > 1:
    images = np.stack([np.asarray(Image.fromarray(image).reduce(factor)) for image in images])
  return images.astype(np.float32)


def _border(image: np.ndarray) -> np.ndarray:
  edges = (image[0], image[-1], image[:, 0], image[:, -1])
  return np.median(np.concatenate(edges), 0)


def _ground(image: np.ndarray) -> tuple[int, int, int]:
  border = _border(image)
  return min((BACKGROUND, DARK), key=lambda g: float(((border - np.asarray(g)) ** 2).sum()))


def _noise(image: np.ndarray, owner: np.ndarray, ground: tuple[int, int, int]) -> float:
  """The mean squared difference of channels from the ground, away from all objects."""
  away = ~ndimage.binary_dilation(owner > 0, _BLOCK, iterations=3)
  if not away.any():
    return 0.0
  return min(MAX_NOISE**2, float(((image[away] - np.asarray(ground)) ** 2).mean()))


def find_regions(
  image: np.ndarray, ground: np.ndarray, index: int
) -> tuple[np.ndarray, list[Region]]:
  """The objects of an image [h, h, 3]: a map of their numbers [h, h], 0 elsewhere, and the list."""
  distance = np.sqrt(((image - ground) ** 2).sum(-1))
  # Colours differ from the ground by different amounts: each edge is measured by what is beside it.
  near = ndimage.maximum_filter(distance, 5)
  share = np.minimum(distance / np.maximum(near, VISIBLE), 1.0)
  owner, n = ndimage.label((distance > VISIBLE) & (share > MIN_SHARE), _BLOCK)
  for least in CUTS:  # objects that touch by their blurred edges
    boxes = ndimage.find_objects(owner)
    wide = [max(s.stop - s.start for s in box) > MAX_EXTENT * len(image) for box in boxes]
    if not any(wide):
      break
    owner, n = ndimage.label(
      (owner > 0) & ~(np.array([False, *wide])[owner] & (share < least)), _BLOCK
    )
  regions = []
  for number in range(1, n + 1):
    mine = ndimage.binary_fill_holes(owner == number)
    if mine.sum() < MIN_AREA * mine.size:
      owner[owner == number] = 0
      continue
    inner = ndimage.binary_erosion(mine, _BLOCK)
    around = ndimage.binary_dilation(mine, _BLOCK) & ((owner == 0) | (owner == number))
    cover = np.where(inner, 1.0, np.where(mine | around, share, 0.0))
    owner[mine] = number
    area = float(cover.sum())
    at = np.arange(len(cover)) + 0.5
    regions.append(
      Region(index, number, float(cover.sum(0) @ at) / area, float(cover.sum(1) @ at) / area, area)
    )
  return owner, regions


def _identify(
  pixels: np.ndarray,
  owners: Sequence[np.ndarray],
  regions: Sequence[Region],
  noises: Sequence[float],
  ground: tuple[int, int, int],
) -> list[Seen]:
  """The best identity of each region, all on one ground.   noises: variance by image"""
  side = pixels.shape[1]
  windows = windows_of(pixels, owners, regions, np.asarray(ground, np.float32))
  areas = np.array([r.area for r in regions])
  kinds = [(z, s) for z in RENDERINGS if ground_of(z) == ground for s in SHAPES]
  by_shape = {shape: np.sqrt(areas / AREAS[shape]) for shape in SHAPES}
  errors = np.stack([errors_of_all(windows, s, by_shape[s], z, side) for z, s in kinds], 1)
  flat = errors.reshape(len(regions), -1)
  near = np.argpartition(flat, CANDIDATES, axis=1)[:, :CANDIDATES]
  choice = Choice(*np.unravel_index(near, errors.shape[1:]))
  radii = np.stack([by_shape[shape] for _, shape in kinds], 1)  # [N, kinds]
  radii = np.take_along_axis(radii, choice.kind, 1)
  errors, steps = refined_errors(windows, radii, choice, kinds, side)
  # What noise adds to every error is not held against the best.
  noise = np.array([noises[r.image] for r in regions]) * windows.weight.sum(1) * 3
  energy = np.maximum((windows.y**2).sum((1, 2)) - noise, 1.0)
  order = np.argsort(errors, axis=1)
  first, second = np.take_along_axis(errors, order[:, :2], 1).T
  clear = (first - noise <= MAX_ERROR * energy) & (second - first >= MARGIN * energy)
  disc = np.sqrt(areas / np.pi) / side
  clear &= (disc >= RADII[0]) & (disc <= RADII[1])
  return [
    _named(region, kinds, [int(c[i, k]) for c in choice], radii[i, k], steps[i, k], side, sure)
    for i, (region, k, sure) in enumerate(zip(regions, order[:, 0], clear, strict=True))
  ]


def _named(
  region: Region,
  kinds: Sequence[tuple[str, str]],
  choice: Sequence[int],
  radius: float,
  step: np.ndarray,
  side: int,
  sure: bool,
) -> Seen:
  if not sure:
    r = float(np.sqrt(region.area / np.pi)) / side
    place = (size_name(r), region.x / side, region.y / side, r)
    return Seen(UNKNOWN, UNKNOWN, *place, UNKNOWN, UNKNOWN, UNKNOWN)
  kind, mark, color, mark_color = choice
  rendering, shape = kinds[kind]
  x, y, r = ((np.array([region.x, region.y, radius]) + step) / side).tolist()
  marks = (ALL_MARKS[mark], _COLORS[mark_color] if mark else NONE)
  return Seen(shape, _COLORS[color], size_name(r), x, y, r, *marks, rendering)
