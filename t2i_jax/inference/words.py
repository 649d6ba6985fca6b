"""Files of new words with published models: their rows follow those of the encoders' embeddings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.models.params import Params, abstract_of
from t2i_jax.pretrained.embeddings import NewWord, read_embeddings
from t2i_jax.systems import System
from t2i_jax.towers import T5Config
from t2i_jax.towers.words import TABLE, WithWords

Given = Sequence[tuple[str, str]]  # a file, and what to call its word or ""
Rows = Mapping[str, np.ndarray]  # of each text encoder, [n, D], after those of its own table


def with_embeddings(system: System, given: Given) -> tuple[System, Rows]:
  """The system whose tokenizers know the words of files, and the rows of these.

  Raises RestoreError for a file that cannot be read; ConfigError for one of another model, for a
  word that is a token already, and for encoders that take no new words.
  """
  if not given:
    return system, {}
  widths = _widths(system)
  found: dict[str, dict[str, np.ndarray]] = {}
  for path, word in given:
    for one in read_embeddings(path, word):
      name = _encoder_of(path, one, system, widths)
      if one.word in found.setdefault(name, {}):
        raise ConfigError(f"--embedding={path}: {one.word!r} of {name} is in another file, too.")
      found[name][one.word] = one.rows
  text = dict(system.text)
  for name, words in found.items():
    table = abstract_of(system.parts[name].make)[TABLE]
    counts = [len(rows) for rows in words.values()]
    own = WithWords(text[name].tokenizer, tuple(words), table.shape[0], counts)
    text[name] = replace(text[name], tokenizer=own)
  return replace(system, text=text), {n: np.concatenate([*w.values()]) for n, w in found.items()}


def with_rows(params: Params, rows: np.ndarray | None) -> Params:
  """The weights of an encoder with further rows of its embedding, in its dtype."""
  if rows is None:
    return params
  table = params[TABLE]
  return params | {TABLE: jnp.concatenate([table, jnp.asarray(rows, table.dtype)])}


def _widths(system: System) -> dict[str, int]:
  """The width of the embedding of every encoder that has one of its own."""
  tables: dict[str, Any] = {
    name: abstract_of(system.parts[name].make).get(TABLE)
    for name in system.text
    if name in system.parts
  }
  return {name: table.shape[1] for name, table in tables.items() if table is not None}


def _encoder_of(path: str, one: NewWord, system: System, widths: Mapping[str, int]) -> str:
  """The text encoder that a word of a file is of: as the file says, or by its width."""
  there = ", ".join(f"{name} of width {width}" for name, width in widths.items()) or "none"
  width = one.rows.shape[1]
  fits = [name for name in widths if widths[name] == width]
  if one.encoder:
    fits = [name for name in fits if _kind(name, system.parts[name].config) == one.encoder]
  said = f"{one.encoder} of width {width}" if one.encoder else f"width {width}"
  if not fits:
    raise ConfigError(
      f"--embedding={path}: {one.word!r} has an embedding of {said}, and the text encoders that "
      f"take new words are {there}: it is of another model."
    )
  if len(fits) > 1:
    raise ConfigError(
      f"--embedding={path}: {one.word!r} has an embedding of {said}, which {' and '.join(fits)} "
      "have. Name its tensor clip_l, clip_g or t5."
    )
  return fits[0]


def _kind(name: str, config: Any) -> str:
  """What files call an encoder of a pipeline."""
  if isinstance(config, T5Config):
    return "t5"
  return "clip_g" if name.endswith("_2") else "clip_l"
