"""Convolutional layers of autoencoders and of the U-Net, [B, H, W, C] throughout.

Weights are float32 and are cast to the activations' dtype; statistics of norms are float32 in any
dtype. Padding is explicit: "SAME" would pad an odd size differently.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.layers import Dense
from t2i_jax.models.params import Init, fan_in, ones, weight, zeros


class MakeNorm(Protocol):
  """The norm of an architecture, of a width."""

  def __call__(self, rngs: nnx.Rngs, width: int) -> nnx.Module: ...


class GroupNorm(nnx.Module):
  """Mean and variance over the image and a group of channels [1803.08494 eq. 2]."""

  def __init__(self, rngs: nnx.Rngs, width: int, *, groups: int, eps: float = 1e-6):
    self.gain = weight(rngs, (width,), ("conv_out",), ones)
    self.bias = weight(rngs, (width,), ("conv_out",), zeros)
    self.groups, self.eps = groups, eps

  def __call__(self, x: jax.Array) -> jax.Array:
    b, h, w, c = x.shape
    # The mean is subtracted before squares are summed: E[x^2] - E[x]^2 loses all digits in float32
    # where the mean is a thousand standard deviations.
    x32 = x.astype(jnp.float32).reshape(b, h, w, self.groups, c // self.groups)
    x32 = x32 - jnp.mean(x32, axis=(1, 2, 4), keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=(1, 2, 4), keepdims=True) + self.eps)
    return ((x32 * scale).reshape(b, h, w, c) * self.gain[...] + self.bias[...]).astype(x.dtype)


class Conv(nnx.Module):
  """A 3 x 3 convolution.   [B, H, W, C] -> [B, H, W, out], or of half the sides

  halves   stride 2
  hidden   the kernel is a hidden matrix to optimisers
  padding  zeros before and after each side; by default 1 and 1, and where it halves 0 and 1, as
           published autoencoders have it
  """

  def __init__(
    self,
    rngs: nnx.Rngs,
    inputs: int,
    outputs: int,
    *,
    halves: bool = False,
    padding: tuple[int, int] | None = None,
    init: Init | None = None,
    hidden: bool = False,
  ):
    axes = (None, None, "conv_in", "conv_out")
    self.kernel = weight(
      rngs,
      (3, 3, inputs, outputs),
      axes,
      init or fan_in(9 * inputs),
      ((0, 1, 2), (3,)) if hidden else None,
    )
    self.bias = weight(rngs, (outputs,), ("conv_out",), zeros)
    self.stride = 2 if halves else 1
    self.padding = padding or ((0, 1) if halves else (1, 1))

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


def resized(x: jax.Array, height: int, width: int) -> jax.Array:
  """The nearest neighbour below, floor(i in / out), as torch's "nearest".   # [B, height, width, C]

  The side that a skip connection has may be odd: twice the smaller one less one.
  """
  _, h, w, _ = x.shape
  if (height, width) == (2 * h, 2 * w):
    return double(x)
  rows, cols = (jnp.arange(new) * old // new for new, old in ((height, h), (width, w)))
  return x[:, rows][:, :, cols]


class ResBlock(nnx.Module):
  """skip(x) + conv(silu(norm(conv(silu(norm(x)))))).   [B, H, W, C] -> [B, H, W, width]

  time  width of a vector that is projected and added between the convolutions; 0: none
  """

  def __init__(self, rngs: nnx.Rngs, inputs: int, width: int, norm: MakeNorm, time: int = 0):
    self.norm1, self.conv1 = norm(rngs, inputs), Conv(rngs, inputs, width, hidden=True)
    self.norm2, self.conv2 = norm(rngs, width), Conv(rngs, width, width, hidden=True)
    if time:
      self.time = Dense(rngs, time, width, ("embed", "conv_out"))
    self.widens = inputs != width
    if self.widens:
      self.skip = pointwise(rngs, inputs, width)

  def __call__(self, x: jax.Array, vector: jax.Array | None = None) -> jax.Array:
    """vector [B, time], after its own SiLU"""
    h = self.conv1(jax.nn.silu(self.norm1(x)))
    if vector is not None:
      h = h + self.time(vector)[:, None, None]
    h = self.conv2(jax.nn.silu(self.norm2(h)))
    return h + (self.skip(x) if self.widens else x)
