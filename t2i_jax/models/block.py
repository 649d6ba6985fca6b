"""The plain transformer block that towers are made of, and what a block costs."""

import jax
from flax import nnx

from t2i_jax.models.attention import Attention, Mask
from t2i_jax.models.layers import MLP_RATIO, Mlp, layer_norm
from t2i_jax.parallel import constrain


class PreNormBlock(nnx.Module):
  """x + attention, x + MLP, each of the normed x [2002.04745 fig. 1b]."""

  def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
    self.attn = Attention(width, heads, rngs)
    self.mlp = Mlp(width, rngs)

  def __call__(self, x: jax.Array, mask: Mask | None, rope) -> jax.Array:
    x = x + self.attn(layer_norm(x), rope=rope, mask=mask)
    return constrain(x + self.mlp(layer_norm(x)), "batch", "sequence", None)


def block_macs(width: int, length: int) -> int:
  """Multiply-adds of self-attention and MLP over one sequence of `length` tokens."""
  projections = (4 + 2 * MLP_RATIO) * width * width
  return length * projections + 2 * length * length * width
