"""The plain transformer block that towers are made of."""

import jax
from flax import nnx

from t2i_jax.models.attention import Attend, Attention, Rope, Visible
from t2i_jax.models.layers import BlockConfig, FeedForward, layer_norm
from t2i_jax.parallel import constrain


class PreNormBlock(nnx.Module):
  """x + attention, x + MLP, each of the normed x [2002.04745 fig. 1b]."""

  def __init__(self, c: BlockConfig, rngs: nnx.Rngs):
    self.attn = Attention(c, rngs)
    self.mlp = FeedForward(c, rngs)

  def __call__(
    self, x: jax.Array, attend: Attend, mask: Visible | None, rope: Rope | None
  ) -> jax.Array:
    x = x + self.attn(layer_norm(x), rope=rope, mask=mask, attend=attend)
    return constrain(x + self.mlp(layer_norm(x)), "batch", "sequence", None)
