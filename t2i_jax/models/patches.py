"""From images to tokens and back: a matrix, or the down and up blocks of a U-Net.

Source: [2408.11039 sec. 3.1]
"""

import math
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.layers import Dense, layer_norm, patchify, unpatchify
from t2i_jax.models.params import backwards, fan_in, scan_blocks, stack_of_one, weight, zeros


class LinearPatches(nnx.Module):
  """Each patch by itself: one matrix in, one out. t is added to the tokens.

  x [R, H, W, C], vector [R, D] of t
  """

  def __init__(self, rngs: nnx.Rngs, patch: int, channels: int, out: int, width: int):
    self.patch, area = patch, patch * patch
    self.first = Dense(rngs, area * channels, width, ("conv_in", "embed"))
    self.last = Dense(rngs, width, area * out, ("embed", "conv_out"), init=zeros)

  def tokens(self, x: jax.Array, vector: jax.Array) -> tuple[jax.Array, Any]:
    """[R, P, D], and what `image` needs besides: no skips."""
    return self.first(patchify(x, self.patch)), None

  def image(
    self, tokens: jax.Array, skips: Any, vector: jax.Array, size: tuple[int, int]
  ) -> jax.Array:
    """[R, P, D] -> [R, H, W, out]"""
    return unpatchify(self.last(tokens), self.patch, *size)


class Conv(nnx.Module):
  """A convolution [R, H, W, C] -> [R, H / stride, W / stride, out], 3 x 3."""

  def __init__(
    self, rngs: nnx.Rngs, inputs: int, outputs: int, *, stride: int = 1, init: Any = None
  ):
    axes = (None, None, "conv_in", "conv_out")
    init = fan_in(9 * inputs) if init is None else init
    self.kernel = weight(rngs, (3, 3, inputs, outputs), axes, init)
    self.bias = weight(rngs, (outputs,), ("conv_out",), zeros)
    self.stride = stride

  def __call__(self, x: jax.Array) -> jax.Array:
    kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
    steps = (self.stride, self.stride)
    order = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, steps, "SAME", dimension_numbers=order) + bias


class ResBlock(nnx.Module):
  """x + conv(silu(norm(conv(silu(norm(x))) + t))), with plain layer norms over the channels."""

  def __init__(self, rngs: nnx.Rngs, inputs: int, width: int, time: int):
    self.first, self.second = Conv(rngs, inputs, width), Conv(rngs, width, width, init=zeros)
    self.time = Dense(rngs, time, width, ("embed", "conv_out"))
    if inputs != width:
      self.skip = Dense(rngs, inputs, width, ("conv_in", "conv_out"))
    self.same = inputs == width

  def __call__(self, x: jax.Array, vector: jax.Array) -> jax.Array:
    h = self.first(jax.nn.silu(layer_norm(x)))
    h = h + self.time(jax.nn.silu(vector))[:, None, None]
    h = self.second(jax.nn.silu(layer_norm(h)))
    return h + (x if self.same else self.skip(x))


class UNetPatches(nnx.Module):
  """Down blocks to the grid of patches, up blocks back from it, with the skips between them.

  width of the tokens, base of the channels at full size; they double with each halving. A level's
  blocks are a stack that hands its skips to the stack of the same level on the way up.
  """

  def __init__(self, rngs: nnx.Rngs, patch: int, channels: int, out: int, width: int, base: int):
    self.levels = int(math.log2(patch))
    sizes = [base * 2**i for i in range(self.levels + 1)]
    self.into, self.last = Conv(rngs, channels, base), Conv(rngs, base, out, init=zeros)
    for i, n in enumerate(sizes):
      setattr(self, f"down_{i}", ResBlock(rngs, n, n, width))
      setattr(self, f"up_{i}", ResBlock(rngs, 2 * n, n, width))
    for i, (fine, coarse) in enumerate(pairwise(sizes)):
      setattr(self, f"halve_{i}", Conv(rngs, fine, coarse, stride=2))
      setattr(self, f"double_{i}", Conv(rngs, coarse, fine))
    self.first = Dense(rngs, sizes[-1], width, ("conv_in", "embed"))
    self.back = Dense(rngs, width, sizes[-1], ("embed", "conv_out"))

  def tokens(self, x: jax.Array, vector: jax.Array) -> tuple[jax.Array, Any]:
    """[R, P, D], and the skips of each level."""
    x, skips = self.into(x), []

    def down(block, x, _):
      x = block(x, vector)
      return x, x

    for i in range(self.levels + 1):
      x, skip = scan_blocks(stack_of_one(getattr(self, f"down_{i}")), x, down)
      skips.append(skip)  # [blocks of the level, R, h, w, C]
      if i < self.levels:
        x = getattr(self, f"halve_{i}")(x)
    return self.first(x).reshape(len(x), -1, vector.shape[-1]), skips

  def image(
    self, tokens: jax.Array, skips: Any, vector: jax.Array, size: tuple[int, int]
  ) -> jax.Array:
    """[R, P, D] -> [R, H, W, out]"""

    def up(block, x, skip):
      return block(jnp.concatenate([x, skip], axis=-1), vector), None

    x = self.back(tokens).reshape(skips[-1].shape[1:])
    for i in reversed(range(self.levels + 1)):
      x, _ = scan_blocks(stack_of_one(getattr(self, f"up_{i}")), x, up, backwards(skips[i]))
      if i:
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        x = getattr(self, f"double_{i - 1}")(x)
    return self.last(jax.nn.silu(layer_norm(x)))
