"""The U-Net of Stable Diffusion 1 and 2, SDXL and its refiner, with cross-attention to the text.

    conv -> levels of residual blocks, each with a transformer, the sides halved between them
    -> residual block, transformer, residual block
    -> the levels again, upwards, each block reading a skip connection -> norm, conv

Source: [2112.10752 sec. 3.3], [2307.01952 sec. 2.1], and diffusers' UNet2DConditionModel, whose
modules these are. Blocks of convolutions differ in shape and are not scanned; the blocks of each
transformer are.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import Heads, Visible, heads_out, padding_mask
from t2i_jax.models.backbone import Backbone
from t2i_jax.models.conditioning import Conditioning, guidance_of, pooled_of
from t2i_jax.models.convolution import Conv, GroupNorm, ResBlock, resized
from t2i_jax.models.freeu import reweighed
from t2i_jax.models.layers import (
  BlockConfig,
  Dense,
  Embedder,
  FeedForward,
  LayerNorm,
  timestep_embedding,
)
from t2i_jax.models.params import stack_blocks, zeros
from t2i_jax.models.stack import At, Runs, Stacks
from t2i_jax.parallel import constrain
from t2i_jax.ranges import Count, Depth, Factor, Range, Whole, Width

RES_EPS = 1e-5  # of norms of residual blocks; those of transformers' images have 1e-6
PIXELS = 8  # along a side of one latent
MICRO = (6, 5)  # numbers of SDXL and of its refiner
AESTHETIC, NEGATIVE_AESTHETIC = 6.0, 2.5  # scores of the refiner's images, and of its null
Scale = Annotated[float, Range("[0, 1000]")]


@dataclass(frozen=True)
class StemConfig(Runs):
  """The way down and the middle. Defaults are Stable Diffusion 1's.

  channels     of x_t
  widths       of the levels from full size on
  res_blocks   of a level on the way down
  depths       blocks of each transformer of a level, 0: the level has none;   middle: in between
  heads        of a level
  groups       of the norms
  micro_conditions  numbers of an image beside its pooled text, which has pooled_width
               [2307.01952 sec. 2.2]: 6 (height and width of the original, top and left of the crop,
               height and width of the target, in pixels), or the refiner's 5 (an aesthetic score
               in place of the target); 0: neither
  size_width   of the sinusoid of each
  linear       whether files have linear projections around transformers, not 1 x 1 convolutions
  """

  channels: Width
  text_width: Width
  widths: tuple[Width, ...] = (320, 640, 1280, 1280)
  res_blocks: Depth = 2
  depths: tuple[Whole, ...] = (1, 1, 1, 0)
  middle: Whole = 1
  heads: tuple[Count, ...] = (8, 8, 8, 8)
  groups: Count = 32
  pooled_width: Whole = 0
  micro_conditions: Whole = 0
  size_width: Width = 256
  linear: bool = False

  def __post_init__(self) -> None:
    super().__post_init__()
    count = len(self.widths)
    for name in ("depths", "heads"):
      if len(getattr(self, name)) != count:
        raise ConfigError(
          f"model.{name} = {getattr(self, name)} must have one number for each of model.widths = "
          f"{self.widths}."
        )
    for width, heads in zip(self.widths, self.heads, strict=True):
      if width % self.groups or width % heads:
        raise ConfigError(
          f"model.widths = {self.widths}: {width} is not a multiple of model.groups = "
          f"{self.groups} and of {heads} heads."
        )
    if self.micro_conditions not in (0, *MICRO):
      known = " or ".join(map(str, MICRO))
      raise ConfigError(f"model.micro_conditions = {self.micro_conditions} is not 0, {known}.")
    if self.micro_conditions and not self.pooled_width:
      raise ConfigError(
        f"model.micro_conditions = {self.micro_conditions} lie beside a pooled text, and the text "
        "encoders have none. Use text.towers.text = 'transformer(...)', or micro_conditions=0."
      )

  @property
  def vector_width(self) -> int:
    """Of the vector that residual blocks add."""
    return 4 * self.widths[0]

  @property
  def skip_widths(self) -> tuple[int, ...]:
    """Channels of the skip connections, in order."""
    found, last = [self.widths[0]], len(self.widths) - 1
    for i, width in enumerate(self.widths):
      found += [width] * (self.res_blocks + (i < last))
    return tuple(found)

  @property
  def layers(self) -> int:
    """Blocks of all transformers, in the order of the network."""
    return self.middle + self.res_blocks * sum(self.depths)


@dataclass(frozen=True)
class UNetConfig(StemConfig):
  """On the way up a level has one residual block more.

  freeu        (b1, b2, s1, s2) of the two smallest levels on the way up (freeu.py), or ()
  beside       channels of what is read beside x_t, extras["beside"]: 5 for inpainting (a mask, and
               the latent of the masked image), 4 for InstructPix2Pix, whose latent is unscaled
  guidance_width  of the embedding of the guidance scale, of a model that was distilled
               [2310.04378 sec. 4.2]; 0: none.   guidance: its scale by default
  side         of the latent that the model was made for
  """

  out: Width = field(kw_only=True)
  guidance_width: Whole = 0
  guidance: Scale = 7.5
  side: Count = 64
  beside: Whole = 0
  freeu: tuple[Factor, ...] = ()
  unscaled_beside: ClassVar[bool] = True  # the latent of an image to edit, as published

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.freeu and len(self.freeu) != 4:
      raise ConfigError(f"model.freeu = {self.freeu}: give four numbers, b1, b2, s1 and s2.")

  @property
  def layers(self) -> int:
    return super().layers + (self.res_blocks + 1) * sum(self.depths)


class CrossAttention(Heads):
  """Attention without biases of q, k and v, its output projection with one."""

  def __init__(self, c: BlockConfig, rngs: nnx.Rngs, kv_width: int | None = None):
    super().__init__(c, rngs, kv_width=kv_width)
    self.out = heads_out(c, rngs, bias=True)


class CrossBlock(nnx.Module):
  """x + self-attention, x + cross-attention, x + MLP, each of the normed x."""

  def __init__(self, width: int, heads: int, text_width: int, rngs: nnx.Rngs):
    attention = BlockConfig(width, heads, qk_norm=False)
    mlp = BlockConfig(width, heads, mlp="geglu_erf", bias=True)
    self.attn_norm, self.attn = LayerNorm(width, rngs), CrossAttention(attention, rngs)
    self.cross_norm = LayerNorm(width, rngs)
    self.cross = CrossAttention(attention, rngs, text_width)
    self.mlp_norm, self.mlp = LayerNorm(width, rngs), FeedForward(mlp, rngs)

  def __call__(self, x: jax.Array, text: jax.Array, mask: Visible, at: At) -> jax.Array:
    """x [B, L, D], text [B, T, Dt]"""
    x = x + self.attn.out(at("self")(*self.attn(self.attn_norm(x)), None))
    q, k, v = self.cross(self.cross_norm(x), None, text)
    x = x + self.cross.out(at("cross")(q, k, v, mask))
    return constrain(x + self.mlp(self.mlp_norm(x)), "batch", "sequence", None)


class SpatialTransformer(nnx.Module):
  """x + a transformer over the pixels of the normed x, between two projections.   # [B, H, W, C]"""

  def __init__(self, c: StemConfig, level: int, depth: int, rngs: nnx.Rngs):
    width = c.widths[level]
    self.norm = GroupNorm(rngs, width, groups=c.groups)
    self.proj_in = Dense(rngs, width, width, ("conv_in", "embed"), matrix=((0,), (1,)))
    make = lambda r: CrossBlock(width, c.heads[level], c.text_width, r)
    self.blocks = stack_blocks(make, depth, rngs)
    self.proj_out = Dense(rngs, width, width, ("embed", "conv_out"), init=zeros)

  def __call__(self, x: jax.Array, run: "Run", name: str) -> jax.Array:
    b, h, w, d = x.shape
    tokens = self.proj_in(self.norm(x)).reshape(b, h * w, d)
    tokens = constrain(tokens, "batch", "sequence", None)
    mask = padding_mask(jnp.ones((b, h * w), bool), run.mask)
    call = lambda block, x, _, at: block(x, run.text, mask, at)
    tokens = run.stacks.run(name, self.blocks, tokens, call)
    return x + self.proj_out(tokens).reshape(b, h, w, d)


@dataclass(frozen=True)
class Run:
  """What one call of the network gives to each of its blocks.

  vector      [B, D], after its SiLU;   text: [B, T, Dt], mask: [B, T]
  """

  stacks: Stacks
  vector: jax.Array
  text: jax.Array
  mask: jax.Array

  def res(self, block: ResBlock, x: jax.Array) -> jax.Array:
    x = self.stacks.once("res", block, x, self.vector)
    return constrain(x, "batch", None, None, None)


class Level(nnx.Module):
  """Residual blocks res0, res1, ... of one size, a transformer after each where there are any.

  inputs  channels of each block's input
  """

  def __init__(self, c: StemConfig, level: int, inputs: list[int], rngs: nnx.Rngs):
    norm = partial(GroupNorm, groups=c.groups, eps=RES_EPS)
    self.attends = c.depths[level] > 0
    for i, width in enumerate(inputs):
      setattr(self, f"res{i}", ResBlock(rngs, width, c.widths[level], norm, c.vector_width))
      if self.attends:
        setattr(self, f"attend{i}", SpatialTransformer(c, level, c.depths[level], rngs))

  def block(self, i: int, x: jax.Array, run: Run, name: str) -> jax.Array:
    x = run.res(getattr(self, f"res{i}"), x)
    return getattr(self, f"attend{i}")(x, run, f"{name}_{i}") if self.attends else x


class Middle(nnx.Module):
  """Two residual blocks of the smallest size with a transformer between them."""

  def __init__(self, c: StemConfig, rngs: nnx.Rngs):
    norm = partial(GroupNorm, groups=c.groups, eps=RES_EPS)
    width, last = c.widths[-1], len(c.widths) - 1
    self.res0 = ResBlock(rngs, width, width, norm, c.vector_width)
    self.attends = c.middle > 0
    if self.attends:
      self.attend = SpatialTransformer(c, last, c.middle, rngs)
    self.res1 = ResBlock(rngs, width, width, norm, c.vector_width)

  def __call__(self, x: jax.Array, run: Run) -> jax.Array:
    x = run.res(self.res0, x)
    x = self.attend(x, run, "middle") if self.attends else x
    return run.res(self.res1, x)


class Stem(nnx.Module):
  """The embeddings and the way down to the middle.

  channels  of the input of the first convolution
  """

  def __init__(self, c: StemConfig, rngs: nnx.Rngs, channels: int):
    d = c.vector_width
    self.time_in = Embedder(rngs, c.widths[0], d, hidden=d)
    if c.micro_conditions:
      self.vector_in = Embedder(
        rngs, c.pooled_width + c.micro_conditions * c.size_width, d, hidden=d
      )
    self.conv_in = Conv(rngs, channels, c.widths[0])
    inputs = c.widths[0]
    for i, width in enumerate(c.widths):
      level = Level(c, i, [inputs] + [width] * (c.res_blocks - 1), rngs)
      setattr(self, f"down{i}", level)
      if i < len(c.widths) - 1:
        setattr(self, f"halve{i}", Conv(rngs, width, width, halves=True, padding=(1, 1)))
      inputs = width
    self.middle = Middle(c, rngs)

  def time_features(
    self, c: Any, model_time: jax.Array, cond: Conditioning, dtype: Any
  ) -> jax.Array:
    """What the time is embedded from.   # [B, widths[0]]"""
    return timestep_embedding(model_time, c.widths[0]).astype(dtype)

  def run(
    self,
    c: StemConfig,
    stacks: Stacks,
    x_t: jax.Array,
    model_time: jax.Array,
    cond: Conditioning,
  ) -> Run:
    """The vector is of time, guidance, pooled text and sizes."""
    dtype, text = x_t.dtype, cond.towers["text"]
    vector = self.time_in(self.time_features(c, model_time, cond, dtype))
    if c.micro_conditions:
      sizes = cond.extras.get("micro_conditions", _default(c, x_t))
      embedded = timestep_embedding(sizes, c.size_width).reshape(len(x_t), -1)
      pooled = pooled_of(text, "unet").astype(dtype)
      vector = vector + self.vector_in(jnp.concatenate([pooled, embedded.astype(dtype)], axis=-1))
    return Run(stacks, jax.nn.silu(vector), text.tokens.astype(dtype), text.mask)

  def first(self, x: jax.Array) -> jax.Array:
    """The first convolution.   # [B, H, W, widths[0]]"""
    return constrain(self.conv_in(x), "batch", None, None, None)

  def down(self, c: StemConfig, x: jax.Array, run: Run) -> tuple[jax.Array, list[jax.Array]]:
    """x [B, H, W, widths[0]] of conv_in -> the smallest, and what the way up reads, in order"""
    skips = [x]
    for i in range(len(c.widths)):
      for k in range(c.res_blocks):
        x = getattr(self, f"down{i}").block(k, x, run, f"down{i}")
        skips.append(x)
      if i < len(c.widths) - 1:
        x = getattr(self, f"halve{i}")(x)
        skips.append(x)
    return x, skips


def micro_conditions(n: int, height: int, width: int, rows: int) -> jax.Array:
  """Those of images that were neither scaled nor cropped.   # [rows, n] float32

  n  StemConfig.micro_conditions;   height, width: in pixels
  """
  last = [height, width] if n == MICRO[0] else [AESTHETIC]
  return jnp.broadcast_to(jnp.array([height, width, 0, 0, *last], jnp.float32), (rows, n))


def _default(c: StemConfig, x_t: jax.Array) -> jax.Array:
  rows, height, width, _ = x_t.shape
  return micro_conditions(c.micro_conditions, PIXELS * height, PIXELS * width, rows)


class UNet(Backbone, Stem):
  """(x_t [B, H, W, C], model_time [B], Conditioning with a "text" tower) -> [B, H, W, out].

  extras["beside"] [B, H, W, beside]
  extras["micro_conditions"] [B, n] in pixels, where it has n of them; else those of x_t
  residuals       "skips": a list, added to the skip connections; "after_middle": [B, h, w, D]
  """

  config: UNetConfig

  def __init__(self, config: UNetConfig, rngs: nnx.Rngs):
    c = self.config = config
    Stem.__init__(self, c, rngs, c.channels + c.beside)
    if c.guidance_width:
      self.guidance_in = Dense(rngs, c.guidance_width, c.widths[0], (None, "embed"), bias=False)
    width = c.widths[-1]
    for i in reversed(range(len(c.widths))):
      # The level's own skips, and last that of the conv before it.
      below = c.widths[max(i - 1, 0)]
      skips = [c.widths[i]] * c.res_blocks + [below]
      inputs = [width + skips[0], *(c.widths[i] + skip for skip in skips[1:])]
      setattr(self, f"up{i}", Level(c, i, inputs, rngs))
      width = c.widths[i]
      if i:
        setattr(self, f"double{i}", Conv(rngs, width, width))
    self.norm_out = GroupNorm(rngs, width, groups=c.groups, eps=RES_EPS)
    self.conv_out = Conv(rngs, width, c.out, init=zeros)

  def time_features(
    self, c: UNetConfig, model_time: jax.Array, cond: Conditioning, dtype: Any
  ) -> jax.Array:
    features = super().time_features(c, model_time, cond, dtype)
    if not c.guidance_width:
      return features
    scale = 1000 * (guidance_of(cond, c.guidance, len(features)) - 1)
    cos, sin = jnp.split(timestep_embedding(scale, c.guidance_width, less=1), 2, axis=-1)
    return features + self.guidance_in(jnp.concatenate([sin, cos], axis=-1).astype(dtype))

  def predict(self, x_t, model_time, cond, stacks) -> jax.Array:
    c = self.config
    run = self.run(c, stacks, x_t, model_time, cond)
    x, skips = self.down(c, self.first(x_t), run)
    added = stacks.residual("skips")
    if added is not None:
      skips = [skip + one for skip, one in zip(skips, added, strict=True)]
    x = self.middle(x, run)
    added = stacks.residual("after_middle")
    x = x if added is None else x + added
    for i in reversed(range(len(c.widths))):
      at = len(c.widths) - 1 - i
      for k in range(c.res_blocks + 1):
        skip = skips.pop()
        if c.freeu and at < 2:
          x, skip = reweighed(x, skip, c.freeu[at], c.freeu[2 + at])
        x = jnp.concatenate([x, skip], axis=-1)
        x = getattr(self, f"up{i}").block(k, x, run, f"up{i}")
      if i:
        x = getattr(self, f"double{i}")(resized(x, *skips[-1].shape[1:3]))
    return self.conv_out(jax.nn.silu(self.norm_out(x))).astype(jnp.float32)
