"""A text encoder: a network, and the tokenizer, length and null that belong to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from flax import nnx


class Tokenizer(Protocol):
  """What an encoder needs of one: data.tokenize has ours."""

  vocab: int

  def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class TextEncoder:
  """One text encoder of a system.

  make       the network: (ids [B, T] int32, mask [B, T] bool, dtype) -> models.Tower
  widths     what a backbone is built for: text_width, pooled_width, or classes
  tokenizer  captions to ids
  length     T, tokens a caption may have, its begin and end counted
  """

  make: Callable[[nnx.Rngs], nnx.Module]
  config: Any
  widths: dict[str, int]
  tokenizer: Any
  length: int

  def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """ids [n, T] int32 and mask [n, T] bool of n captions. Raises PromptError for one too long."""
    return self.tokenizer.encode(list(texts), self.length)

  @property
  def null(self) -> tuple[np.ndarray, np.ndarray]:
    """(ids [1, T], mask [1, T]) of "", the null of classifier-free guidance."""
    return self.encode([""])


class Own(NamedTuple):
  """What a data set gives the encoders that are trained on it: config.text.

  vocab  of the encoder's table, at least the tokenizer's
  """

  tokenizer: Any
  vocab: int
  length: int

  def encoder(self, config: Any) -> TextEncoder:
    return TextEncoder(config.make, config, config.widths, self.tokenizer, self.length)
