"""Autoencoders whose codes are not learned: FSQ, a grid of levels, and LFQ, the corners of a cube.

FSQ bounds channel i to [-1, 1] and rounds it to L_i values; a code is one combination of them
[2309.15505 sec. 3.1]. LFQ takes the sign of each channel: 2^C codes [2310.05737 sec. 3.1]. As for
a VQModel, z is what is rounded, before it is rounded, and `decode` rounds.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t2i_jax.autoencoders.coder import Stage
from t2i_jax.autoencoders.kl import Activations, Tiling, check_levels
from t2i_jax.autoencoders.vq import Rounded, RoundedSizes
from t2i_jax.errors import ConfigError
from t2i_jax.ranges import Count, Depth, Factor, Range, Whole, Width

BITS = 14  # most of LFQ, and of FSQ's codes where a term is of their entropy
EPS = 1e-3  # share of the range that the bound leaves off, as published


@dataclass(frozen=True)
class LookupFreeConfig(RoundedSizes):
  """Fields as of VQConfig."""

  channels: Width = 4
  widths: tuple[Width, ...] = (128, 256, 512)
  layers: Depth = 2
  groups: Count = 32
  latent: Whole = 0
  attends: tuple[Whole, ...] = ()
  scale: Factor = 1.0
  measured: bool = False
  mid_attention: bool = True
  sample_size: Count = 256
  tiling: Tiling = ""
  activations: Activations = "float32"

  def __post_init__(self) -> None:
    check_levels(self.widths, self.groups, self.attends)


@dataclass(frozen=True)
class FSQConfig(LookupFreeConfig):
  """Finite scalar quantisation.

  levels  values of each channel: (8, 5, 5, 5) are 1000 codes [2309.15505 table 1]
  Other fields as of VQConfig.
  """

  levels: tuple[Annotated[int, Range("[2, 1024]")], ...] = (8, 5, 5, 5)

  def __post_init__(self) -> None:
    super().__post_init__()
    if len(self.levels) != self.channels:
      raise ConfigError(
        f"levels = {self.levels} has {len(self.levels)} channels, and z has {self.channels}: give "
        f"one number a channel, or use model.channels={len(self.levels)}."
      )
    if self.codes >= 2**31:
      raise ConfigError(f"levels = {self.levels} are {self.codes} codes; 2^31 - 1 is the most.")

  @property
  def codes(self) -> int:
    return int(np.prod(self.levels, dtype=object))

  def make(self, rngs: nnx.Rngs) -> "FSQModel":
    return FSQModel(self, rngs)


@dataclass(frozen=True)
class LFQConfig(LookupFreeConfig):
  """Lookup-free quantisation: channels are bits. Fields as of VQConfig."""

  channels: Width = 9

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.channels > BITS:
      raise ConfigError(
        f"{self.channels} channels are 2^{self.channels} codes, which training sums over: use "
        f"model.channels={BITS} at most."
      )

  @property
  def codes(self) -> int:
    return 2**self.channels

  def make(self, rngs: nnx.Rngs) -> "LFQModel":
    return LFQModel(self, rngs)


class FSQModel(Rounded):
  """Built from an FSQConfig."""

  def __init__(self, c: FSQConfig, rngs: nnx.Rngs):
    super().__init__(c, rngs)
    self.levels = c.levels

  def encode_stages(self) -> list[Stage]:
    return [*super().encode_stages(), ("bound", lambda x: fsq_bound(x, self.levels))]

  @property
  def values(self) -> list[np.ndarray]:
    """What each channel is rounded to.   # C of [L]"""
    return [(np.arange(n) - n // 2) / np.float32(n // 2) for n in self.levels]

  def rounded(self, x: jax.Array) -> jax.Array:
    return fsq_round(x, self.levels)

  def nearest(self, x: jax.Array) -> jax.Array:
    half, basis = _half_width(self.levels), _basis(self.levels)
    digits = jnp.round(self.rounded(x) * half).astype(jnp.int32) + half
    return jnp.sum(digits * basis, axis=-1)

  def vectors(self, indices: jax.Array) -> jax.Array:
    half, levels = _half_width(self.levels), np.asarray(self.levels, np.int32)
    digits = indices[..., None] // _basis(self.levels) % levels
    return (digits - half).astype(jnp.float32) / half


class LFQModel(Rounded):
  """Built from an LFQConfig."""

  def __init__(self, c: LFQConfig, rngs: nnx.Rngs):
    super().__init__(c, rngs)
    self.bits = c.channels

  @property
  def values(self) -> list[np.ndarray]:
    return [np.array([-1, 1], np.float32)] * self.bits

  def rounded(self, x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, 1, -1).astype(x.dtype)

  def nearest(self, x: jax.Array) -> jax.Array:
    """Bit i of an index is whether channel i is positive."""
    return jnp.sum((x > 0) * (1 << np.arange(self.bits, dtype=np.int32)), axis=-1)

  def vectors(self, indices: jax.Array) -> jax.Array:
    bits = indices[..., None] >> np.arange(self.bits, dtype=np.int32) & 1
    return 2.0 * bits - 1


def _half_width(levels: tuple[int, ...]) -> np.ndarray:
  """Half the number of values of each channel, rounded down.   # [C] int32"""
  return np.asarray(levels, np.int32) // 2


def _basis(levels: tuple[int, ...]) -> np.ndarray:
  """What a step of each channel adds to the index of a code.   # [C] int32"""
  return np.cumprod([1, *levels[:-1]]).astype(np.int32)


def fsq_bound(x: jax.Array, levels: tuple[int, ...]) -> jax.Array:
  """Latents before they are rounded: within half a step of the L values of each channel.   [..., C]

      (tanh(x + shift) l - offset) / floor(L / 2),   l = (1 - EPS) (L - 1) / 2

  offset is 1/2 and shift = tan(offset / l) for an even L, else 0.   Source: [2309.15505 app. A.1]
  """
  values = np.asarray(levels, np.float32)
  half = (values - 1) * (1 - EPS) / 2
  offset = np.where(values % 2 == 1, 0.0, 0.5).astype(np.float32)
  bounded = jnp.tanh(x + np.tan(offset / half)) * half - offset
  return (bounded / _half_width(levels)).astype(x.dtype)


def fsq_round(x: jax.Array, levels: tuple[int, ...]) -> jax.Array:
  """The nearest of the L values (i - floor(L / 2)) / floor(L / 2), i = 0 .. L - 1.   [..., C]"""
  half = _half_width(levels)
  steps = jnp.clip(jnp.round(x * half), -half, np.asarray(levels) - 1 - half)
  return (steps / half).astype(x.dtype)
