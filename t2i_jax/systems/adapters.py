"""Adapters of a model's parts: what is trained in place of a part's weights.

    config.adapters.lora = "lora(of='backbone', rank=4)"
    config.parts.lora = {}          the part that they are
    config.parts.backbone = {"start": "run:runs/scenes_dit_flow", "train": "none"}

or new words of a text encoder, "words(of='text', tokens=('<ki>',), start='circle')", or tokens that
it has, "embeddings(of='text', texts=('a grum circle',), beside=('a circle',))". They are bound
where a network is built with its weights (System.module), and `merged` into these for inference.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from t2i_jax.config import build
from t2i_jax.errors import ConfigError
from t2i_jax.models.adapters import Adapters, merge_adapters
from t2i_jax.models.lora import (
  ATTENTION,
  Alpha,
  Dropout,
  LoRA,
  LoRAConfig,
  Masks,
  adapters_of,
)
from t2i_jax.models.params import Params, abstract_of, axes_of
from t2i_jax.ranges import Range, Width
from t2i_jax.systems.parts import Part
from t2i_jax.towers import TextEncoder
from t2i_jax.towers.words import TABLE, NewWords, WithWords, rows_of


class Adapted(Protocol):
  """Adapters of a part of a system, the part `of`."""

  @property
  def of(self) -> str: ...

  def part(self) -> Part:
    """The part that they are."""

  def bind(self, own: Params, base: Params) -> tuple[Params, Adapters | None]:
    """Parameters of the adapted part, and side paths.   own, base: of the adapters, of that part"""

  def merge(self, own: Params, base: Params) -> Params:
    """Parameters of the adapted part with which it needs no adapters."""


@dataclass(frozen=True)
class LowRank:
  """LoRA.   make: of the part that is adapted;   masks: of the step of `in_training`"""

  of: str
  config: LoRAConfig
  make: Callable[[nnx.Rngs], nnx.Module]
  masks: Masks | None = None

  def part(self) -> Part:
    return Part(partial(LoRA, self.config, self.make), self.config)

  def adapters(self, own: Params, base: Params) -> Adapters:
    return adapters_of(self.config, self.make, own, base, self.masks)

  def bind(self, own: Params, base: Params) -> tuple[Params, Adapters | None]:
    return base, self.adapters(own, base)

  def merge(self, own: Params, base: Params) -> Params:
    return merge_adapters(base, self.adapters(own, base))


@dataclass(frozen=True)
class Words:
  """New words of a text encoder.

  tokens  as they stand in captions;   width: of an embedding
  start   ids of the word that all of them begin at
  tokenizer  of the encoder, with these words
  """

  of: str
  tokens: tuple[str, ...]
  width: int
  start: tuple[int, ...]
  tokenizer: WithWords

  def part(self) -> Part:
    return Part(partial(NewWords, len(self.tokens), self.width))

  def rows(self, own: Params, base: Params) -> jax.Array:
    """The embeddings of the words.   # [words, width]"""
    return rows_of(own, base, np.array(self.start))

  def bind(self, own: Params, base: Params) -> tuple[Params, Adapters | None]:
    return base | {TABLE: jnp.concatenate([base[TABLE], self.rows(own, base)])}, None

  def merge(self, own: Params, base: Params) -> Params:
    return self.bind(own, base)[0]


@dataclass(frozen=True)
class Embeddings:
  """Learned changes of the embeddings of tokens that a text encoder has.

  ids  of the tokens;   width: of an embedding
  """

  of: str
  ids: tuple[int, ...]
  width: int

  def part(self) -> Part:
    return Part(partial(NewWords, len(self.ids), self.width))

  def bind(self, own: Params, base: Params) -> tuple[Params, Adapters | None]:
    table = base[TABLE]
    return base | {TABLE: table.at[np.array(self.ids)].add(own["rows"].astype(table.dtype))}, None

  def merge(self, own: Params, base: Params) -> Params:
    return self.bind(own, base)[0]


Encoders = Mapping[str, TextEncoder]
Texts = Annotated[tuple[str, ...], Range("[1, 1024]")]


def lora(
  parts: Mapping[str, Part],
  text: Encoders,
  of: str = "backbone",
  rank: Width = 4,
  alpha: Alpha = 0.0,
  targets: tuple[str, ...] = ATTENTION,
  dora: bool = False,
  dropout: Dropout = 0.0,
) -> LowRank:
  """of: the part that is adapted;   the others: models.lora.LoRAConfig. Raises ConfigError."""
  if of not in parts:
    raise ConfigError(f"of = {of!r} is not one of the parts {', '.join(parts)}.")
  if dropout and of != "backbone":
    raise ConfigError(
      f"dropout = {dropout:g}: of = {of!r}. Only adapters of the backbone have dropout, whose rows "
      "are those of the batch. Use dropout=0."
    )
  return LowRank(of, LoRAConfig(rank, alpha, targets, dora, dropout), parts[of].make)


def words(
  parts: Mapping[str, Part],
  text: Encoders,
  tokens: Texts,
  start: str,
  of: str = "text",
) -> Words:
  """New words of a text encoder [2208.01618].

  tokens  how they are written in captions, as ("<ki>",);   start: the word that they begin at
  Raises ConfigError.
  """
  table = _table(parts, text, of)
  tokenizer = WithWords(text[of].tokenizer, tokens, table.shape[0])
  begins = tuple(tokenizer.plain(start))
  if not begins:
    raise ConfigError(f"start = {start!r} has no token: give the word of its class.")
  return Words(of, tokens, table.shape[1], begins, tokenizer)


def embeddings(
  parts: Mapping[str, Part],
  text: Encoders,
  texts: Texts,
  beside: Annotated[tuple[str, ...], Range("[0, 1024]")] = (),
  of: str = "text",
) -> Embeddings:
  """The embeddings of the tokens that `texts` have and none of `beside` has. Raises ConfigError."""
  table = _table(parts, text, of)
  read = lambda many: {i for one in many for i in _ids(text[of], one)}
  ids = tuple(sorted(read(texts) - read(["", *beside])))
  if not ids:
    raise ConfigError(
      f"of = {of!r}: it reads no token in {texts} that is not in {beside}: there is no embedding "
      "that is theirs alone."
    )
  return Embeddings(of, ids, table.shape[1])


def _ids(encoder: TextEncoder, text: str) -> list[int]:
  ids, mask = encoder.tokenizer.encode([text], encoder.length)
  return ids[0][mask[0]].tolist()


def _table(parts: Mapping[str, Part], text: Encoders, of: str) -> Any:
  """The embedding of a text encoder, as a ShapeDtypeStruct. Raises ConfigError."""
  if of not in text or of not in parts:
    able = ", ".join(name for name in text if name in parts) or "none"
    raise ConfigError(f"of = {of!r} is no text encoder with weights: there are {able}.")
  table = abstract_of(parts[of].make).get(TABLE)
  if table is None:
    raise ConfigError(f"of = {of!r}: its embedding is inside of another network.")
  return table


# By the name in config.adapters.
ADAPTERS: dict[str, Callable[..., Adapted]] = {
  "lora": lora,
  "words": words,
  "embeddings": embeddings,
}
FOLDED = ("lora", "embeddings")  # those of which nothing is left once they are merged


def make_adapters(c: ConfigDict, parts: Mapping[str, Part], text: Encoders) -> dict[str, Adapted]:
  """Those that config.adapters names, by the names of their parts. Raises ConfigError."""
  found, adapted = dict[str, Adapted](), dict[str, str]()
  for name, choice in c.get("adapters", {}).items():
    where = f"adapters.{name}"
    if name in parts:
      raise ConfigError(f"{where}: there is a part of this name. Use another.")
    one = found[name] = build(ADAPTERS, choice, where, parts, text)
    if one.of in adapted:
      raise ConfigError(
        f"{where} = {choice!r}: adapters.{adapted[one.of]} adapts {one.of}, too. One is trained at "
        "a time; merge the other with t2i merge."
      )
    adapted[one.of] = name
    try:
      axes_of(one.part().make)
    except ConfigError as error:
      raise ConfigError(f"{where} = {choice!r}: {error}") from error
  return found


def with_words(text: Encoders, adapters: Mapping[str, Adapted]) -> dict[str, TextEncoder]:
  """The text encoders, those with new words with a tokenizer that knows them."""
  known = {one.of: one.tokenizer for one in adapters.values() if isinstance(one, Words)}
  return {
    name: replace(one, tokenizer=known[name]) if name in known else one
    for name, one in text.items()
  }


def bound(
  adapters: Mapping[str, Adapted], params: Params, part: str
) -> tuple[Params, Adapters | None]:
  """The parameters of a part as its adapters make them, and side paths."""
  for name, one in adapters.items():
    if one.of == part and name in params:
      return one.bind(params[name], params[part])
  return params.get(part, {}), None


def with_adapters(system: Any, names: Collection[str]) -> tuple[str, ...]:
  """Parts, and the adapters of each."""
  return (*names, *(name for name, one in system.adapters.items() if one.of in names))


def in_training(system: Any, masks: Masks) -> Any:
  """The system as a training step has it: with the dropout of its adapters."""
  dropping = {
    name: replace(one, masks=masks)
    for name, one in system.adapters.items()
    if isinstance(one, LowRank) and one.config.dropout
  }
  return replace(system, adapters=system.adapters | dropping) if dropping else system


def merged_in(c: ConfigDict) -> tuple[str, ...]:
  """The adapters of a run's config that its weights are read with, where another run starts from
  it (`as_start`): by name."""
  kinds = {name: choice.partition("(")[0] for name, choice in c.get("adapters", {}).items()}
  return tuple(name for name, kind in kinds.items() if kind in FOLDED)


def as_start(system: Any, params: Params, part: str) -> Params:
  """The weights of a part of a run where another run starts from it: its adapters are merged into
  them, but new words."""
  for name, one in system.adapters.items():
    if one.of == part and not isinstance(one, Words):
      return one.merge(params[name], params[part])
  return params[part]


def without(system: Any) -> Any:
  """The system for `merged` parameters: what was adapted counts as trained."""
  if not system.adapters:
    return system
  adapted = {one.of for one in system.adapters.values()}
  parts = {
    name: part._replace(train="all") if name in adapted else part
    for name, part in system.parts.items()
    if name not in system.adapters
  }
  return replace(system, parts=parts, adapters={})


def merged(system: Any, params: Params) -> Params:
  """The parameters of `without(system)`: adapters multiplied out, in float32."""
  found = {name: tree for name, tree in params.items() if name not in system.adapters}
  for name, one in system.adapters.items():
    found[one.of] = one.merge(params[name], found[one.of])
  return found
