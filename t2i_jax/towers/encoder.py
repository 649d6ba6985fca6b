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


class Images(Protocol):
  """The images of captions; towers.shown implements it."""

  def for_backbone(self, images: np.ndarray) -> np.ndarray: ...

  def encode(
    self, texts: Sequence[str], images: Sequence[np.ndarray], length: int
  ) -> tuple[Any, ...]: ...


@dataclass(frozen=True)
class TextEncoder:
  """One text encoder of a system.

  make       rngs -> the network: (ids [B, T] int32, mask [B, T] bool, dtype) -> models.Tower; one
             that sees images takes them, too
  widths     fields of the backbone's config: text_width, pooled_width, or classes
  tokenizer  captions to ids
  length     T, maximum number of tokens of a caption, including begin and end
  after      what is done to the network's output
  null_text  caption of the null of classifier-free guidance
  null_zeros that caption has no tokens: its mask is False, of which `after` makes zeros
  shown      images that its captions have, for an encoder that sees them; None: there are none
  """

  make: Callable[[nnx.Rngs], nnx.Module]
  config: Any
  widths: dict[str, int]
  tokenizer: Any
  length: int
  after: Callable[[Tower], Tower] = lambda tower: tower
  null_text: str = ""
  null_zeros: bool = False
  shown: Images | None = None

  def encode(self, texts: Sequence[str], images: Sequence[np.ndarray] = ()) -> tuple[Any, ...]:
    """ids [n, T] int32, mask [n, T] bool of n captions; and the images, where it sees them.

    images  [n, H, W, 3] uint8, each in all of the captions; T is larger by their tokens
    Raises PromptError for a caption that is too long, ConfigError where images are needed.
    """
    if self.shown is not None:
      return self.shown.encode(list(texts), images, self.length)
    ids, mask = self.tokenizer.encode(list(texts), self.length)
    if self.null_zeros:
      mask = mask & np.array([text != self.null_text for text in texts])[:, None]
    return ids, mask

  @property
  def null(self) -> tuple[Any, ...]:
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
