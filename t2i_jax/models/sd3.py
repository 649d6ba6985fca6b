"""Stable Diffusion 3 and 3.5: MM-DiT of double-stream blocks [2403.03206 sec. 4].

3.5-medium begins with blocks in which the image attends to itself a second time (MMDiT-X).
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.backbone import Backbone, PatchConfig
from t2i_jax.models.conditioning import Tower, pooled_of
from t2i_jax.models.layers import (
  BlockConfig,
  Dense,
  Embedder,
  Modulation,
  TimeEmbedder,
  final_layer,
  patchify,
)
from t2i_jax.models.params import Chosen, stack_blocks, stacked, zeros
from t2i_jax.models.positions import check_heads, sincos_grid
from t2i_jax.models.stack import BlockOutput, Stacks
from t2i_jax.models.streams import Both, DoubleBlock, joint_mask, laid
from t2i_jax.ranges import Count, Range, Whole, Width


@dataclass(frozen=True)
class SD3Config(PatchConfig):
  """depth counts all blocks, dual_blocks the first ones of them that are dual; patch in latents.

  side             of the latent, in latents, over whose number of patches the whole table runs
  max_side         of the table that positions are cut out of, in patches: its centre is used
  step, start      between patches of the table, and of its first one; step 0 = what side says,
                   which is diffusers' table; the published files' own have others (pretrained)
  attend_padding   the published models see the text's padding; False masks it
  """

  text_width: Width
  pooled_width: Width
  side: Count
  max_side: Count
  dual_blocks: Whole = 0
  qk_norm: bool = True
  step: Annotated[float, Range("[0, 1000]")] = 0.0
  start: Annotated[float, Range("[-1e4, 1e4]")] = 0.0
  attend_padding: bool = True

  def __post_init__(self):
    super().__post_init__()
    check_heads(self.width, self.heads)
    self.check_dual()

  def check_dual(self) -> None:
    if not 0 <= self.dual_blocks < self.depth:
      raise ConfigError(
        f"model.dual_blocks = {self.dual_blocks} of model.depth = {self.depth} blocks: the last "
        "block is never dual."
      )

  @property
  def block(self) -> BlockConfig:
    return BlockConfig(self.width, self.heads, bias=True, qk_norm=self.qk_norm)

  @property
  def joint_blocks(self) -> int:
    """Blocks that are neither dual nor the last."""
    return self.depth - self.dual_blocks - 1


# The stacks in order, with the chunks of the image's modulation in their blocks.
STACKS = {"dual": 9, "joint": 6, "last": 6}


class SD3Stem(nnx.Module):
  """The embeddings and the blocks, but for the last of SD3."""

  config: SD3Config

  def __init__(self, config: SD3Config, rngs: nnx.Rngs):
    c = self.config = config
    d = c.width
    self.patch_in = Dense(rngs, c.patch * c.patch * c.inputs, d, ("conv_in", "embed"))
    self.text_in = Dense(rngs, c.text_width, d, (None, "embed"))
    self.time_in = TimeEmbedder(rngs, d)
    self.pooled_in = Embedder(rngs, c.pooled_width, d)
    if c.dual_blocks:
      self.dual = stack_blocks(lambda r: DoubleBlock(c.block, r, dual=True), c.dual_blocks, rngs)
      self.dual_adaln = Modulation(rngs, d, 9 + 6, d, layers=c.dual_blocks)  # image, then text
    if c.joint_blocks:
      self.joint = stack_blocks(lambda r: DoubleBlock(c.block, r), c.joint_blocks, rngs)
      self.joint_adaln = Modulation(rngs, d, 6 + 6, d, layers=c.joint_blocks)

  def blocks(
    self,
    x_t: jax.Array,
    model_time: jax.Array,
    text: Tower,
    stacks: Stacks,
    hint: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """The image's tokens after all blocks [B, L, D], and the vector that modulates [B, D].

    text  with a pooled vector
    hint  [B, L, D], added to the embedded tokens; with it stacks.skips has those of the image after
          each block
    stacks.residual("blocks")  [K, B, L, D], added after block i of all but the last, as diffusers'
          SD3Transformer2DModel: number int(i / (depth / K))
    """
    c, (height, width), kept = self.config, x_t.shape[1:3], hint is not None
    x = self.patch_in(patchify(x_t, c.patch))  # [B, L, D]
    x = x + self.positions(height // c.patch, width // c.patch).astype(x.dtype)
    x = x if hint is None else x + hint.astype(x.dtype)
    tokens = self.text_in(text.tokens.astype(x.dtype))  # [B, T, D]
    vector = self.time_in(model_time, x.dtype)
    vector = jax.nn.silu(vector + self.pooled_in(pooled_of(text, "sd3").astype(x.dtype)))
    mask = None if c.attend_padding else joint_mask(text.mask, x.shape[1])
    added, first = stacks.residual("blocks"), 0

    streams, length = laid(tokens, x), tokens.shape[1]
    for name, of_image in STACKS.items():
      if not hasattr(self, name):
        continue

      def call(block, x, modulation, at, of_image=of_image):
        x = block(x, Both(modulation[of_image:], modulation[:of_image]), at, mask=mask)
        return BlockOutput(x, x.image) if kept else x

      blocks = getattr(self, name)
      count, chosen = stacked(blocks), None
      if added is not None and name != "last":
        which = [int(i / (c.depth / len(added))) for i in range(first, first + count)]
        chosen = Chosen(Both(None, added), jnp.array(which))
      first += count
      modulations = getattr(self, f"{name}_adaln")(vector)
      streams = stacks.run(name, blocks, streams, call, modulations, length, chosen)
    return streams.image, vector

  def positions(self, rows: int, cols: int) -> jax.Array:
    """The centre of the table.   # [rows cols, D]     Raises ConfigError where it is too small."""
    c = self.config
    if max(rows, cols) > c.max_side:
      raise ConfigError(
        f"{rows} x {cols} patches: positions exist for model.max_side = {c.max_side} at most. "
        "Use smaller images, or a model with a larger table."
      )
    step = c.step or c.side / c.patch / c.max_side
    first = [(c.max_side - n) // 2 + c.start / step for n in (rows, cols)]
    return sincos_grid(rows, cols, (step, step), c.width, (first[0], first[1]))


class SD3(Backbone, SD3Stem):
  """(x_t [B, H, W, C], model_time [B], "text" with a pooled vector) -> [B, H, W, out]."""

  config: SD3Config

  def __init__(self, config: SD3Config, rngs: nnx.Rngs):
    c, d = config, config.width
    SD3Stem.__init__(self, c, rngs)
    self.last = stack_blocks(lambda r: DoubleBlock(c.block, r, last=True), 1, rngs)
    self.last_adaln = Modulation(rngs, d, 6 + 2, d, layers=1)
    self.final_adaln = Modulation(rngs, d, 2, d)
    self.head = Dense(rngs, d, c.patch * c.patch * c.out, ("embed", "conv_out"), init=zeros)

  def predict(self, x_t, model_time, cond, stacks) -> jax.Array:
    c, (height, width) = self.config, x_t.shape[1:3]
    x, vector = self.blocks(x_t, model_time, cond.towers["text"], stacks)
    return final_layer(x, self.final_adaln(vector), self.head, c.patch, height, width)
