"""The tower of class-conditional models: a caption is a class index into the model's embedding."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.conditioning import Tower


@dataclass(frozen=True)
class LabelConfig:
  """vocab: of a tokenizer "labels:N", N classes and the null"""

  vocab: int
  length: int

  @property
  def widths(self) -> dict[str, int]:
    return {"classes": self.vocab - 1}

  def make(self, rngs: nnx.Rngs) -> "Label":
    return Label(self)


class Label(nnx.Module):
  """(ids [B, T] int32, mask [B, T] bool) -> Tower of labels [B, 1, 1]; it has no weights.

  The token of "" maps to the last of `vocab` rows, the null class of [2212.09748].
  """

  def __init__(self, config: LabelConfig):
    self.config = config

  def __call__(self, ids: jax.Array, mask: jax.Array, dtype=jnp.float32) -> Tower:
    labels = (ids[:, :1] - 1) % self.config.vocab
    return Tower(labels[:, :, None], mask[:, :1], None)
