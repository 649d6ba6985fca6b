"""New words of a text encoder: tokens whose rows of the embedding are learned [2208.01618].

The rows follow those of the encoder's own table, which stays as it is.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t2i_jax.errors import ConfigError, PromptError
from t2i_jax.models.params import Params, weight, zeros

TABLE = "embedding"  # the parameter of an encoder


class WithWords:
  """A tokenizer with further words: towers.encoder.Tokenizer. It can be pickled.

  words   as they stand in captions;   first: id of the first token of the first of them
  counts  of the tokens of each; by default one
  Raises ConfigError for a word that is a token already, and for a tokenizer that puts captions into
  a template, pads on the left or divides them into windows.
  """

  kind = "words"  # beside those of data.tokenize.Tokenizer

  def __init__(self, base: Any, words: Sequence[str], first: int, counts: Sequence[int] = ()):
    self.base, self.words, self.first = base, tuple(words), first
    ends = np.cumsum(counts or [1] * len(self.words)).tolist()
    starts = [0, *ends[:-1]]
    self.ids = {
      word: list(range(first + start, first + end))
      for word, start, end in zip(self.words, starts, ends, strict=True)
    }
    self.vocab = first + ends[-1]
    rule = getattr(base, "rule", None)
    plain = rule is None or rule.template == "{}"
    windows = getattr(base, "too_long", "") == "chunk"
    if base.kind == "labels" or not plain or windows or getattr(base, "side", "right") == "left":
      raise ConfigError(
        "words: this text encoder reads a caption in a template, from the left or in windows, or "
        "reads labels; a new word has no place there."
      )
    for word in self.words:
      if not word.strip() or word != word.strip():
        raise ConfigError(f"words: {word!r} is no word: write one without spaces around it.")
      if self.words.count(word) > 1 or len(self.plain(word)) == 1:
        raise ConfigError(f"words: {word!r} exists already. Choose another, as '<{word}>'.")

  @cached_property
  def ends(self) -> tuple[list[int], list[int]]:
    """The tokens that begin and end every caption."""
    empty, one = self._all(""), self._all("a")
    begin = 0
    while begin < len(empty) and empty[begin] == one[begin]:
      begin += 1
    return empty[:begin], empty[begin:]

  def _all(self, text: str) -> list[int]:
    ids, mask = self.base.encode([text], self.base.lengths([text])[0])
    return ids[0][mask[0]].tolist()

  def plain(self, text: str) -> list[int]:
    """The tokenizer's own ids of a text, without the tokens at both ends."""
    begin, end = self.ends
    found = self._all(text)
    return found[len(begin) : len(found) - len(end)]

  def _ids(self, text: str) -> list[int]:
    """Of a text that has one of the words: what is between them is read by itself."""
    begin, end = self.ends
    found = list(begin)
    longest_first = sorted(self.words, key=len, reverse=True)
    for piece in re.split(f"({'|'.join(map(re.escape, longest_first))})", text):
      if piece in self.ids:
        found += self.ids[piece]
      elif piece.strip():
        found += self.plain(piece.strip())
    return [*found, *end]

  def _has(self, text: str) -> bool:
    return any(word in text for word in self.words)

  def lengths(self, texts: Sequence[str]) -> list[int]:
    plain = self.base.lengths(["" if self._has(text) else text for text in texts])
    return [
      len(self._ids(text)) if self._has(text) else count
      for text, count in zip(texts, plain, strict=True)
    ]

  def encode(
    self, texts: Sequence[str], length: int, truncate: bool = False
  ) -> tuple[np.ndarray, np.ndarray]:
    """As the tokenizer itself where a text has none of the words."""
    given = ["" if self._has(text) else text for text in texts]
    ids, mask = (np.array(x) for x in self.base.encode(given, length, truncate))
    truncate = truncate or getattr(self.base, "too_long", "error") == "truncate"
    for row, text in enumerate(texts):
      if not self._has(text):
        continue
      found, end = self._ids(text), self.ends[1]
      if len(found) > length and not truncate:
        raise PromptError(
          f"{text[:120]!r} has {len(found)} tokens, more than {length}. Shorten it."
        )
      if len(found) > length:
        found = [*found[: length - len(end)], *end]
      ids[row, : len(found)] = found
      mask[row] = np.arange(length) < len(found)
    return ids, mask

  def decode(self, ids: Sequence[int]) -> str:
    """The words among ids stand where they are."""
    begins = {own[0]: word for word, own in self.ids.items()}
    texts, run = [], list[int]()
    for i in [*ids, self.first]:
      if i < self.first:
        run.append(i)
        continue
      texts += [self.base.decode(run).strip()] if run else []
      texts, run = [*texts, *([begins[i]] if i in begins else [])], []
    return " ".join(texts[:-1])


class NewWords(nnx.Module):
  """What is learned: rows [words, D], each added to the row that its word begins at."""

  def __init__(self, words: int, width: int, rngs: nnx.Rngs) -> None:
    self.rows = weight(rngs, (words, width), (None, "embed"), zeros)


def rows_of(own: Params, base: Params, start: np.ndarray) -> jax.Array:
  """The embeddings of new words.   # [words, D]

  own, base  parameters of NewWords and of the encoder;   start: ids of the words they begin at
  """
  table = jax.lax.stop_gradient(base[TABLE])
  return jnp.mean(table[start], axis=0) + own["rows"].astype(table.dtype)
