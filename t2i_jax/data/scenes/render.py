"""A scene as pixels."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from t2i_jax.data.scenes.facts import Object, Scene
from t2i_jax.data.scenes.geometry import box_of, coverage, line, stroke
from t2i_jax.data.scenes.vocabulary import BACKGROUND, COLORS, find_level
from t2i_jax.errors import ConfigError

Colour = tuple[float, float, float]
# An object, its colour, and the share of each pixel that gets it: as geometry.coverage.
Layer = tuple[Object, Colour, Callable[..., np.ndarray]]
BLACK, WHITE = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)


def render(scene: Scene, size: int) -> np.ndarray:
  """Draws a scene, anti-aliased by each pixel's distance to the outline.

  size  side in pixels; at least the floor of the scene's level (ConfigError below it)
  Returns uint8 [size, size, 3].
  """
  floor = find_level(scene.level).floor
  if size < floor:
    raise ConfigError(
      f"size = {size} is below {floor} pixels, the minimum of level {scene.level!r}. "
      f"Use a size of at least {floor}, or an easier level."
    )
  return draw(scene.objects, size)


def draw(objects: tuple[Object, ...], size: int) -> np.ndarray:
  """Draws objects in their order on the plain background; uint8 [size, size, 3]."""
  return painted(size, BACKGROUND, [(o, COLORS[o.color], coverage) for o in objects])


def painted(size: int, ground: Colour, layers: Sequence[Layer]) -> np.ndarray:
  """Colours painted over a plain ground, one layer after the other; uint8 [size, size, 3]."""
  image = np.empty((size, size, 3), np.float32)
  image[:] = ground
  for o, colour, share_of in layers:
    left, top, right, bottom = (size * edge for edge in box_of(o))
    rows = np.arange(max(0, math.floor(top) - 1), min(size, math.ceil(bottom) + 1))
    columns = np.arange(max(0, math.floor(left) - 1), min(size, math.ceil(right) + 1))
    share = share_of(o.shape, size * o.x, size * o.y, size * o.r, rows, columns)[..., None]
    patch = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    patch += share * (np.asarray(colour, np.float32) - patch)
  return (image + 0.5).astype(np.uint8)


def outlines(objects: Sequence[Object], size: int) -> np.ndarray:
  """White outlines of 1 pixel on black; what lies behind an object is hidden by it."""
  layers: list[Layer] = []
  for o in objects:
    layers += [(o, BLACK, coverage), (o, WHITE, line)]
  return painted(size, BLACK, layers)


def order(objects: Sequence[Object], size: int) -> np.ndarray:
  """Grey levels by the order of drawing: the ground black, object i of n at 255 i / n, i from 1."""
  levels = [255 * (i + 1) / len(objects) for i in range(len(objects))]
  grey = zip(objects, levels, strict=True)
  return painted(size, BLACK, [(o, (level, level, level), coverage) for o, level in grey])


def strokes(objects: Sequence[Object], size: int) -> np.ndarray:
  """A short stroke of each object's colour through its centre: where and what colour, no shape."""
  return painted(size, BACKGROUND, [(o, COLORS[o.color], stroke) for o in objects])
