"""Layers that every backbone shares.

Precision, said here once: weights are float32 and are cast to the activations' dtype at each
matmul (`project`); norm statistics, softmax, timestep embeddings and rotary angles are float32.
A model chooses float32 or bfloat16 by the dtype it gives its first activation.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.params import fan_in, weight

MLP_RATIO = 4  # hidden width of an MLP over its width [1706.03762 sec. 3.3]


def project(equation: str, x: jax.Array, kernel: nnx.Param | jax.Array) -> jax.Array:
  """einsum of activations with a weight, in the activations' dtype."""
  return jnp.einsum(equation, x, jnp.asarray(kernel[...]).astype(x.dtype))


def rms_norm(x: jax.Array, gain: nnx.Param | None = None, eps: float = 1e-6) -> jax.Array:
  """x / rms(x) over the last dimension, statistics in float32 [1910.07467 eq. 4]."""
  x32 = x.astype(jnp.float32)
  y = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
  return (y if gain is None else y * gain[...]).astype(x.dtype)


def layer_norm(x: jax.Array, eps: float = 1e-6) -> jax.Array:
  """LayerNorm without gain or shift, which adaLN supplies; statistics in float32."""
  x32 = x.astype(jnp.float32)
  x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
  scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
  return (x32 * scale).astype(x.dtype)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
  """adaLN [2212.09748 sec. 3.2]: x [B, L, D]; shift, scale [B, D]."""
  return x * (1 + scale[:, None]) + shift[:, None]


def _gelu_and_slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  c = math.sqrt(2 / math.pi)
  tanh = jnp.tanh(c * (x + 0.044715 * x**3))
  slope = 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh**2) * c * (1 + 3 * 0.044715 * x**2)
  return 0.5 * x * (1 + tanh), slope


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
  """GELU, tanh form [1606.08415 sec. 2]; the slope is computed in the forward pass.

  Inside a scanned backward pass XLA on CPU would recompute tanh for every consumer.
  """
  return _gelu_and_slope(x)[0]


gelu.defvjp(
  lambda x: jax.lax.optimization_barrier(_gelu_and_slope(x)),
  lambda slope, g: (g * slope,),
)


def timestep_embedding(model_time: jax.Array, size: int, max_period: float = 1e4) -> jax.Array:
  """[cos, sin] of the time at geometric frequencies, float32.   # [B, size]

  model_time [B] in units of steps, 0 to 1000.   Source: [1706.03762 sec. 3.5]
  """
  frequency = jnp.exp(-math.log(max_period) * jnp.arange(size // 2) / (size // 2))
  angle = model_time.astype(jnp.float32)[:, None] * frequency
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def rope_angles(positions: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
  """cos and sin of the rotary angles, float32.   # [L, K / 2] each

  positions [L, A]: A coordinates a token (row and column of a patch; the index of a word); each
  owns an equal share of the K / 2 pairs.   Source: [2104.09864 eq. 15], axial as [2403.13298].
  """
  share = head_dim // 2 // positions.shape[1]
  if share * 2 * positions.shape[1] != head_dim:
    raise ValueError(f"head width {head_dim} does not split over {positions.shape[1]} axes")
  frequency = theta ** (-jnp.arange(share) / share)
  angle = (positions[:, :, None] * frequency).reshape(positions.shape[0], -1)  # [L, K / 2]
  return jnp.cos(angle), jnp.sin(angle)


def grid_positions(rows: int, cols: int) -> jax.Array:
  """(row, column) of each patch in reading order, for rope_angles.   # [rows cols, 2]"""
  grid = jnp.stack(jnp.meshgrid(jnp.arange(rows), jnp.arange(cols), indexing="ij"), -1)
  return grid.reshape(-1, 2)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Applies rotary angles [L, K / 2] to x [B, L, N, K], whose halves are the pairs' two sides."""
  cos, sin = cos[:, None], sin[:, None]  # [L, 1, K / 2]
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class Mlp(nnx.Module):
  """Two matrices with a GELU between."""

  def __init__(self, width: int, rngs: nnx.Rngs):
    hidden = MLP_RATIO * width
    self.up = weight(rngs, (width, hidden), ("embed", "mlp"), fan_in(width), ((0,), (1,)))
    self.down = weight(rngs, (hidden, width), ("mlp", "embed"), fan_in(hidden), ((0,), (1,)))

  def __call__(self, x: jax.Array) -> jax.Array:
    return project("blf,fd->bld", gelu(project("bld,df->blf", x, self.up)), self.down)


def patchify(x: jax.Array, patch: int) -> jax.Array:
  """[B, H, W, C] to tokens [B, H/p W/p, p p C] in reading order."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // patch, patch, w // patch, patch, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(tokens: jax.Array, patch: int, height: int, width: int) -> jax.Array:
  """The inverse of patchify: tokens back to [B, height, width, C]."""
  b, rows, cols = tokens.shape[0], height // patch, width // patch
  x = tokens.reshape(b, rows, cols, patch, patch, -1).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, height, width, -1)
