"""Planted images as pixels: objects with marks, in five renderings.

A pixel is the ground, a share of the body's colour and a share of the mark's:

    pixel = ground + body * (color - ground) + mark * (mark_color - ground)

  plain    the body is filled, on the background of all scenes
  outline  the body is its outline alone, STROKE wide; a mark is filled inside of it
  pastel   both shares are halved
  dark     as plain, with black and the background exchanged
  hatch    both shares rise and fall along the diagonal of the image
"""

import functools
from collections.abc import Sequence

import numpy as np

from t2i_jax.data.scenes.facts import Object
from t2i_jax.data.scenes.geometry import AREAS, signed_distance
from t2i_jax.data.scenes.planted.world import NONE, PLAIN, RENDERINGS
from t2i_jax.data.scenes.vocabulary import BACKGROUND, COLORS
from t2i_jax.errors import ConfigError

DARK = COLORS["black"]
STROKE = 0.045  # sides
PASTEL = 0.5
HATCH = 0.19  # sides, along x + y, from stripe to stripe
FLOOR = 32  # pixels: of level easy
# Of a mark, in units of the radius of a disc of 0.8 of the shape's area.
RING = (0.40, 0.75)
DOT = 0.5
BAR = 0.3


@functools.cache
def mark_radius(shape: str) -> float:
  """The unit of a mark's lengths at radius 1."""
  return float(np.sqrt(0.8 * AREAS[shape] / np.pi))


def mark_area(mark: str, unit: np.ndarray | float, px: np.ndarray, py: np.ndarray) -> np.ndarray:
  """Share of each pixel that a mark covers, not cut off by the body's outline.

  unit    mark_radius(shape) * r, pixels
  px, py  [...] offsets of pixels from the centroid, pixels, y down
  """
  distance = np.hypot(px, py)
  if mark == "ring":
    inner, outer = RING
    reach = unit * (outer - inner) / 2 - np.abs(distance - unit * (outer + inner) / 2)
  elif mark == "dot":
    reach = unit * DOT - distance
  elif mark == "half":
    reach = px
  elif mark == "bar":
    reach = unit * BAR - np.abs(py)
  else:
    return np.zeros(np.shape(distance), np.float32)
  return np.clip(0.5 + reach, 0.0, 1.0)


def layers(
  shape: str,
  marks: Sequence[str],
  rendering: str,
  px: np.ndarray,
  py: np.ndarray,
  r: np.ndarray | float,
  side: int,
) -> np.ndarray:
  """Shares of the body and of each mark in each pixel, before they are scaled: see `scale_of`.

  px, py  [...] offsets of pixels from the centroid, pixels, y down
  r       radius, pixels, broadcast to them
  side    of the image, pixels
  Returns [K, 2, ...] in [0, 1], K marks: body, mark.
  """
  distance = r * signed_distance(shape, px / r, py / r)
  whole = np.clip(0.5 - distance, 0.0, 1.0)
  unit = mark_radius(shape) * r
  areas = np.stack([mark_area(mark, unit, px, py) for mark in marks])
  if rendering != "outline":
    return np.stack([whole * (1 - areas), whole * areas], 1)
  inner = np.clip(0.5 - distance - STROKE * side, 0.0, 1.0)
  return np.stack([np.broadcast_to(whole - inner, areas.shape), inner * areas], 1)


def scale_of(rendering: str, x: np.ndarray, y: np.ndarray, side: int) -> np.ndarray | float:
  """The factor of both shares at pixel centres (x, y) of an image."""
  if rendering == "hatch":
    return 0.7 + 0.3 * np.cos(2 * np.pi * (x + y) / (HATCH * side))
  return PASTEL if rendering == "pastel" else 1.0


def ground_of(rendering: str) -> tuple[int, int, int]:
  """The colour behind all objects."""
  return DARK if rendering == "dark" else BACKGROUND


def colors_of(rendering: str) -> dict[str, tuple[int, int, int]]:
  """The palette of a rendering: all of it lies on one side of the ground, so that no blend of two
  colours is the ground."""
  return COLORS | ({"black": BACKGROUND} if rendering == "dark" else {})


def draw(objects: Sequence[Object], size: int, rendering: str = PLAIN) -> np.ndarray:
  """Draws plain and marked objects; uint8 [size, size, 3].

  Raises ConfigError on an unknown rendering, or a size below FLOOR.
  """
  if rendering not in RENDERINGS:
    raise ConfigError(f"{rendering!r} is not a rendering. Use one of {', '.join(RENDERINGS)}.")
  if size < FLOOR:
    raise ConfigError(f"size = {size} is below {FLOOR} pixels. Use at least {FLOOR}.")
  ground = np.asarray(ground_of(rendering), np.float32)
  image = np.broadcast_to(ground, (size, size, 3)).copy()
  x, y = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)  # [size, size]
  scale, palette = scale_of(rendering, x, y, size), colors_of(rendering)
  for o in objects:
    mark = getattr(o, "mark", NONE)
    at = (x - size * o.x, y - size * o.y, size * o.r, size)
    (shares,) = layers(o.shape, (mark,), rendering, *at)
    colors = (o.color, o.color if mark == NONE else getattr(o, "mark_color", NONE))
    for share, color in zip(shares, colors, strict=True):
      image += (scale * share)[..., None] * (np.asarray(palette[color], np.float32) - ground)
  return (np.clip(image, 0, 255) + 0.5).astype(np.uint8)
