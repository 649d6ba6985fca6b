"""FLUX.1 and FLUX.2: double-stream blocks, then single-stream ones, axial rotary positions.

Reference images come as extras["references"], a tuple of latents [B, h, w, C]: their tokens follow
the image's and are cut from the output. Sources: github.com/black-forest-labs/flux, and flux2
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.backbone import Backbone, Beside
from t2i_jax.models.conditioning import Conditioning, guidance_of, pooled_of, with_references
from t2i_jax.models.layers import (
  BlockConfig,
  Dense,
  Embedder,
  Modulation,
  TimeEmbedder,
  final_layer,
  patchify,
)
from t2i_jax.models.params import stack_blocks, zeros
from t2i_jax.models.positions import Axes, Theta, check_rope, grid_positions, rope_angles
from t2i_jax.models.stack import BlockOutput, Stacks
from t2i_jax.models.streams import Both, DoubleBlock, SingleBlock, joined, joint_mask, laid
from t2i_jax.ranges import Count, Range, Weight, Whole, Width

MODULATIONS = ("per_block", "shared")
Blocks = Annotated[int, Range("[0, 10000]")]  # of one kind; 0: none


@dataclass(frozen=True)
class FluxConfig(Beside):
  """The defaults are FLUX.1's.

  rope_axes       of a head's width, the part of each coordinate: (image, row, column), or
                  (image, row, column, token of the text). Without the last, all text is at 0.
  reference_step  between an image and the next reference on the first axis; 0: no references
  modulation      "per_block": each block has its own projection; "shared": a stack has one
  mlp, mlp_ratio  of the blocks: "gelu" or "swiglu", its hidden width over the width
  bias            of every matrix
  pooled          the text's pooled vector, of pooled_width, is added to the time's
  guidance        0: no guidance embedding; else its scale where extras["guidance"] has none
  attend_padding  padding of the text is attended to, as in the published models; False masks it
  """

  width: Width
  double_blocks: Blocks
  single_blocks: Blocks
  heads: Count
  patch: Count
  channels: Width
  out: Count
  text_width: Width
  rope_axes: Axes
  rope_theta: Theta = 10_000.0
  reference_step: Whole = 0
  modulation: str = "per_block"
  mlp: Literal["gelu", "swiglu"] = "gelu"
  mlp_ratio: Annotated[float, Range("[0.25, 64]")] = 4.0
  bias: bool = True
  pooled: bool = True
  pooled_width: Whole = 0
  guidance: Weight = 0.0
  attend_padding: bool = True

  def __post_init__(self):
    super().__post_init__()
    if self.layers < 1:
      raise ConfigError("no blocks: set model.double_blocks or model.single_blocks.")
    check_rope(self.width, self.heads, self.rope_axes)
    if len(self.rope_axes) not in (3, 4):
      raise ConfigError(
        f"model.rope_axes = {self.rope_axes} has {len(self.rope_axes)} parts: write 3 (image, row, "
        "column), or 4 (and the token of the text)."
      )
    if self.modulation not in MODULATIONS:
      known = ", ".join(MODULATIONS)
      raise ConfigError(f"model.modulation = {self.modulation!r} is not one of {known}.")
    if self.pooled and not self.pooled_width:
      raise ConfigError("model.pooled = True needs model.pooled_width, or write pooled=False.")

  @property
  def layers(self) -> int:
    return self.double_blocks + self.single_blocks

  @property
  def references(self) -> bool:
    """Whether images come as extras["references"]."""
    return self.reference_step > 0


@dataclass(frozen=True)
class Flux2Config(FluxConfig):
  """The defaults are FLUX.2's."""

  rope_theta: Theta = 2000.0
  reference_step: Whole = 10
  modulation: str = "shared"
  mlp: Literal["gelu", "swiglu"] = "swiglu"
  mlp_ratio: Annotated[float, Range("[0.25, 64]")] = 3.0
  bias: bool = False
  pooled: bool = False


class FluxStem(nnx.Module):
  """The embeddings and the blocks."""

  config: FluxConfig

  def __init__(self, config: FluxConfig, rngs: nnx.Rngs):
    c = self.config = config
    d, p, bias = c.width, c.patch * c.patch, c.bias
    hidden = int(d * c.mlp_ratio)
    block = BlockConfig(d, c.heads, hidden=hidden, mlp=c.mlp, bias=bias)
    depth = lambda blocks: blocks if c.modulation == "per_block" else None
    self.patch_in = Dense(rngs, p * c.inputs, d, ("conv_in", "embed"), bias=bias)
    self.text_in = Dense(rngs, c.text_width, d, (None, "embed"), bias=bias)
    self.time_in = TimeEmbedder(rngs, d, bias=bias)
    if c.guidance:
      self.guidance_in = TimeEmbedder(rngs, d, bias=bias)
    if c.pooled:
      self.pooled_in = Embedder(rngs, c.pooled_width, d, bias=bias)
    if c.double_blocks:
      self.text_adaln = Modulation(rngs, d, 6, d, layers=depth(c.double_blocks), bias=bias)
      self.image_adaln = Modulation(rngs, d, 6, d, layers=depth(c.double_blocks), bias=bias)
      self.double = stack_blocks(lambda r: DoubleBlock(block, r), c.double_blocks, rngs)
    if c.single_blocks:
      self.single_adaln = Modulation(rngs, d, 3, d, layers=depth(c.single_blocks), bias=bias)
      self.single = stack_blocks(lambda r: SingleBlock(block, r), c.single_blocks, rngs)

  def blocks(
    self,
    images: Sequence[jax.Array],
    model_time: jax.Array,
    cond: Conditioning,
    stacks: Stacks,
    hint: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """The images' tokens after all blocks [B, L, D], and the vector that modulates [B, D].

    images  [B, H, W, C], x_t and what is shown beside it
    hint    [B, L, D], added to the embedded tokens; with it stacks.skips has those of the images
            after each block
    """
    c, text, kept = self.config, cond.towers["text"], hint is not None
    image = self.patch_in(jnp.concatenate([patchify(x, c.patch) for x in images], axis=1))
    image = image if hint is None else image + hint.astype(image.dtype)
    tokens = self.text_in(text.tokens.astype(image.dtype))  # [B, T, D]
    length = tokens.shape[1]
    vector = jax.nn.silu(self.condition_vector(model_time, cond, image.dtype))  # [B, D]
    ropes = self.rotary(length, [x.shape[1:3] for x in images])
    mask = None if c.attend_padding else joint_mask(text.mask, image.shape[1])

    def double(block, x, modulation, at):
      x = block(x, modulation, at, ropes, mask)
      return BlockOutput(x, x.image) if kept else x

    def single(block, x, modulation, at):
      x = block(x, modulation, at, rope, mask)
      return BlockOutput(x, x[:, length:]) if kept else x

    both = laid(tokens, image)
    if c.double_blocks:
      modulation = Both(self.text_adaln(vector), self.image_adaln(vector))
      both = stacks.run("double", self.double, both, *self.modulated(double, modulation), length)
    x = both.image
    if c.single_blocks:
      rope = joined(*ropes)
      modulated = self.modulated(single, self.single_adaln(vector))
      x = stacks.run("single", self.single, joined(*both), *modulated, length)[:, length:]
    return x, vector

  def modulated(self, call: Callable, modulation: Any) -> tuple[Callable, Any]:
    """The call of a stack and its xs: a modulation for each block, or none where one is shared."""
    if self.config.modulation == "per_block":
      return call, modulation
    return (lambda block, x, _, at: call(block, x, modulation, at)), None

  def condition_vector(self, model_time: jax.Array, cond: Conditioning, dtype: Any) -> jax.Array:
    """Time, guidance scale and pooled text.   # [B, D]"""
    vector = self.time_in(model_time, dtype)
    if self.config.guidance:
      scale = guidance_of(cond, self.config.guidance, len(model_time))
      vector = vector + self.guidance_in(1000 * scale, dtype)
    if self.config.pooled:
      vector = vector + self.pooled_in(pooled_of(cond.towers["text"], "flux").astype(dtype))
    return vector

  def rotary(self, length: int, sizes: list[tuple[int, ...]]) -> Both:
    """Angles of both streams.   sizes (height, width) in latents; the first is the image's"""
    c, places = self.config, []
    with_text = len(c.rope_axes) == 4  # the last coordinate is the token of the text
    for i, (height, width) in enumerate(sizes):
      grid = grid_positions(height // c.patch, width // c.patch)
      grid = jnp.pad(grid, ((0, 0), (1, 1 if with_text else 0)))
      places.append(grid.at[:, 0].set(c.reference_step * i) if c.reference_step else grid)
    text = jnp.zeros((length, len(c.rope_axes)))
    if with_text:
      text = jnp.pad(jnp.arange(length)[:, None], ((0, 0), (3, 0)))
    angles = lambda at: rope_angles(at, c.rope_axes, c.rope_theta)
    return Both(angles(text), angles(jnp.concatenate(places)))


class Flux(Backbone, FluxStem):
  """(x_t [B, H, W, C], model_time [B], Conditioning with a "text" tower) -> [B, H, W, out]."""

  config: FluxConfig

  def __init__(self, config: FluxConfig, rngs: nnx.Rngs):
    c, p = config, config.patch * config.patch
    FluxStem.__init__(self, c, rngs)
    self.final_adaln = Modulation(rngs, c.width, 2, c.width, bias=c.bias)
    self.head = Dense(rngs, c.width, p * c.out, ("embed", "conv_out"), bias=c.bias, init=zeros)

  def predict(self, x_t, model_time, cond, stacks) -> jax.Array:
    c, (height, width) = self.config, x_t.shape[1:3]
    images = with_references(x_t, cond) if c.reference_step else (x_t,)
    x, vector = self.blocks(images, model_time, cond, stacks)
    return final_layer(x, self.final_adaln(vector), self.head, c.patch, height, width)
