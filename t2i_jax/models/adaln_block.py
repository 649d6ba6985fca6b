"""The block of DiT: attention and MLP under adaLN, with a cross-attention where text enters so."""

import jax
from flax import nnx

from t2i_jax.models.attention import Attention, Rope, Visible
from t2i_jax.models.layers import BlockConfig, FeedForward, layer_norm, modulate
from t2i_jax.models.stack import At
from t2i_jax.parallel import constrain


class AdaLNBlock(nnx.Module):
  """x + gate attention(x), [x + cross-attention(x, text)], x + gate MLP(x) [2212.09748 fig. 3].

  cross     "" none; "normed": the query is the normed x; "raw": x itself [2310.00426, its code]
  mlp_eps   of the norm before the MLP
  """

  def __init__(self, c: BlockConfig, rngs: nnx.Rngs, *, cross: str = "", mlp_eps: float = 1e-6):
    self.attn = Attention(c, rngs)
    if cross:
      self.cross = Attention(c, rngs)
    self.mlp = FeedForward(c, rngs)
    self.cross_query, self.mlp_eps = cross, mlp_eps

  def __call__(
    self,
    x: jax.Array,  # [B, L, D]
    modulation: jax.Array,  # [6, B, D]
    at: At,
    *,
    mask: Visible | None = None,
    rope: Rope | None = None,
    text: jax.Array | None = None,  # [B, T, D]
    text_mask: Visible | None = None,
    site: str = "self",
  ) -> jax.Array:
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation
    h = modulate(layer_norm(x), shift_a, scale_a)
    x = x + gate_a[:, None] * self.attn(h, rope=rope, mask=mask, attend=at(site))
    if self.cross_query:
      query = layer_norm(x) if self.cross_query == "normed" else x
      x = x + self.cross(query, kv=text, mask=text_mask, attend=at("cross"))
    h = modulate(layer_norm(x, self.mlp_eps), shift_m, scale_m)
    return constrain(x + gate_m[:, None] * self.mlp(h), "batch", "sequence", None)
