"""The tower that stands for an encoder that a folder does not have: zeros."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t2i_jax.models.conditioning import Tower


@dataclass(frozen=True)
class NothingConfig:
  """width of tokens [B, length, width], which are zeros and attended to"""

  width: int
  length: int

  @property
  def widths(self) -> dict[str, int]:
    return {"text_width": self.width}

  def make(self, rngs: nnx.Rngs) -> "Nothing":
    return Nothing(self)


class NoTokens:
  """A tokenizer whose ids say nothing: one id 0 for every caption."""

  vocab = 1
  kind = "labels"  # captions of any length are one id

  def encode(
    self, texts: Sequence[str], length: int, truncate: bool = False
  ) -> tuple[np.ndarray, np.ndarray]:
    """ids int32 [n, length], mask bool [n, length]"""
    return np.zeros((len(texts), length), np.int32), np.ones((len(texts), length), bool)

  def lengths(self, texts: Sequence[str]) -> list[int]:
    return [1] * len(texts)


class Nothing(nnx.Module):
  """(ids [B, T] int32, mask [B, T] bool) -> Tower of zeros; it has no weights.

  SD3 without T5 is given these [2403.03206 sec. 5.3.3].
  """

  def __init__(self, config: NothingConfig):
    self.config = config

  def __call__(self, ids: jax.Array, mask: jax.Array, dtype=jnp.float32) -> Tower:
    c, rows = self.config, len(ids)
    return Tower(
      jnp.zeros((rows, c.length, c.width), dtype), jnp.ones((rows, c.length), bool), None
    )
