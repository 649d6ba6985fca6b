"""The weak text encoder: a bag of words. It knows which words there are, not in which order.

What a contrastive text encoder is often close to [2210.01936]; here it is so exactly, as the other
end of a comparison.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.conditioning import Tower
from t2i_jax.models.params import fan_in, weight
from t2i_jax.parallel import constrain
from t2i_jax.towers.text import mean_of_real


@dataclass(frozen=True)
class BagOfWordsConfig:
  """vocab is of the tokenizer, length the most tokens a caption may have."""

  vocab: int
  length: int
  width: int

  @property
  def widths(self) -> dict[str, int]:
    return {"text_width": self.width, "pooled_width": self.width}

  def make(self, rngs: nnx.Rngs) -> "BagOfWords":
    return BagOfWords(self, rngs)


class BagOfWords(nnx.Module):
  """(ids [B, T] int32, mask [B, T] bool) -> Tower; pooled is the mean over real tokens.

  The words come sorted by id, so that no backbone can read their order off their places.
  """

  def __init__(self, config: BagOfWordsConfig, rngs: nnx.Rngs):
    c = self.config = config
    self.embedding = weight(rngs, (c.vocab, c.width), ("vocab", "embed"), fan_in(1))

  def __call__(self, ids: jax.Array, mask: jax.Array, dtype=jnp.float32) -> Tower:
    order = jnp.argsort(jnp.where(mask, ids, self.config.vocab), axis=1)  # padding last
    ids, mask = (jnp.take_along_axis(part, order, axis=1) for part in (ids, mask))
    x = constrain(self.embedding[...], None, None)[ids].astype(dtype)  # [B, T, D]
    x = constrain(x, "batch", "sequence", None)
    return Tower(x, mask, mean_of_real(x, mask))
