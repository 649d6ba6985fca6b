"""Layers of convolutional autoencoders besides those of models.convolution, [B, H, W, C]."""

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.attention import attend
from t2i_jax.models.convolution import MakeNorm, pointwise
from t2i_jax.models.layers import Dense
from t2i_jax.models.params import ones, weight

L2_EPS = 1e-12  # of the RMS norms: a lower bound of the L2 norm
QUERIES = 4096  # of the attention at once: 16384 of an image of 1024 x 1024 need 1 GB of scores


class RMSNorm(nnx.Module):
  """x / rms(x) over the channels of a pixel, as x sqrt(C) / max(|x|, L2_EPS), with a gain."""

  def __init__(self, rngs: nnx.Rngs, width: int):
    self.gain = weight(rngs, (width,), ("conv_out",), ones)

  def __call__(self, x: jax.Array) -> jax.Array:
    x32 = x.astype(jnp.float32)
    squares = jnp.sum(jnp.square(x32), axis=-1, keepdims=True)
    # The bound is inside the root, whose slope at 0 would be infinite.
    norm = jnp.sqrt(jnp.maximum(squares, L2_EPS**2))
    return (x32 / norm * x.shape[-1] ** 0.5 * self.gain[...]).astype(x.dtype)


class Attention(nnx.Module):
  """x + self-attention of the pixels, one head as wide as x.   [B, H, W, C]"""

  def __init__(self, rngs: nnx.Rngs, width: int, norm: MakeNorm):
    self.norm = norm(rngs, width)
    self.qkv = Dense(rngs, width, (3, width), ("conv_in", None, "conv_out"))
    self.out = pointwise(rngs, width, width)

  def __call__(self, x: jax.Array) -> jax.Array:
    b, h, w, c = x.shape
    qkv = self.qkv(self.norm(x)).reshape(b, h * w, 3, 1, c)
    q, k, v = (qkv[:, :, i] for i in range(3))  # [B, H W, 1, C]
    return x + self.out(attend_in_chunks(q, k, v).reshape(b, h, w, c))


def attend_in_chunks(q: jax.Array, k: jax.Array, v: jax.Array, size: int = QUERIES) -> jax.Array:
  """models.attention.attend with scores of `size` queries in memory at once.   # [B, L, N, K]"""
  b, length, n, width = q.shape
  if length <= size:
    return attend(q, k, v)
  count = -(-length // size)
  q = jnp.pad(q, ((0, 0), (0, count * size - length), (0, 0), (0, 0)))
  chunks = q.reshape(b, count, size, n, width).swapaxes(0, 1)
  out = jax.lax.map(lambda chunk: attend(chunk, k, v), chunks)
  return out.swapaxes(0, 1).reshape(b, count * size, n, width)[:, :length]
