"""Encoder and decoder of the convolutional autoencoders: levels of residual blocks.

Source: [2112.10752 app. G], and diffusers' models/autoencoders/vae.py, whose modules these are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from flax import nnx

from t2i_jax.autoencoders.layers import Attention
from t2i_jax.models.convolution import Conv, MakeNorm, ResBlock, double
from t2i_jax.models.params import scan_blocks, stack_blocks

Stage = tuple[str, Callable[[jax.Array], jax.Array]]  # name of the module, and what it does


@dataclass(frozen=True)
class CoderConfig:
  """What an encoder or a decoder is made of.

  widths         of the levels, from full size to the smallest
  layers         blocks of a level of the encoder; the decoder's levels have one more
  norm           makes the norms
  attends        levels whose blocks have attention each
  mid_attention  between the two blocks of the middle
  halves         upsampling halves the channels
  """

  widths: tuple[int, ...]
  layers: int
  norm: MakeNorm
  attends: tuple[int, ...] = ()
  mid_attention: bool = True
  halves: bool = False


class Block(nnx.Module):
  """A residual block, and attention where the level has it."""

  def __init__(self, rngs: nnx.Rngs, inputs: int, width: int, norm: MakeNorm, attends: bool):
    self.res = ResBlock(rngs, inputs, width, norm)
    self.attends = attends
    if attends:
      self.attention = Attention(rngs, width, norm)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.res(x)
    return self.attention(x) if self.attends else x


class Level(nnx.Module):
  """Blocks of one size: the first from `inputs` channels, and the rest, which are equal.

  sample  "" at the last level, "halve" or "double": what comes after the blocks
  out     channels after "double"
  """

  def __init__(
    self,
    c: CoderConfig,
    rngs: nnx.Rngs,
    level: int,
    inputs: int,
    count: int,
    sample: str,
    out: int,
  ):
    width, attends = c.widths[level], level in c.attends
    self.first = Block(rngs, inputs, width, c.norm, attends)
    self.more = count > 1
    if self.more:
      make = lambda rngs: Block(rngs, width, width, c.norm, attends)
      self.rest = stack_blocks(make, count - 1, rngs)
    self.sample = sample
    if sample:
      self.conv = Conv(rngs, width, out, halves=sample == "halve")

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.first(x)
    if self.more:
      # The gradient of convolutions in a loop took four times as long on a CPU (November 2026).
      x, _ = scan_blocks(self.rest, x, lambda block, x, _: (block(x), None), unroll=True)
    if self.sample:
      x = self.conv(double(x) if self.sample == "double" else x)
    return x


class Middle(nnx.Module):
  """Two blocks at the smallest size, with attention between them."""

  def __init__(self, c: CoderConfig, rngs: nnx.Rngs):
    width = c.widths[-1]
    self.first = Block(rngs, width, width, c.norm, c.mid_attention)
    self.last = ResBlock(rngs, width, width, c.norm)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.last(self.first(x))


class Coder(nnx.Module):
  """Modules one after the other."""

  order: tuple[str, ...]  # their names
  norm_out: Any

  def stages(self, prefix: str) -> list[Stage]:
    """What is applied in turn, each with its name."""
    return [(f"{prefix}/{name}", partial(self.apply, name)) for name in self.order]

  def apply(self, name: str, x: jax.Array) -> jax.Array:
    """The module of this name; the last convolution follows a norm."""
    if name == "conv_out":
      x = jax.nn.silu(self.norm_out(x))
    return getattr(self, name)(x)

  def __call__(self, x: jax.Array) -> jax.Array:
    for name in self.order:
      x = self.apply(name, x)
    return x


class Encoder(Coder):
  """[B, H, W, inputs] -> [B, H / f, W / f, outputs], f = 2^(levels - 1)"""

  def __init__(self, c: CoderConfig, rngs: nnx.Rngs, inputs: int, outputs: int):
    levels = len(c.widths)
    self.order = ("conv_in", *(f"level_{i}" for i in range(levels)), "middle", "conv_out")
    self.conv_in = Conv(rngs, inputs, c.widths[0])
    width = c.widths[0]
    for i, out in enumerate(c.widths):
      sample = "halve" if i < levels - 1 else ""
      setattr(self, f"level_{i}", Level(c, rngs, i, width, c.layers, sample, out))
      width = out
    self.middle = Middle(c, rngs)
    self.norm_out = c.norm(rngs, width)
    self.conv_out = Conv(rngs, width, outputs)


class Decoder(Coder):
  """[B, h, w, inputs] -> [B, h f, w f, outputs]; level_0 is the smallest."""

  def __init__(self, c: CoderConfig, rngs: nnx.Rngs, inputs: int, outputs: int):
    levels = len(c.widths)
    self.order = ("conv_in", "middle", *(f"level_{i}" for i in range(levels)), "conv_out")
    width = c.widths[-1]
    self.conv_in = Conv(rngs, inputs, width)
    self.middle = Middle(c, rngs)
    for i, level in enumerate(reversed(range(levels))):
      out = c.widths[level] // 2 if c.halves else c.widths[level]
      sample = "double" if level else ""
      setattr(self, f"level_{i}", Level(c, rngs, level, width, c.layers + 1, sample, out))
      width = out
    self.norm_out = c.norm(rngs, c.widths[0])
    self.conv_out = Conv(rngs, c.widths[0], outputs)
