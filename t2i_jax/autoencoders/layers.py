"""Layers of convolutional autoencoders, [B, H, W, C] throughout.

Weights are float32 and are cast to the activations' dtype; statistics of norms and the softmax are
float32 in any dtype. Padding is explicit: "SAME" would pad an odd size differently.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.attention import attend
from t2i_jax.models.layers import Dense
from t2i_jax.models.params import fan_in, ones, weight, zeros

EPS = 1e-6  # of the group norms, as published
L2_EPS = 1e-12  # of the RMS norms: a lower bound of the L2 norm
QUERIES = 4096  # of the attention at once: 16384 of an image of 1024 x 1024 need 1 GB of scores


class MakeNorm(Protocol):
  """The norm of an architecture, of a width."""

  def __call__(self, rngs: nnx.Rngs, width: int) -> nnx.Module: ...


class GroupNorm(nnx.Module):
  """Mean and variance over the image and a group of channels [1803.08494 eq. 2]."""

  def __init__(self, rngs: nnx.Rngs, width: int, *, groups: int):
    self.gain = weight(rngs, (width,), ("conv_out",), ones)
    self.bias = weight(rngs, (width,), ("conv_out",), zeros)
    self.groups = groups

  def __call__(self, x: jax.Array) -> jax.Array:
    b, h, w, c = x.shape
    # The mean is subtracted before squares are summed: E[x^2] - E[x]^2 loses all digits in float32
    # where the mean is a thousand standard deviations.
    x32 = x.astype(jnp.float32).reshape(b, h, w, self.groups, c // self.groups)
    x32 = x32 - jnp.mean(x32, axis=(1, 2, 4), keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=(1, 2, 4), keepdims=True) + EPS)
    return ((x32 * scale).reshape(b, h, w, c) * self.gain[...] + self.bias[...]).astype(x.dtype)


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


class Conv(nnx.Module):
  """A 3 x 3 convolution.   [B, H, W, C] -> [B, H, W, out], or [B, H // 2, W // 2, out]

  halves  stride 2, padded at the bottom and at the right only
  """

  def __init__(self, rngs: nnx.Rngs, inputs: int, outputs: int, *, halves: bool = False):
    axes = (None, None, "conv_in", "conv_out")
    self.kernel = weight(rngs, (3, 3, inputs, outputs), axes, fan_in(9 * inputs))
    self.bias = weight(rngs, (outputs,), ("conv_out",), zeros)
    self.stride, self.padding = (2, (0, 1)) if halves else (1, (1, 1))

  def __call__(self, x: jax.Array) -> jax.Array:
    y = jax.lax.conv_general_dilated(
      x,
      self.kernel[...].astype(x.dtype),
      (self.stride, self.stride),
      (self.padding, self.padding),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + self.bias[...].astype(x.dtype)


def pointwise(rngs: nnx.Rngs, inputs: int, outputs: int) -> Dense:
  """A 1 x 1 convolution."""
  return Dense(rngs, inputs, outputs, ("conv_in", "conv_out"))


def double(x: jax.Array) -> jax.Array:
  """Nearest neighbours at twice the size.   [B, H, W, C] -> [B, 2H, 2W, C]"""
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class ResBlock(nnx.Module):
  """skip(x) + conv(silu(norm(conv(silu(norm(x)))))).   [B, H, W, C] -> [B, H, W, width]"""

  def __init__(self, rngs: nnx.Rngs, inputs: int, width: int, norm: MakeNorm):
    self.norm1, self.conv1 = norm(rngs, inputs), Conv(rngs, inputs, width)
    self.norm2, self.conv2 = norm(rngs, width), Conv(rngs, width, width)
    self.widens = inputs != width
    if self.widens:
      self.skip = pointwise(rngs, inputs, width)

  def __call__(self, x: jax.Array) -> jax.Array:
    h = self.conv1(jax.nn.silu(self.norm1(x)))
    h = self.conv2(jax.nn.silu(self.norm2(h)))
    return h + (self.skip(x) if self.widens else x)


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
