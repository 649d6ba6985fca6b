"""Qwen-Image and its editing models: double-stream blocks only, rotary positions about the centre.

Images to edit come as extras["references"], a tuple of latents [B, h, w, C]: their tokens follow
the image's and are cut from the output. Source: [2508.02324 sec. 2]
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.backbone import Backbone, PatchConfig
from t2i_jax.models.conditioning import with_references
from t2i_jax.models.layers import (
  BlockConfig,
  Dense,
  Modulation,
  TimeEmbedder,
  final_layer,
  patchify,
  rms_norm,
)
from t2i_jax.models.params import ones, stack_blocks, weight, zeros
from t2i_jax.models.positions import Axes, check_rope, grid_positions, rope_angles
from t2i_jax.models.streams import Both, DoubleBlock, joint_mask, laid
from t2i_jax.ranges import Width

ROPE_THETA = 10000.0


@dataclass(frozen=True)
class QwenImageConfig(PatchConfig):
  """rope_axes are the parts of a head's width for (image, row, column)."""

  text_width: Width
  rope_axes: Axes

  def __post_init__(self):
    super().__post_init__()
    check_rope(self.width, self.heads, self.rope_axes)


class QwenImage(Backbone):
  """(x_t [B, H, W, C], model_time [B], Conditioning with a "text" tower) -> [B, H, W, out]."""

  config: QwenImageConfig

  def __init__(self, config: QwenImageConfig, rngs: nnx.Rngs):
    c = self.config = config
    d, p = c.width, c.patch * c.patch
    block = BlockConfig(d, c.heads, bias=True)
    self.patch_in = Dense(rngs, p * c.inputs, d, ("conv_in", "embed"))
    self.text_gain = weight(rngs, (c.text_width,), (None,), ones)
    self.text_in = Dense(rngs, c.text_width, d, (None, "embed"))
    self.time_in = TimeEmbedder(rngs, d)
    self.text_adaln = Modulation(rngs, d, 6, d, layers=c.depth)
    self.image_adaln = Modulation(rngs, d, 6, d, layers=c.depth)
    self.blocks = stack_blocks(lambda r: DoubleBlock(block, r), c.depth, rngs)
    self.final_adaln = Modulation(rngs, d, 2, d)
    self.head = Dense(rngs, d, p * c.out, ("embed", "conv_out"), init=zeros)

  def predict(self, x_t, model_time, cond, stacks) -> jax.Array:
    c, text = self.config, cond.towers["text"]
    height, width = x_t.shape[1:3]
    images = with_references(x_t, cond)
    image = self.patch_in(jnp.concatenate([patchify(x, c.patch) for x in images], axis=1))
    tokens = self.text_in(rms_norm(text.tokens.astype(image.dtype), self.text_gain))  # [B, T, D]
    vector = jax.nn.silu(self.time_in(model_time, image.dtype))  # [B, D]
    ropes = self.rotary(tokens.shape[1], [x.shape[1:3] for x in images])
    mask = joint_mask(text.mask, image.shape[1])

    both = laid(tokens, image)
    call = lambda block, x, modulation, at: block(x, modulation, at, ropes, mask)
    modulations = Both(self.text_adaln(vector), self.image_adaln(vector))
    both = stacks.run("blocks", self.blocks, both, call, modulations, tokens.shape[1])
    return final_layer(both.image, self.final_adaln(vector), self.head, c.patch, height, width)

  def rotary(self, words: int, sizes: list[tuple[int, ...]]) -> Both:
    """Angles of both streams.   sizes (height, width) in latents; the first is the image's"""
    c, places = self.config, []
    grids = [(height // c.patch, width // c.patch) for height, width in sizes]
    for i, (rows, cols) in enumerate(grids):
      centre = jnp.array([rows - rows // 2, cols - cols // 2])
      grid = jnp.pad(grid_positions(rows, cols) - centre, ((0, 0), (1, 0)))
      places.append(grid.at[:, 0].set(i))
    first = max(max(rows // 2, cols // 2) for rows, cols in grids)  # beyond every image
    text = (first + jnp.arange(words))[:, None] * jnp.ones((1, 3), jnp.int32)
    angles = lambda at: rope_angles(at, c.rope_axes, ROPE_THETA)
    return Both(angles(text), angles(jnp.concatenate(places)))
