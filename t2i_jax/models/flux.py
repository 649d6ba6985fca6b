"""FLUX.1: double-stream blocks, then single-stream ones, rotary positions in three axes.

Source: github.com/black-forest-labs/flux
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.conditioning import Conditioning, guidance_of, pooled_of
from t2i_jax.models.control import Control
from t2i_jax.models.layers import (
  BlockConfig,
  Dense,
  Embedder,
  Modulation,
  TimeEmbedder,
  check_rope,
  drawn,
  grid_positions,
  patchify,
  rope_angles,
)
from t2i_jax.models.params import stack_blocks, zeros
from t2i_jax.models.stack import Runs, Stacks
from t2i_jax.models.streams import Both, DoubleBlock, SingleBlock, joined, joint_mask, laid

ROPE_THETA = 10000.0


@dataclass(frozen=True)
class FluxConfig(Runs):
  """rope_axes are what of a head's width tells (0, row, column) of a patch; a word sits at 0.

  guidance        0: the model takes none; else the scale it is told where extras do not say one
  attend_padding  the published models see the text's padding; without it, it is masked
  """

  width: int
  double_blocks: int
  single_blocks: int
  heads: int
  patch: int
  channels: int
  out: int
  text_width: int
  pooled_width: int
  rope_axes: tuple[int, ...]
  guidance: float = 0.0
  attend_padding: bool = True

  def __post_init__(self):
    super().__post_init__()
    check_rope(self.width, self.heads, self.rope_axes)

  @property
  def layers(self) -> int:
    return self.double_blocks + self.single_blocks


class Flux(nnx.Module):
  """(x_t [B, H, W, C], model_time [B], "text" with a pooled vector) -> [B, H, W, out]."""

  def __init__(self, config: FluxConfig, rngs: nnx.Rngs):
    c = self.config = config
    d, p = c.width, c.patch * c.patch
    block = BlockConfig(d, c.heads, bias=True)
    self.patch_in = Dense(rngs, p * c.channels, d, ("conv_in", "embed"))
    self.text_in = Dense(rngs, c.text_width, d, (None, "embed"))
    self.time_in = TimeEmbedder(rngs, d)
    if c.guidance:
      self.guidance_in = TimeEmbedder(rngs, d)
    self.pooled_in = Embedder(rngs, c.pooled_width, d)
    if c.double_blocks:
      self.text_adaln = Modulation(rngs, d, 6, d, layers=c.double_blocks)
      self.image_adaln = Modulation(rngs, d, 6, d, layers=c.double_blocks)
      self.double = stack_blocks(lambda r: DoubleBlock(block, r), c.double_blocks, rngs)
    if c.single_blocks:
      self.single_adaln = Modulation(rngs, d, 3, d, layers=c.single_blocks)
      self.single = stack_blocks(lambda r: SingleBlock(block, r), c.single_blocks, rngs)
    self.final_adaln = Modulation(rngs, d, 2, d)
    self.head = Dense(rngs, d, p * c.out, ("embed", "conv_out"), init=zeros)

  def __call__(
    self,
    x_t: jax.Array,
    model_time: jax.Array,
    cond: Conditioning,
    control: Control | None = None,
  ) -> jax.Array:
    c, text = self.config, cond.towers["text"]
    height, width = x_t.shape[1:3]
    image = self.patch_in(patchify(x_t, c.patch))  # [B, L, D]
    tokens = self.text_in(text.tokens.astype(image.dtype))  # [B, T, D]
    vector = jax.nn.silu(self.condition_vector(model_time, cond, image.dtype))
    ropes = self.rotary(tokens.shape[1], height // c.patch, width // c.patch)
    mask = None if c.attend_padding else joint_mask(text.mask, image.shape[1])

    stacks = Stacks(c, control, cond, tokens.shape[1])
    both = laid(tokens, image)
    if c.double_blocks:
      double = lambda block, x, modulation, at: block(x, modulation, at, ropes, mask)
      modulations = Both(self.text_adaln(vector), self.image_adaln(vector))
      both = stacks.run("double", self.double, both, double, modulations)
    x = both.image
    if c.single_blocks:
      rope = joined(*ropes)
      single = lambda block, x, modulation, at: block(x, modulation, at, rope, mask)
      x = stacks.run("single", self.single, joined(*both), single, self.single_adaln(vector))
      x = x[:, tokens.shape[1] :]
    picture = drawn(x, self.final_adaln(vector), self.head, c.patch, height, width)
    return stacks.answer(picture)

  def condition_vector(self, model_time: jax.Array, cond: Conditioning, dtype) -> jax.Array:
    """Time, guidance scale and pooled text.   # [B, D]"""
    vector = self.time_in(model_time, dtype)
    if self.config.guidance:
      scale = guidance_of(cond, self.config.guidance, len(model_time))
      vector = vector + self.guidance_in(1000 * scale, dtype)
    return vector + self.pooled_in(pooled_of(cond.towers["text"], "flux").astype(dtype))

  def rotary(self, words: int, rows: int, cols: int) -> Both:
    """Angles of both streams.   # each [T or L, K / 2]"""
    grid = jnp.pad(grid_positions(rows, cols), ((0, 0), (1, 0)))  # (0, row, column)
    angles = lambda places: rope_angles(places, self.config.rope_axes, ROPE_THETA)
    return Both(angles(jnp.zeros((words, 3))), angles(grid))
