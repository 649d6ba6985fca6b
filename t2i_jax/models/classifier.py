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
from t2i_jax.models.block import PreNormBlock, block_macs
from t2i_jax.models.layers import (
  grid_positions,
  patchify,
  project,
  rms_norm,
  rope_angles,
  timestep_embedding,
)
from t2i_jax.models.params import fan_in, scan_blocks, stack_blocks, weight, zeros
from t2i_jax.parallel import constrain

TIME_EMBEDDING = 256
ROPE_THETA = 100.0


@dataclass(frozen=True)
class ClassifierConfig:
  """width is of tokens, patch of a side in pixels or latents; vocab is of the tokenizer."""

  width: int
  depth: int
  heads: int
  patch: int
  channels: int
  vocab: int

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
    self.patch_in = weight(rngs, (p, d), ("conv_in", "embed"), fan_in(p))
    self.time_in = weight(rngs, (TIME_EMBEDDING, d), (None, "embed"), fan_in(TIME_EMBEDDING))
    self.time_out = weight(rngs, (d, d), ("embed", "mlp"), fan_in(d))
    self.blocks = stack_blocks(lambda r: PreNormBlock(d, c.heads, r), c.depth, rngs)
    self.head = weight(rngs, (d, c.vocab), ("embed", "vocab"), zeros)  # begins at even odds
    self.bias = weight(rngs, (c.vocab,), ("vocab",), zeros)

  def __call__(self, x_t: jax.Array, model_time: jax.Array) -> jax.Array:
    c = self.config
    rows, cols = x_t.shape[1] // c.patch, x_t.shape[2] // c.patch
    x = project("blp,pd->bld", patchify(x_t, c.patch), self.patch_in)  # [B, L, D]
    embedding = timestep_embedding(model_time, TIME_EMBEDDING).astype(x.dtype)
    hidden = jax.nn.silu(project("be,ed->bd", embedding, self.time_in))
    x = x + project("bd,dk->bk", hidden, self.time_out)[:, None]
    rope = rope_angles(grid_positions(rows, cols), c.width // c.heads, ROPE_THETA)
    x = constrain(x, "batch", "sequence", None)
    x = scan_blocks(self.blocks, x, lambda block, x, _: block(x, None, rope))
    pooled = rms_norm(jnp.mean(rms_norm(x), axis=1))  # [B, D]
    return (project("bd,dv->bv", pooled, self.head) + self.bias[...]).astype(jnp.float32)


def classifier_flops(c: ClassifierConfig, tokens: int) -> int:
  """Matmul and attention FLOPs of one forward pass of one image (2 a multiply-add)."""
  ends = tokens * c.patch * c.patch * c.channels * c.width + c.width * c.vocab
  vectors = TIME_EMBEDDING * c.width + c.width * c.width
  return 2 * (c.depth * block_macs(c.width, tokens) + vectors + ends)


def present(ids: jax.Array, mask: jax.Array, vocab: int) -> jax.Array:
  """1 where a token is in the caption.   ids, mask [B, T] -> [B, vocab] float32"""
  one_hot = jax.nn.one_hot(ids, vocab) * mask[:, :, None]  # [B, T, vocab]
  return jnp.max(one_hot, axis=1)


def log_prob(logits: jax.Array, y: jax.Array) -> jax.Array:
  """log f_phi(y | x_t, t) of the set y [B, vocab], in nats.   # [B]"""
  return jnp.sum(y * jax.nn.log_sigmoid(logits) + (1 - y) * jax.nn.log_sigmoid(-logits), axis=-1)
