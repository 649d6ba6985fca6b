"""Autoencoders whose latents are rounded to codes, and VQModel, whose codes are a codebook.

z is what the encoder gives, before it is rounded, times `scale`: continuous latents are what a
generator is trained on, and `decode` rounds what it generates [2112.10752 sec. 3.1, VQ-reg].
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.autoencoders.coder import CoderConfig, Decoder, Encoder, Stage
from t2i_jax.autoencoders.kl import COLOURS, Activations, Autoencoder, Sizes, Tiling, check_levels
from t2i_jax.autoencoders.measured import Statistics
from t2i_jax.models.convolution import GroupNorm, pointwise
from t2i_jax.models.params import weight
from t2i_jax.ranges import Count, Depth, Factor, Whole, Width


class RoundedSizes(Sizes):
  """What configs of rounded latents have in common; the fields are those of VQConfig."""

  widths: tuple[int, ...]
  layers: int
  groups: int
  attends: tuple[int, ...]
  mid_attention: bool

  @property
  def factor(self) -> int:
    return 2 ** (len(self.widths) - 1)

  @property
  def encoder(self) -> CoderConfig:
    norm = partial(GroupNorm, groups=self.groups)
    return CoderConfig(self.widths, self.layers, norm, self.attends, self.mid_attention)

  @property
  def decoder(self) -> CoderConfig:
    return self.encoder


@dataclass(frozen=True)
class VQConfig(RoundedSizes):
  """diffusers' VQModel; defaults are the f4 model of latent diffusion with 8192 codes.

  channels       of z and of the codes
  widths         of the levels of the encoder from full size on; the decoder's are these reversed
  layers         residual blocks of a level of the encoder; the decoder has one more
  groups         of the norms
  codes          their number
  latent         channels between the convolutions and the 1 x 1 convolution to z; 0 = channels
  attends        levels whose blocks have attention each
  scale          z = x scale
  measured       z = (x - mean) / std by channel in place of it, weights that training sets
  mid_attention  at the smallest size
  indices        whether pipelines of diffusers decode indices of codes (lookup_from_codebook);
                 it is only written back
  sample_size    side of a tile in pixels
  tiling         "" off, or how images larger than a tile are divided (tiling.py)
  activations    their dtype
  """

  channels: Width = 3
  widths: tuple[Width, ...] = (128, 256, 512)
  layers: Depth = 2
  groups: Count = 32
  codes: Count = 8192
  latent: Whole = 0
  attends: tuple[Whole, ...] = ()
  scale: Factor = 0.18215
  measured: bool = False
  mid_attention: bool = True
  indices: bool = False
  sample_size: Count = 256
  tiling: Tiling = ""
  activations: Activations = "float32"

  def __post_init__(self) -> None:
    check_levels(self.widths, self.groups, self.attends)

  def make(self, rngs: nnx.Rngs) -> "VQModel":
    return VQModel(self, rngs)


class Rounded(Autoencoder):
  """An encoder, a rounding of its latents, and a decoder of what is rounded."""

  def __init__(self, c: Any, rngs: nnx.Rngs):
    latent = c.latent or c.channels
    self.encoder = Encoder(c.encoder, rngs, COLOURS, latent)
    self.decoder = Decoder(c.decoder, rngs, latent, COLOURS)
    self.quant = pointwise(rngs, latent, c.channels)
    self.post_quant = pointwise(rngs, c.channels, latent)
    self.measured = c.measured
    if c.measured:
      self.latents = Statistics(rngs, c.channels)
    self.scale, self.raw_factor = c.scale, c.factor
    self.raw_tile = c.sample_size // c.factor
    self.tiling, self.dtype = c.tiling, jnp.dtype(c.activations)

  def nearest(self, x: jax.Array) -> jax.Array:
    """Indices of the codes of latents x [B, h, w, C].   # [B, h, w] int32"""
    raise NotImplementedError

  def vectors(self, indices: jax.Array) -> jax.Array:
    """The codes of these indices, as latents x.   [B, h, w] -> [B, h, w, C]"""
    raise NotImplementedError

  def rounded(self, x: jax.Array) -> jax.Array:
    """The codes of latents x.   # [B, h, w, C]"""
    return self.vectors(self.nearest(x)).astype(x.dtype)

  def encode_stages(self) -> list[Stage]:
    return [*self.encoder.stages("encoder"), ("quant", self.quant)]

  def decode_stages(self) -> list[Stage]:
    first: list[Stage] = [("codebook", self.quantise), ("post_quant", self.post_quant)]
    return first + self.decoder.stages("decoder")

  def _affine(self) -> tuple[Any, Any]:
    """Offset of x and factor of z."""
    return self.latents.affine() if self.measured else (0.0, self.scale)

  def normalise(self, x: jax.Array) -> jax.Array:
    offset, factor = self._affine()
    return (x - offset) * factor

  def scaled(self, std: jax.Array) -> jax.Array:
    return std * self.scale

  def restore(self, z: jax.Array) -> jax.Array:
    offset, factor = self._affine()
    return z / factor + offset

  def quantise(self, x: jax.Array) -> jax.Array:
    """The codes, with the gradient of x itself [1711.00937 sec. 3.2].   # [B, h, w, C]"""
    return x + jax.lax.stop_gradient(self.rounded(x) - x)

  def encode(self, image: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """image [B, H, W, 3] in [-1, 1] -> z [B, h, w, C], not rounded; nothing is sampled"""
    return self.normalise(self.to_latents(image))

  def indices(self, z: jax.Array) -> jax.Array:
    """z [B, h, w, C] -> indices of its codes [B, h, w] int32"""
    return self.nearest(self.restore(z))

  def lookup(self, indices: jax.Array) -> jax.Array:
    """Indices of codes [B, h, w] -> z [B, h, w, C] that decodes to them"""
    return self.normalise(self.vectors(indices))


class VQModel(Rounded):
  """Built from a VQConfig."""

  def __init__(self, c: VQConfig, rngs: nnx.Rngs):
    super().__init__(c, rngs)
    small = lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -1, 1) / c.codes
    self.codebook = weight(rngs, (c.codes, c.channels), (None, "conv_in"), small)

  def nearest(self, x: jax.Array) -> jax.Array:
    # Distances without |x|^2, which all codes share, in full precision: codes are close together.
    book = self.codebook[...]
    product = jnp.einsum("bhwc,kc->bhwk", x.astype(jnp.float32), book, precision="highest")
    return jnp.argmin(jnp.sum(jnp.square(book), axis=-1) - 2 * product, axis=-1).astype(jnp.int32)

  def vectors(self, indices: jax.Array) -> jax.Array:
    return jnp.take(self.codebook[...], indices, axis=0)
