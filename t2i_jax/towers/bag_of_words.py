"""A weak text encoder: a bag of words, whose output does not depend on the order of tokens.

Contrastive text encoders often behave nearly so [2210.01936]; this one is the lower bound of a
comparison.
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
  """vocab: of the tokenizer;   length: maximum number of tokens of a caption"""

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

  Tokens are sorted by id, so that a backbone cannot recover their order from their positions.
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
