"""Large images in tiles: a function of an image on overlapping parts of it, blended.

Norms and attention see one tile, so the result differs from that of the whole image. Nothing is
divided unless a side is longer than one tile.

`smooth`     all tiles have one shape and are evenly spaced, one program runs them in turn; the
             outermost eighth of a tile, where padding was seen in place of the image, has weight 0
`diffusers`  tiles, overlap and blend of diffusers' tiled_encode and tiled_decode: the last tiles
             are smaller, and neighbours are blended from the very border of a tile
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.errors import ConfigError

OVERLAP = 4  # a tile overlaps the next by at least 1 / OVERLAP of its side

Function = Callable[[jax.Array], jax.Array]  # [B, h, w, C] -> [B, h k / f, w k / f, out]
TILINGS = ("smooth", "diffusers")


class Ratio(NamedTuple):
  """Sizes of input and output over that of the latents: (1, f) decodes, (f, 1) encodes."""

  into: int
  out: int


def tiled(how: str, function: Function, x: jax.Array, ratio: Ratio, tile: int) -> jax.Array:
  """function(x), in tiles where a side of x is longer than one.   # [B, H, W, out]

  how   one of TILINGS; "" never divides
  tile  side of a tile in latents
  Raises ConfigError for a size or a tile that cannot be divided.
  """
  height, width = (side // ratio.into for side in x.shape[1:3])
  if not how or max(height, width) <= tile:
    return function(x)
  if how not in TILINGS:
    raise ConfigError(f"tiling = {how!r} is not one of '', {', '.join(map(repr, TILINGS))}.")
  if any(side % ratio.into for side in x.shape[1:3]):
    raise ConfigError(
      f"an image of {x.shape[1]} x {x.shape[2]} cannot be tiled: {ratio.into} divides neither or "
      f"only one side. Crop it to {height * ratio.into} x {width * ratio.into}."
    )
  if tile < OVERLAP or tile % OVERLAP:
    raise ConfigError(
      f"tiles of {tile} latents do not overlap by a quarter: use a multiple of {OVERLAP}, as a "
      "config.sample_size of 512."
    )
  if how == "diffusers":
    return _as_diffusers(function, x, ratio, tile)
  return _smooth(function, x, ratio, tile)


def starts(length: int, tile: int) -> np.ndarray:
  """First positions of evenly spaced tiles over a side.   # [n] int"""
  if length <= tile:
    return np.zeros(1, int)
  count = 1 + -(-(length - tile) // (tile - tile // OVERLAP))
  return np.round(np.linspace(0, length - tile, count)).astype(int)


def weights(first: np.ndarray, tile: int) -> np.ndarray:
  """Weight of each position of each tile; those of all tiles add up to 1.   # [n, tile]

  Across an overlap V of two tiles, 0 for V / 8, then half a period of a cosine from 0 to 1.
  """
  found = np.ones((len(first), tile))
  for i in range(1, len(first)):
    shared = first[i - 1] + tile - first[i]
    margin = shared // 8
    step = (np.arange(shared) + 0.5 - margin) / (shared - 2 * margin)
    rise = 0.5 - 0.5 * np.cos(np.pi * np.clip(step, 0, 1))
    found[i, :shared] *= rise
    found[i - 1, tile - shared :] *= 1 - rise
  total = np.zeros(first[-1] + tile)
  for start, row in zip(first, found, strict=True):
    total[start : start + tile] += row
  return np.stack([row / total[s : s + tile] for s, row in zip(first, found, strict=True)])


def _smooth(function: Function, x: jax.Array, ratio: Ratio, tile: int) -> jax.Array:
  sides = [side // ratio.into for side in x.shape[1:3]]
  tiles = [min(side, tile) for side in sides]
  first = [starts(side, size) for side, size in zip(sides, tiles, strict=True)]
  rows, columns = (
    jnp.asarray(weights(ratio.out * at, ratio.out * size), jnp.float32)
    for at, size in zip(first, tiles, strict=True)
  )
  cut = (x.shape[0], *(ratio.into * size for size in tiles), x.shape[3])
  # Shapes of the output without running it: the number of its channels.
  one = jax.eval_shape(function, jax.ShapeDtypeStruct(cut, x.dtype))
  total = jnp.zeros((x.shape[0], *(ratio.out * side for side in sides), one.shape[3]), one.dtype)
  pairs = jnp.stack(jnp.meshgrid(*(jnp.arange(len(at)) for at in first), indexing="ij"), -1)
  at_row, at_column = (jnp.asarray(at, jnp.int32) for at in first)

  def add(total: jax.Array, pair: jax.Array) -> tuple[jax.Array, None]:
    row, column = at_row[pair[0]], at_column[pair[1]]
    part = jax.lax.dynamic_slice(x, (0, row * ratio.into, column * ratio.into, 0), cut)
    weight = rows[pair[0]][:, None, None] * columns[pair[1]][:, None]  # [h, w, 1]
    made = function(part) * weight.astype(one.dtype)
    corner = (0, row * ratio.out, column * ratio.out, 0)
    before = jax.lax.dynamic_slice(total, corner, made.shape)
    return jax.lax.dynamic_update_slice(total, before + made, corner), None

  return jax.lax.scan(add, total, pairs.reshape(-1, 2))[0]


def _as_diffusers(function: Function, x: jax.Array, ratio: Ratio, tile: int) -> jax.Array:
  stride = tile - tile // OVERLAP
  blend, kept = ratio.out * (tile // OVERLAP), ratio.out * stride
  size, step = ratio.into * tile, ratio.into * stride
  above: list[jax.Array] = []
  rows = []
  for top in range(0, x.shape[1], step):
    made: list[jax.Array] = []
    for j, left in enumerate(range(0, x.shape[2], step)):
      part = function(x[:, top : top + size, left : left + size])
      part = _blend(above[j], part, blend, 1) if above else part
      made.append(_blend(made[j - 1], part, blend, 2) if j else part)
    rows.append(jnp.concatenate([part[:, :kept, :kept] for part in made], axis=2))
    above = made  # blended already, as there, where it is done in place
  return jnp.concatenate(rows, axis=1)


def _blend(before: jax.Array, after: jax.Array, extent: int, axis: int) -> jax.Array:
  """`after` with its first rows mixed linearly with the last rows of its neighbour."""
  extent = min(before.shape[axis], after.shape[axis], extent)
  shape = [1] * after.ndim
  shape[axis] = extent
  weight = (jnp.arange(extent, dtype=jnp.float32) / extent).reshape(shape).astype(after.dtype)
  end = jax.lax.slice_in_dim(before, before.shape[axis] - extent, None, axis=axis)
  begin = jax.lax.slice_in_dim(after, 0, extent, axis=axis)
  rest = jax.lax.slice_in_dim(after, extent, None, axis=axis)
  return jnp.concatenate([end * (1 - weight) + begin * weight, rest], axis=axis)
