"""PixArt-alpha and Sigma: a DiT with cross-attention to the text and adaLN from one projection.

Source: [2310.00426 sec. 2.2], [2403.04692]
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.adaln_block import AdaLNBlock
from t2i_jax.models.attention import padding_mask
from t2i_jax.models.backbone import Backbone, PatchConfig
from t2i_jax.models.conditioning import Tower
from t2i_jax.models.layers import (
  BlockConfig,
  Dense,
  Modulation,
  TimeEmbedder,
  final_layer,
  gelu,
  patchify,
)
from t2i_jax.models.params import fan_in, stack_blocks, weight, zeros
from t2i_jax.models.positions import check_heads, interpolated_grid
from t2i_jax.parallel import constrain
from t2i_jax.ranges import Count, Factor, Width

PIXELS = 8  # along a side of one latent


@dataclass(frozen=True)
class PixArtConfig(PatchConfig):
  """side is that of the latent the positions were made for; out of value and variance.

  interpolation  how much denser than 1 a patch the positions lie at that side
  sizes          size embeddings of extras["size"] [B, 2] (height, width in pixels) and
                 extras["aspect"] [B, 1] (height over width), or else those of x_t
  """

  text_width: Width
  side: Count
  interpolation: Factor = 1.0
  sizes: bool = False

  def __post_init__(self):
    super().__post_init__()
    check_heads(self.width, self.heads)


class PixArt(Backbone):
  """(x_t [B, H, W, C], model_time [B], Conditioning with a "text" tower) -> [B, H, W, out]."""

  config: PixArtConfig

  def __init__(self, config: PixArtConfig, rngs: nnx.Rngs):
    c = self.config = config
    d, p = c.width, c.patch * c.patch
    block = BlockConfig(d, c.heads, bias=True, qk_norm=False)
    self.patch_in = Dense(rngs, p * c.inputs, d, ("conv_in", "embed"))
    self.text_in = Dense(rngs, c.text_width, d, (None, "embed"))
    self.text_second = Dense(rngs, d, d, ("embed", "mlp"))
    self.time_in = TimeEmbedder(rngs, d)
    if c.sizes:
      self.size_in = TimeEmbedder(rngs, d // 3)
      self.aspect_in = TimeEmbedder(rngs, d // 3)
    # adaLN-single: one projection for all blocks, and a table of each block's own.
    self.adaln = Modulation(rngs, d, 6, d)
    table = ("layers", None, "embed")
    self.tables = weight(rngs, (c.depth, 6, d), table, fan_in(d))
    make = lambda r: AdaLNBlock(block, r, cross="raw")
    self.blocks = stack_blocks(make, c.depth, rngs)
    self.final_table = weight(rngs, (2, d), table[1:], fan_in(d))
    self.head = Dense(rngs, d, p * c.out, ("embed", "conv_out"), init=zeros)

  def predict(self, x_t, model_time, cond, stacks) -> jax.Array:
    c, text = self.config, cond.towers["text"]
    height, width = x_t.shape[1:3]
    rows, cols = height // c.patch, width // c.patch
    x = self.patch_in(patchify(x_t, c.patch))  # [B, L, D]
    base = c.side / c.patch / c.interpolation
    x = x + interpolated_grid(rows, cols, base, c.width).astype(x.dtype)
    tokens = self.text_tokens(text, x.dtype)
    size = jnp.full((len(x), 2), jnp.array([height, width]) * PIXELS, jnp.float32)
    vector = self.condition_vector(model_time, cond.extras, size, x.dtype)  # [B, D]
    mask = padding_mask(jnp.ones(x.shape[:2], bool), text.mask)
    shared = self.adaln(jax.nn.silu(vector))  # [6, B, D]
    call = lambda block, x, table, at: block(
      x, shared + table[:, None].astype(x.dtype), at, text=tokens, text_mask=mask
    )
    x = constrain(x, "batch", "sequence", None)
    x = stacks.run("blocks", self.blocks, x, call, self.tables[...])
    final = vector + self.final_table[...].astype(x.dtype)[:, None]  # [2, B, D]
    return final_layer(x, final, self.head, c.patch, height, width)

  def text_tokens(self, text: Tower, dtype) -> jax.Array:
    """The text as attention reads it.   # [B, T, D]"""
    return self.text_second(gelu(self.text_in(text.tokens.astype(dtype))))

  def condition_vector(self, model_time, extras: dict, size: jax.Array, dtype) -> jax.Array:
    """Time, and with `sizes` the image's size and aspect.   # [B, D]"""
    vector = self.time_in(model_time, dtype)
    if not self.config.sizes:
      return vector
    size = extras.get("size", size)
    aspect = extras.get("aspect", size[:, :1] / size[:, 1:])
    embedded = [self.size_in(size, dtype), self.aspect_in(aspect, dtype)]  # [B, 2 and 1, D / 3]
    return vector + jnp.concatenate(embedded, axis=1).reshape(vector.shape)
