"""A small bidirectional text transformer, trained from scratch together with the backbone."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import attend, padding_mask
from t2i_jax.models.block import PreNormBlock
from t2i_jax.models.conditioning import Tower
from t2i_jax.models.layers import BlockConfig, Dense, rms_norm
from t2i_jax.models.params import fan_in, scan_blocks, stack_blocks, weight
from t2i_jax.models.positions import rope_angles
from t2i_jax.parallel import constrain

ROPE_THETA = 10000.0  # [2104.09864 sec. 3.3]


@dataclass(frozen=True)
class TextTowerConfig:
  """vocab: of the tokenizer;   length: maximum number of tokens of a caption

  tokens, pooled  widths to which the two outputs are projected; 0: no projection
  """

  vocab: int
  length: int
  width: int
  depth: int
  heads: int
  tokens: int = 0
  pooled: int = 0

  def __post_init__(self):
    if self.width % (2 * self.heads):
      raise ConfigError(
        f"text.towers: width={self.width} is not a multiple of 2 x heads = {2 * self.heads}. "
        f"Use width={max(1, round(self.width / (2 * self.heads))) * 2 * self.heads}."
      )

  @property
  def widths(self) -> dict[str, int]:
    return {"text_width": self.tokens or self.width, "pooled_width": self.pooled or self.width}

  def make(self, rngs: nnx.Rngs) -> "TextTower":
    return TextTower(self, rngs)


class TextTower(nnx.Module):
  """(ids [B, T] int32, mask [B, T] bool) -> Tower; pooled is the mean over real tokens."""

  def __init__(self, config: TextTowerConfig, rngs: nnx.Rngs):
    c = self.config = config
    self.embedding = weight(rngs, (c.vocab, c.width), ("vocab", "embed"), fan_in(1))
    # Rotary angles encode relative positions; learned embeddings encode absolute ones.
    self.place = weight(rngs, (c.length, c.width), ("sequence", "embed"), fan_in(1))
    block = BlockConfig(c.width, c.heads)
    self.blocks = stack_blocks(lambda r: PreNormBlock(block, r), c.depth, rngs)
    if c.tokens:
      self.tokens_out = Dense(rngs, c.width, c.tokens, ("embed", None), bias=False)
    if c.pooled:
      self.pooled_out = Dense(rngs, c.width, c.pooled, ("embed", None), bias=False)

  def __call__(self, ids: jax.Array, mask: jax.Array, dtype=jnp.float32) -> Tower:
    c = self.config
    # Replicated on every device: otherwise the compiler gathers the rows of the batch instead.
    table, place = (constrain(w[...], None, None) for w in (self.embedding, self.place))
    x = (table[ids] + place[: ids.shape[1]]).astype(dtype)  # [B, T, D]
    x = constrain(x, "batch", "sequence", None)
    rope = rope_angles(jnp.arange(ids.shape[1])[:, None], c.width // c.heads, ROPE_THETA)
    allowed = padding_mask(mask, mask)
    call = lambda block, x, _: (block(x, attend, allowed, rope), None)
    x = rms_norm(scan_blocks(self.blocks, x, call)[0])
    pooled = mean_of_real(x, mask)
    tokens = self.tokens_out(x) if c.tokens else x
    return Tower(tokens, mask, self.pooled_out(pooled) if c.pooled else pooled)


def mean_of_real(x: jax.Array, mask: jax.Array) -> jax.Array:
  """The mean over tokens that are not padding, 0 where there is none.   [B, T, D] -> [B, D]"""
  count = jnp.maximum(jnp.sum(mask, axis=1), 1)[:, None]
  return jnp.sum(jnp.where(mask[:, :, None], x, 0), axis=1) / count.astype(x.dtype)
