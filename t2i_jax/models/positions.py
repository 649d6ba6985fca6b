"""Where tokens sit: fixed sines and cosines, and rotary angles in one axis or several.

Angles are float32, whatever the activations are.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.ranges import Count, Range

Theta = Annotated[float, Range("[1, 1e9]")]  # base of the rotary frequencies
Axes = tuple[Count, ...]  # of a head's width, the part of each coordinate


def sincos_positions(coordinates: Any, width: int) -> np.ndarray:
  """Fixed 2-D positions: of each coordinate [sin, cos], a half of the width each.   # [L, width]

  coordinates [L, 2], host numbers: row or column first, as the model has it.
  Source: [2212.09748, its code]
  """
  quarter = width // 4
  frequency = 1e4 ** (-np.arange(quarter) / quarter)
  angle = np.asarray(coordinates, np.float64)[:, :, None] * frequency  # [L, 2, width / 4]
  both = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
  return both.reshape(len(both), width).astype(np.float32)


def sincos_grid(
  rows: int, cols: int, steps: tuple[float, float], width: int, start: tuple[float, float] = (0, 0)
) -> jax.Array:
  """Fixed positions of a grid, float32; the first half of the width is of the column.

  steps  how far apart rows and columns lie: below 1 where a grid is interpolated into a smaller
  start  the (row, column) of the first patch: where a grid is cut out of a larger
  """
  row, col = (
    (np.arange(n) + first) * step for n, first, step in zip((rows, cols), start, steps, strict=True)
  )
  cols_first = np.stack(np.meshgrid(col, row), axis=-1).reshape(-1, 2)  # [rows cols, 2]
  return jnp.asarray(sincos_positions(cols_first, width))


def interpolated_grid(rows: int, cols: int, side: float, width: int) -> jax.Array:
  """sincos_grid with rows and columns so far apart that both span those of a square of `side`."""
  return sincos_grid(rows, cols, (side / rows, side / cols), width)


def rope_angles(
  positions: jax.Array, dims: int | tuple[int, ...], theta: float
) -> tuple[jax.Array, jax.Array]:
  """cos and sin of the rotary angles, float32.   # [..., L, K / 2] each

  positions [..., L, A]: A coordinates of each token (row and column of a patch; index in a text)
  dims      of a head's width, what each axis owns; one number is the head's width K, shared evenly
  Source: [2104.09864 eq. 15], axial as [2403.13298].   Raises ValueError where K does not split.
  """
  axes = positions.shape[-1]
  if isinstance(dims, int):
    if dims % (2 * axes):
      raise ValueError(f"head width {dims} does not split over {axes} axes")
    dims = (dims // axes,) * axes
  angles = [
    positions[..., i, None].astype(jnp.float32) * np.float32(theta ** (-np.arange(0, d, 2) / d))
    for i, d in enumerate(dims)
  ]
  angle = jnp.concatenate(angles, axis=-1)  # [..., L, K / 2]
  return jnp.cos(angle), jnp.sin(angle)


def rope_alternating(
  positions: jax.Array, width: int, theta: float, scaling: tuple[float, ...] = ()
) -> tuple[jax.Array, jax.Array]:
  """cos and sin of angles whose axes alternate from pair to pair, float32.   # [..., L, K / 2]

  positions [..., L, A]; width K of a head; scaling: of `llama3_rope_scaling`, () = none. A token
  whose coordinates are all p has the angles of the one-dimensional p: text in a sequence with
  images is as text alone.
  Source: [github.com/Tencent-Hunyuan/HunyuanImage-3.0]
  """
  pairs = np.arange(width // 2)
  exact = theta ** (-2 * pairs / width)
  frequency = np.float32(llama3_rope_scaling(exact, *scaling) if scaling else exact)
  angle = positions.astype(jnp.float32)[..., pairs % positions.shape[-1]] * frequency
  return jnp.cos(angle), jnp.sin(angle)


def llama3_rope_scaling(
  frequency: np.ndarray, factor: float, low: float, high: float, length: float
) -> np.ndarray:
  """Rotary frequencies for texts `factor` times as long as the `length` of pretraining.

  Frequencies of fewer than `low` periods in `length` are divided by `factor`, those of more than
  `high` are kept, and those between are interpolated.
  Source: [github.com/meta-llama/llama-models, apply_scaling]
  """
  turns = length * frequency / (2 * np.pi)
  kept = np.clip((turns - low) / (high - low), 0, 1)
  return frequency * (kept + (1 - kept) / factor)


def grid_positions(rows: int, cols: int) -> jax.Array:
  """(row, column) of each patch in reading order, for rope_angles.   # [rows cols, 2]"""
  grid = jnp.stack(jnp.meshgrid(jnp.arange(rows), jnp.arange(cols), indexing="ij"), -1)
  return grid.reshape(-1, 2)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Applies rotary angles [L, K / 2] or [B, L, K / 2] to x [B, L, N, K].

  The halves of x are the pairs' two sides; weights of models that interleave them are reordered
  when they are read (pretrained.names).
  """
  cos, sin = cos[..., None, :], sin[..., None, :]  # [L, 1, K / 2]
  return jax.lax.platform_dependent(x, cos, sin, tpu=_rotate_whole, default=_rotate_halves)


def _rotate_halves(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def _rotate_whole(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """The same where the last dimension lies in lanes of 128, whose halves are costly to cut.

  The halves change places in a matmul with a permutation, which is exact and takes the norm before
  it and the angles after it into one pass over memory. A layer of FLUX.1 (attention alone, forward
  and backward pass, batch 2) moves 5.7 GiB, by the TPU compiler's program, and 8.1 GiB with halves.
  """
  width = x.shape[-1]
  swap = jnp.asarray(np.roll(np.eye(width), width // 2, axis=1), x.dtype)
  exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
  other = jnp.einsum("...k,kj->...j", x, swap, precision=exact, preferred_element_type=x.dtype)
  cos, sin = jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)
  return (x.astype(jnp.float32) * cos + other.astype(jnp.float32) * sin).astype(x.dtype)


def check_heads(width: int, heads: int, per: int = 1) -> None:
  """Raises ConfigError where the width is not one of heads of a multiple of `per`."""
  if width % (per * heads):
    raise ConfigError(
      f"model.width = {width} does not divide into model.heads = {heads} heads"
      + (f" of a multiple of {per}" if per > 1 else "")
      + f". Use width {per * heads} x n."
    )


def check_rope(width: int, heads: int, axes: tuple[int, ...]) -> None:
  """Raises ConfigError where the axes of the rotary positions do not add up to a head's width."""
  check_heads(width, heads)
  if sum(axes) != width // heads or any(axis % 2 for axis in axes):
    raise ConfigError(
      f"model.rope_axes = {axes} are not even numbers that add up to the width of a head, "
      f"model.width / model.heads = {width // heads}."
    )
