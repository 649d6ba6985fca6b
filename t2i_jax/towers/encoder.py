"""A text encoder: a network with its tokenizer, length and null."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from flax import nnx

from t2i_jax.models.conditioning import Tower


class Tokenizer(Protocol):
  """The interface of a tokenizer that encoders use; data.tokenize implements it."""

  vocab: int

  def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class TextEncoder:
  """One text encoder of a system.

  make       rngs -> the network: (ids [B, T] int32, mask [B, T] bool, dtype) -> models.Tower
  widths     fields of the backbone's config: text_width, pooled_width, or classes
  tokenizer  captions to ids
  length     T, maximum number of tokens of a caption, including begin and end
  after      what is done to the network's output
  null_text  caption of the null of classifier-free guidance
  """

  make: Callable[[nnx.Rngs], nnx.Module]
  config: Any
  widths: dict[str, int]
  tokenizer: Any
  length: int
  after: Callable[[Tower], Tower] = lambda tower: tower
  null_text: str = ""

  def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """ids [n, T] int32, mask [n, T] bool of n captions. Raises PromptError if one is too long."""
    return self.tokenizer.encode(list(texts), self.length)

  @property
  def null(self) -> tuple[np.ndarray, np.ndarray]:
    """(ids [1, T], mask [1, T]) of the null of classifier-free guidance."""
    return self.encode([self.null_text])


class Own(NamedTuple):
  """config.text: tokenizer, vocabulary and length for encoders trained with the model.

  vocab  rows of the embedding, at least the tokenizer's
  """

  tokenizer: Any
  vocab: int
  length: int

  def encoder(self, config: Any) -> TextEncoder:
    return TextEncoder(config.make, config, config.widths, self.tokenizer, self.length)
