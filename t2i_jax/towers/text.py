"""A small bidirectional text transformer, trained from scratch together with the backbone."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import padding_mask
from t2i_jax.models.block import PreNormBlock, block_macs
from t2i_jax.models.conditioning import Tower
from t2i_jax.models.layers import rms_norm, rope_angles
from t2i_jax.models.params import fan_in, scan_blocks, stack_blocks, weight
from t2i_jax.parallel import constrain

ROPE_THETA = 10000.0  # [2104.09864 sec. 3.3]


@dataclass(frozen=True)
class TextTowerConfig:
  """vocab is of the tokenizer, length the most tokens a caption may have."""

  vocab: int
  length: int
  width: int
  depth: int
  heads: int

  def __post_init__(self):
    if self.width % (2 * self.heads):
      raise ConfigError(
        f"text.width = {self.width} does not divide into text.heads = {self.heads} heads of an "
        f"even width. Use width {2 * self.heads} x n."
      )


class TextTower(nnx.Module):
  """(ids [B, T] int32, mask [B, T] bool) -> Tower; pooled is the mean over real tokens."""

  def __init__(self, config: TextTowerConfig, rngs: nnx.Rngs):
    c = self.config = config
    self.embedding = weight(rngs, (c.vocab, c.width), ("vocab", "embed"), fan_in(1))
    # Rotary angles tell distances; a learned row a place tells the first noun from the second.
    self.place = weight(rngs, (c.length, c.width), ("sequence", "embed"), fan_in(1))
    self.blocks = stack_blocks(lambda r: PreNormBlock(c.width, c.heads, r), c.depth, rngs)

  def __call__(self, ids: jax.Array, mask: jax.Array, dtype=jnp.float32) -> Tower:
    c = self.config
    # Whole on every device: left to itself the compiler would gather the batch's rows instead.
    table, place = (constrain(w[...], None, None) for w in (self.embedding, self.place))
    x = (table[ids] + place[: ids.shape[1]]).astype(dtype)  # [B, T, D]
    x = constrain(x, "batch", "sequence", None)
    rope = rope_angles(jnp.arange(ids.shape[1])[:, None], c.width // c.heads, ROPE_THETA)
    allowed = padding_mask(mask, mask)
    x = rms_norm(scan_blocks(self.blocks, x, lambda block, x, _: block(x, allowed, rope)))
    count = jnp.maximum(jnp.sum(mask, axis=1), 1)[:, None]
    pooled = jnp.sum(jnp.where(mask[:, :, None], x, 0), axis=1) / count.astype(x.dtype)
    return Tower(x, mask, pooled)


def tower_flops(c: TextTowerConfig, tokens: int) -> int:
  """Matmul and attention FLOPs of one caption of `tokens` tokens (2 a multiply-add)."""
  return 2 * c.depth * block_macs(c.width, tokens)
