"""Autoencoders with a Gaussian posterior: AutoencoderKL of SD 1.5 to FLUX.1, and that of FLUX.2.

    z = (x - shift) scale,   x ~ N(mean, exp(logvar)) or its mean        [2112.10752 app. D.1]

Activations are float32, as published pipelines have them (force_upcast): those of SDXL's decoder
exceed float16, and bfloat16 costs two digits of the image. `activations="bfloat16"` of a config
halves memory; norms and softmax stay float32. finite.py names a module that gives NaN.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t2i_jax.autoencoders.coder import CoderConfig, Decoder, Encoder, Stage
from t2i_jax.autoencoders.measured import Statistics
from t2i_jax.autoencoders.tiling import Ratio, tiled
from t2i_jax.errors import ConfigError
from t2i_jax.models.convolution import GroupNorm, pointwise
from t2i_jax.models.params import ones, weight, zeros
from t2i_jax.ranges import Count, Depth, Factor, Range, Weight, Whole, Width

LOGVAR = (-30.0, 20.0)  # bounds of the logarithm of the variance that is sampled, as published
COLOURS = 3
Tiling = Literal["", "smooth", "diffusers"]
Activations = Literal["float32", "bfloat16"]
Offset = Annotated[float, Range("[-1000, 1000]")]


class Sizes:
  """Shapes of images and latents, of a config with `channels` of z and a `factor`."""

  channels: int

  @property
  def factor(self) -> int:
    """Side of the image over that of z."""
    raise NotImplementedError

  def image_shape(self, height: int, width: int) -> tuple[int, int, int]:
    return (height, width, COLOURS)

  def latent_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Raises ConfigError for an image that the factor does not divide."""
    height, width, _ = image_shape
    f = self.factor
    if height % f or width % f:
      nearest = f"{max(height // f, 1) * f} x {max(width // f, 1) * f}"
      raise ConfigError(
        f"an image of {height} x {width} is not a multiple of the autoencoder's factor {f}: use "
        f"{nearest}."
      )
    return (height // f, width // f, self.channels)


@dataclass(frozen=True)
class KLConfig(Sizes):
  """diffusers' AutoencoderKL; defaults are SD 1.5's.

  channels       of z
  widths         of the levels of the encoder from full size on; the decoder's are these reversed
  layers         residual blocks of a level of the encoder; the decoder has one more
  groups         of the norms
  scale, shift   z = (x - shift) scale; shift None is 0
  latents_mean, latents_std  of x by channel in place of the shift: z = (x - mean) scale / std
  measured       mean and std are weights that training sets, in place of shift and scale
  quant, post_quant  1 x 1 convolutions after the encoder and before the decoder
  attends        levels whose blocks have attention each
  mid_attention  at the smallest size
  sample_size    side of a tile in pixels
  tiling         "" off, or how images larger than a tile are divided (tiling.py)
  activations    their dtype
  """

  channels: Width = 4
  widths: tuple[Width, ...] = (128, 256, 512, 512)
  layers: Depth = 2
  groups: Count = 32
  scale: Factor = 0.18215
  shift: Offset | None = None
  latents_mean: tuple[Offset, ...] | None = None
  latents_std: tuple[Factor, ...] | None = None
  measured: bool = False
  quant: bool = True
  post_quant: bool = True
  attends: tuple[Whole, ...] = ()
  mid_attention: bool = True
  sample_size: Count = 512
  tiling: Tiling = ""
  activations: Activations = "float32"

  def __post_init__(self) -> None:
    check_levels(self.widths, self.groups, self.attends)
    if (self.latents_mean is None) != (self.latents_std is None):
      raise ConfigError("latents_mean and latents_std must both be given, or neither.")
    if self.latents_mean is not None and self.shift is not None:
      raise ConfigError(f"shift = {self.shift} cannot be used with latents_mean: use shift=None.")
    if self.measured and (self.latents_mean is not None or self.shift is not None):
      raise ConfigError("measured=True sets mean and deviation: leave out shift and latents_mean.")
    for name in ("latents_mean", "latents_std"):
      check_length(name, getattr(self, name), self.channels)

  @property
  def factor(self) -> int:
    return 2 ** (len(self.widths) - 1)

  @property
  def encoder(self) -> CoderConfig:
    return _coder(self, self.widths)

  @property
  def decoder(self) -> CoderConfig:
    return _coder(self, self.widths)

  def make(self, rngs: nnx.Rngs) -> "AutoencoderKL":
    return AutoencoderKL(self, rngs)


@dataclass(frozen=True)
class Flux2KLConfig(Sizes):
  """diffusers' AutoencoderKLFlux2: z is 2 x 2 latents as one, normed by statistics of a batch norm.

  channels        of z, four times those of the encoder
  decoder_widths  () for `widths`
  eps             of the batch norm
  Other fields as of KLConfig.
  """

  channels: Width = 128
  widths: tuple[Width, ...] = (128, 256, 512, 512)
  decoder_widths: tuple[Width, ...] = ()
  layers: Depth = 2
  groups: Count = 32
  quant: bool = True
  post_quant: bool = True
  attends: tuple[Whole, ...] = ()
  mid_attention: bool = True
  eps: Weight = 1e-4
  sample_size: Count = 1024
  tiling: Tiling = ""
  activations: Activations = "float32"

  def __post_init__(self) -> None:
    check_levels(self.widths, self.groups, self.attends)
    if self.decoder_widths:
      check_levels(self.decoder_widths, self.groups, self.attends)
    if self.channels % PATCH**2:
      raise ConfigError(f"channels = {self.channels} of 2 x 2 latents is not a multiple of 4.")
    if self.decoder_widths and len(self.decoder_widths) != len(self.widths):
      raise ConfigError(
        f"decoder_widths = {self.decoder_widths} must have as many levels as widths = "
        f"{self.widths}."
      )

  @property
  def factor(self) -> int:
    return PATCH * 2 ** (len(self.widths) - 1)

  @property
  def encoder(self) -> CoderConfig:
    return _coder(self, self.widths)

  @property
  def decoder(self) -> CoderConfig:
    return _coder(self, self.decoder_widths or self.widths)

  def make(self, rngs: nnx.Rngs) -> "AutoencoderKLFlux2":
    return AutoencoderKLFlux2(self, rngs)


PATCH = 2  # of FLUX.2's latents


def check_levels(widths: tuple[int, ...], groups: int, attends: tuple[int, ...]) -> None:
  """Raises ConfigError for widths that the groups of a norm do not divide, or other levels."""
  if not widths or any(width % groups for width in widths):
    raise ConfigError(f"widths = {widths} must be multiples of groups = {groups}.")
  if any(level >= len(widths) for level in attends):
    raise ConfigError(f"attends = {attends} has a level that {len(widths)} widths do not have.")


def check_length(name: str, values: tuple[float, ...] | None, channels: int) -> None:
  """Raises ConfigError for another number of values than channels."""
  if values is not None and len(values) != channels:
    raise ConfigError(f"{name} has {len(values)} values; there are {channels} channels.")


def _coder(c: Any, widths: tuple[int, ...]) -> CoderConfig:
  norm = partial(GroupNorm, groups=c.groups)
  return CoderConfig(widths, c.layers, norm, c.attends, c.mid_attention)


class Autoencoder(nnx.Module):
  """What all have in common: stages to the latents x and back, tiles, and the scale of z.

  encode_stages, decode_stages  the modules in turn, each with its name
  raw_factor  side of the image over that of x
  """

  raw_factor: int
  raw_tile: int  # side of a tile of x
  tiling: str
  dtype: Any

  def encode_stages(self) -> list[Stage]:
    raise NotImplementedError

  def decode_stages(self) -> list[Stage]:
    raise NotImplementedError

  def normalise(self, x: jax.Array) -> jax.Array:
    """Latents x to z."""
    raise NotImplementedError

  def restore(self, z: jax.Array) -> jax.Array:
    """The inverse of `normalise`."""
    raise NotImplementedError

  def scaled(self, std: jax.Array) -> jax.Array:
    """The deviation of z of that of x: `normalise` without its offset."""
    raise NotImplementedError

  def run(self, stages: list[Stage], x: jax.Array) -> jax.Array:
    """The stages in turn, in the activations' dtype; float32."""
    x = x.astype(self.dtype)
    for _, stage in stages:
      x = stage(x)
    return x.astype(jnp.float32)

  def to_latents(self, image: jax.Array) -> jax.Array:
    """[B, H, W, 3] -> what the encoder gives, [B, H / f, W / f, ...], float32"""
    ratio = Ratio(self.raw_factor, 1)
    return tiled(self.tiling, partial(self.run, self.encode_stages()), image, ratio, self.raw_tile)

  def decode(self, z: jax.Array) -> jax.Array:
    """z [B, h, w, C], about unit variance -> image [B, H, W, 3], about [-1, 1], float32"""
    ratio, x = Ratio(1, self.raw_factor), self.restore(z.astype(jnp.float32))
    return tiled(self.tiling, partial(self.run, self.decode_stages()), x, ratio, self.raw_tile)


def sample(mean: jax.Array, std: jax.Array, key: jax.Array | None) -> jax.Array:
  """mean + std eps [B, h, w, C];   key: of eps, one or [B]; None: the mean"""
  if key is None:
    return mean
  if key.ndim:
    return mean + std * jax.vmap(lambda k: jax.random.normal(k, mean.shape[1:]))(key)
  return mean + std * jax.random.normal(key, mean.shape)


class Gaussian(Autoencoder):
  """An encoder to mean and logarithm of the variance, and a decoder.

  latent  channels of x;   quant, post_quant: whether there are 1 x 1 convolutions on x
  """

  def __init__(self, c: Any, rngs: nnx.Rngs, latent: int, quant: bool, post_quant: bool):
    self.encoder = Encoder(c.encoder, rngs, COLOURS, 2 * latent)
    self.decoder = Decoder(c.decoder, rngs, latent, COLOURS)
    self.has_quant, self.has_post_quant = quant, post_quant
    if quant:
      self.quant = pointwise(rngs, 2 * latent, 2 * latent)
    if post_quant:
      self.post_quant = pointwise(rngs, latent, latent)
    self.raw_factor = 2 ** (len(c.widths) - 1)
    self.raw_tile = c.sample_size // self.raw_factor
    self.tiling, self.dtype = c.tiling, jnp.dtype(c.activations)

  def encode_stages(self) -> list[Stage]:
    last: list[Stage] = [("quant", self.quant)] if self.has_quant else []
    return self.encoder.stages("encoder") + last

  def decode_stages(self) -> list[Stage]:
    first: list[Stage] = [("post_quant", self.post_quant)] if self.has_post_quant else []
    return first + self.decoder.stages("decoder")

  def moments(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and logarithm of the variance of x, before the scale of z.   # 2 [B, H / f, W / f, c]

    image  [B, H, W, 3] in [-1, 1]; a side that the factor does not divide loses its end
    """
    mean, logvar = jnp.split(self.to_latents(image), 2, axis=-1)
    return mean, logvar

  def posterior(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and deviation of z.   image [B, H, W, 3] in [-1, 1] -> 2 [B, h, w, C], float32"""
    mean, logvar = self.moments(image)
    return self.normalise(mean), self.scaled(jnp.exp(0.5 * jnp.clip(logvar, *LOGVAR)))

  def encode(self, image: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """image [B, H, W, 3] in [-1, 1] -> z [B, h, w, C], about unit variance, float32

    key  of the samples of the posteriors, one or [B]; None: their means
    """
    return sample(*self.posterior(image), key)


class AutoencoderKL(Gaussian):
  """Built from a KLConfig."""

  def __init__(self, c: KLConfig, rngs: nnx.Rngs):
    super().__init__(c, rngs, c.channels, c.quant, c.post_quant)
    self.scale, self.shift = c.scale, c.shift or 0.0
    self.statistics = None if c.latents_mean is None else (c.latents_mean, c.latents_std)
    self.measured = c.measured
    if c.measured:
      self.latents = Statistics(rngs, c.channels)

  def _affine(self) -> tuple[Any, Any]:
    """Offset of x and factor of z."""
    if self.measured:
      return self.latents.affine()
    if self.statistics is None:
      return self.shift, self.scale
    mean, std = (np.asarray(values, np.float32) for values in self.statistics)
    return mean, np.float32(self.scale) / std

  def normalise(self, x: jax.Array) -> jax.Array:
    offset, factor = self._affine()
    return (x - offset) * factor

  def restore(self, z: jax.Array) -> jax.Array:
    offset, factor = self._affine()
    return z / factor + offset

  def scaled(self, std: jax.Array) -> jax.Array:
    return std * self._affine()[1]


class AutoencoderKLFlux2(Gaussian):
  """Built from a Flux2KLConfig. mean and var are statistics: no gradient reaches them."""

  def __init__(self, c: Flux2KLConfig, rngs: nnx.Rngs):
    super().__init__(c, rngs, c.channels // PATCH**2, c.quant, c.post_quant)
    self.mean = weight(rngs, (c.channels,), (None,), zeros)
    self.var = weight(rngs, (c.channels,), (None,), ones)
    self.eps = c.eps

  def _affine(self) -> tuple[jax.Array, jax.Array]:
    mean, var = jax.lax.stop_gradient((self.mean[...], self.var[...]))
    return mean, jnp.sqrt(var + self.eps)

  def normalise(self, x: jax.Array) -> jax.Array:
    mean, std = self._affine()
    return (self._paired(x) - mean) / std

  def scaled(self, std: jax.Array) -> jax.Array:
    return self._paired(std) / self._affine()[1]

  def _paired(self, x: jax.Array) -> jax.Array:
    """[B, 2h, 2w, c] -> [B, h, w, 4c], channels ordered (channel, row, column)"""
    b, h, w, c = x.shape
    if h % PATCH or w % PATCH:
      f = PATCH * self.raw_factor
      raise ConfigError(f"latents of {h} x {w} are not in pairs: use images of multiples of {f}.")
    x = x.reshape(b, h // PATCH, PATCH, w // PATCH, PATCH, c).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(b, h // PATCH, w // PATCH, PATCH**2 * c)

  def restore(self, z: jax.Array) -> jax.Array:
    mean, std = self._affine()
    b, h, w, _ = z.shape
    x = (z * std + mean).reshape(b, h, w, -1, PATCH, PATCH).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(b, PATCH * h, PATCH * w, math.prod(x.shape[5:]))
