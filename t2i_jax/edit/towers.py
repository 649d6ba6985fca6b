"""From the tokens of text encoders to the places of the backbone's text, where they are joined."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.edit.words import Alignment, Tokenized, align, columns, equalizer, tokenized
from t2i_jax.errors import ConfigError
from t2i_jax.models.conditioning import Tower


class Place(NamedTuple):
  """Where the text tower's places come from.   # [T] int

  encoder  number of the encoder, in the order of their names; -1: of none
  token    which of the tokens that it encodes
  """

  encoder: np.ndarray
  token: np.ndarray


def places_of(system: Any) -> Place:
  """The source of each place of the tower "text", found by joining numbered tokens.

  Tokens at the beginning that an encoder cuts off (a template) have no place. Where encoders lie
  side by side a place is that of the first. Raises ConfigError for text without tokens.
  """
  nulls = {name: encoder.null for name, encoder in system.text.items()}
  if any(encoder.shown is not None for encoder in system.text.values()):
    raise ConfigError("this model's text encoder sees images: its attention is not edited.")
  towers = jax.eval_shape(system.towers, system.abstract, nulls)
  numbered, first = {}, 1  # 0: a token of none
  starts = []
  for name, tower in towers.items():
    length = nulls[name][0].shape[1]
    shape = tower.tokens.shape
    if not jnp.issubdtype(tower.tokens.dtype, jnp.floating):
      raise ConfigError("this model's text is a class: it has no tokens whose attention is edited.")
    numbers = first + length - shape[1] + jnp.arange(shape[1], dtype=jnp.float32)
    pooled = None if tower.pooled is None else jnp.zeros(tower.pooled.shape)
    tokens = jnp.broadcast_to(numbers[None, :, None], shape)
    numbered[name] = Tower(tokens, jnp.ones(tower.mask.shape, bool), pooled)
    starts.append(first)
    first += length
  joined = system.join.towers(numbered).get("text")
  if joined is None or joined.tokens.shape[1] < 2:
    raise ConfigError("this model's text has no tokens whose attention is edited.")
  found = np.asarray(joined.tokens)[0, :, 0].astype(int)
  encoder = np.searchsorted(starts, found, side="right") - 1  # -1 where found is 0
  token = np.where(encoder < 0, 0, found - np.array(starts)[np.maximum(encoder, 0)])
  return Place(encoder, token)


class Texts(NamedTuple):
  """Prompts as each encoder reads them, by place of the backbone's text.

  prompts  of each encoder, or None where it has no place
  """

  place: Place
  prompts: tuple[Tokenized | None, ...]

  def _placed(self, of_encoder: Any, shape: tuple[int, ...], value: float) -> np.ndarray:
    """Arrays [L, ...] of encoders, at the places.   # [T, ...]"""
    found = np.full((len(self.place.encoder), *shape), value, np.float32)
    for i, prompt in enumerate(self.prompts):
      at = self.place.encoder == i
      if prompt is not None and at.any():
        found[at] = of_encoder(prompt)[self.place.token[at]]
    return found

  def equalizer(self, scales: Mapping[str, float]) -> np.ndarray:
    """words.equalizer of every encoder.   # [T]"""
    return self._placed(lambda prompt: equalizer(prompt, scales), (), 1)

  def columns(self, words: Sequence[str]) -> np.ndarray:
    """words.columns of every encoder.   # [T, K]"""
    return self._placed(lambda prompt: columns(prompt, words), (len(words),), 0)

  @property
  def words(self) -> list[str]:
    """Those of the prompt, each once."""
    first = next(prompt for prompt in self.prompts if prompt is not None)
    return list(dict.fromkeys(word.text for word in first.words))


def read(system: Any, place: Place, prompt: str) -> Texts:
  """A prompt as the encoders read it whose tokens the backbone attends to. Raises PromptError."""
  each = enumerate(system.text.values())
  used = lambda i: bool(np.any(place.encoder == i))
  return Texts(place, tuple(
    tokenized(one.tokenizer, prompt, one.length) if used(i) else None for i, one in each
  ))  # fmt: skip


def aligned(source: Texts, target: Texts, kind: str = "") -> Alignment:
  """words.align of every encoder, at the places.   # mapper [T, T], own [T]

  A place of no encoder is the same place of the other prompt.
  """
  place = source.place
  mapper = np.diag((place.encoder < 0).astype(np.float32))
  for i, (old, new) in enumerate(zip(source.prompts, target.prompts, strict=True)):
    if old is not None and new is not None:
      at = np.flatnonzero(place.encoder == i)
      token = place.token[at]
      mapper[np.ix_(at, at)] = align(old, new, kind).mapper[np.ix_(token, token)]
  return Alignment(mapper, (mapper.sum(axis=1) == 0).astype(np.float32))
