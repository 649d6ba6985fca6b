"""The autoencoder of Qwen-Image on single images: diffusers' AutoencoderKLQwenImage.

It is that of a video model: causal 3-D convolutions whose past is zeros. Of a single frame only the
last slice in time of each kernel acts, and the convolutions that halve or double the number of
frames never do: 44,599,603 of 126,892,531 weights remain, and the network is two-dimensional.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t2i_jax.autoencoders.coder import CoderConfig
from t2i_jax.autoencoders.kl import Activations, Gaussian, Offset, Sizes, Tiling, check_length
from t2i_jax.autoencoders.layers import RMSNorm
from t2i_jax.errors import ConfigError
from t2i_jax.ranges import Count, Depth, Factor, Width

MEAN = (
  -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
  0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
STD = (
  2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
  3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True)
class QwenImageVAEConfig(Sizes):
  """diffusers' AutoencoderKLQwenImage; defaults are Qwen-Image's.

  channels     of z
  base         width at full size
  multipliers  widths of the levels over base, 1 first
  layers       residual blocks of a level of the encoder; the decoder has one more
  latents_mean, latents_std  z = (x - mean) / std by channel
  halves_time  levels that halve the number of frames, in a video
  sample_size  side of a tile in pixels, 256 in diffusers
  tiling       "" off, or how images larger than a tile are divided (tiling.py)
  activations  their dtype
  """

  channels: Width = 16
  base: Width = 96
  multipliers: tuple[Count, ...] = (1, 2, 4, 4)
  layers: Depth = 2
  latents_mean: tuple[Offset, ...] = MEAN
  latents_std: tuple[Factor, ...] = STD
  halves_time: tuple[bool, ...] = (False, True, True)
  sample_size: Count = 256
  tiling: Tiling = ""
  activations: Activations = "float32"

  def __post_init__(self) -> None:
    if not self.multipliers or self.multipliers[0] != 1:
      raise ConfigError(f"multipliers = {self.multipliers} must begin with 1.")
    if len(self.halves_time) != len(self.multipliers) - 1:
      raise ConfigError(
        f"halves_time = {self.halves_time} must have one value between two of multipliers = "
        f"{self.multipliers}."
      )
    if any(width % 2 for width in self.widths[1:]):
      raise ConfigError(f"widths of {self.widths} must be even: upsampling halves them.")
    for name in ("latents_mean", "latents_std"):
      check_length(name, getattr(self, name), self.channels)

  @property
  def widths(self) -> tuple[int, ...]:
    return tuple(self.base * times for times in self.multipliers)

  @property
  def factor(self) -> int:
    return 2 ** (len(self.multipliers) - 1)

  @property
  def encoder(self) -> CoderConfig:
    return CoderConfig(self.widths, self.layers, RMSNorm, halves=True)

  @property
  def decoder(self) -> CoderConfig:
    return self.encoder

  def make(self, rngs: nnx.Rngs) -> "AutoencoderKLQwenImage":
    return AutoencoderKLQwenImage(self, rngs)


class AutoencoderKLQwenImage(Gaussian):
  """Built from a QwenImageVAEConfig."""

  def __init__(self, c: QwenImageVAEConfig, rngs: nnx.Rngs):
    super().__init__(c, rngs, c.channels, True, True)
    self.statistics = (c.latents_mean, c.latents_std)

  def normalise(self, x: jax.Array) -> jax.Array:
    mean, std = (np.asarray(values, np.float32) for values in self.statistics)
    return (x - mean) / std

  def restore(self, z: jax.Array) -> jax.Array:
    mean, std = (np.asarray(values, np.float32) for values in self.statistics)
    return z * std + mean

  def scaled(self, std: jax.Array) -> jax.Array:
    return std / np.asarray(self.statistics[1], np.float32)

  def decode(self, z: jax.Array) -> jax.Array:
    """As of the others, and limited to [-1, 1]."""
    return jnp.clip(super().decode(z), -1.0, 1.0)
