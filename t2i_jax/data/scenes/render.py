"""A scene as pixels."""

import math

import numpy as np

from t2i_jax.data.scenes.facts import Object, Scene
from t2i_jax.data.scenes.geometry import box_of, coverage
from t2i_jax.data.scenes.vocabulary import BACKGROUND, COLORS, find_level
from t2i_jax.errors import ConfigError


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
  image = np.empty((size, size, 3), np.float32)
  image[:] = BACKGROUND
  for o in objects:
    left, top, right, bottom = (size * edge for edge in box_of(o))
    rows = np.arange(max(0, math.floor(top) - 1), min(size, math.ceil(bottom) + 1))
    columns = np.arange(max(0, math.floor(left) - 1), min(size, math.ceil(right) + 1))
    share = coverage(o.shape, size * o.x, size * o.y, size * o.r, rows, columns)[..., None]
    patch = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    patch += share * (np.asarray(COLORS[o.color], np.float32) - patch)
  return (image + 0.5).astype(np.uint8)
