"""The noisy classifier: a small transformer that says, at any noise level, what x_t shows.

    f_phi(y | x_t, t),   y the set of the caption's tokens, each one present or absent

One answer a token of the vocabulary, so that nothing has to be chosen for a data set. A set has no
order: which colour belongs to which shape is not in y. Source: [2105.05233 sec. 4], whose classes
are ImageNet's.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import attend
from t2i_jax.models.block import PreNormBlock
from t2i_jax.models.layers import BlockConfig, Dense, TimeEmbedder, patchify, rms_norm
from t2i_jax.models.params import scan_blocks, stack_blocks, zeros
from t2i_jax.models.positions import grid_positions, rope_angles
from t2i_jax.parallel import constrain
from t2i_jax.ranges import Count, Depth, Width

ROPE_THETA = 100.0


@dataclass(frozen=True)
class ClassifierConfig:
  """width is of tokens, patch of a side in pixels or latents; vocab is of the tokenizer."""

  width: Width
  depth: Depth
  heads: Count
  patch: Count
  channels: Width
  vocab: Count

  def __post_init__(self):
    if self.width % (4 * self.heads):
      raise ConfigError(
        f"model.width = {self.width} does not divide into model.heads = {self.heads} heads of a "
        f"multiple of 4 (two axes of rotary pairs). Use width {4 * self.heads} x n."
      )


class NoisyClassifier(nnx.Module):
  """(x_t [B, H, W, C], model_time [B]) -> logits [B, vocab], float32."""

  def __init__(self, config: ClassifierConfig, rngs: nnx.Rngs):
    c = self.config = config
    d, p = c.width, c.patch * c.patch * c.channels
    self.patch_in = Dense(rngs, p, d, ("conv_in", "embed"), bias=False)
    self.time_in = TimeEmbedder(rngs, d, bias=False)
    block = BlockConfig(d, c.heads)
    self.blocks = stack_blocks(lambda r: PreNormBlock(block, r), c.depth, rngs)
    self.head = Dense(rngs, d, c.vocab, ("embed", "vocab"), init=zeros)  # begins at even odds

  def __call__(self, x_t: jax.Array, model_time: jax.Array) -> jax.Array:
    x, _ = self.blocks_of(x_t, model_time)
    pooled = rms_norm(jnp.mean(rms_norm(x), axis=1))  # [B, D]
    return self.head(pooled).astype(jnp.float32)

  def features(self, x_t: jax.Array, model_time: jax.Array) -> list[jax.Array]:
    """The tokens after each block, [B, L, D]."""
    return list(self.blocks_of(x_t, model_time)[1])

  def blocks_of(self, x_t: jax.Array, model_time: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tokens after the last block [B, L, D], and after each one [depth, B, L, D]."""
    c = self.config
    rows, cols = x_t.shape[1] // c.patch, x_t.shape[2] // c.patch
    x = self.patch_in(patchify(x_t, c.patch))  # [B, L, D]
    time = self.time_in(model_time, x.dtype)
    rope = rope_angles(grid_positions(rows, cols), c.width // c.heads, ROPE_THETA)
    x = constrain(x + time[:, None], "batch", "sequence", None)

    def call(block: PreNormBlock, x: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
      x = block(x, attend, None, rope)
      return x, x

    return scan_blocks(self.blocks, x, call)


def present(ids: jax.Array, mask: jax.Array, vocab: int) -> jax.Array:
  """1 where a token is in the caption.   ids, mask [B, T] -> [B, vocab] float32"""
  one_hot = jax.nn.one_hot(ids, vocab) * mask[:, :, None]  # [B, T, vocab]
  return jnp.max(one_hot, axis=1)


def log_prob(logits: jax.Array, y: jax.Array) -> jax.Array:
  """log f_phi(y | x_t, t) of the set y [B, vocab], in nats.   # [B]"""
  return jnp.sum(y * jax.nn.log_sigmoid(logits) + (1 - y) * jax.nn.log_sigmoid(-logits), axis=-1)
