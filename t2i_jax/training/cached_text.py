"""Training on stored features of text encoders: which encoders they replace in the step, and that
they are not stale."""

import dataclasses
from typing import Any, TypeVar

from ml_collections import ConfigDict

from t2i_jax.data.features import (
  Cached,
  Texts,
  check_captions,
  encode_text_again,
  read_nulls,
  texts_of,
)
from t2i_jax.data.source import ShardSource, read_manifest
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.systems import System
from t2i_jax.training.cached import check_not_adapted
from t2i_jax.training.encode_text import looked_at, stored_text

Kind = TypeVar("Kind", bound=System)
# Fields of a StoredText that the config decides, and what sets them.
DECIDED = {
  "config": "the network",
  "limit": "the length",
  "length": "the tokens of its output",
  "width": "the width of its tokens",
  "pooled": "the width of its pooled vector",
  "ids": "the hash of its token ids",
}


def reading_text(system: Kind, c: ConfigDict) -> tuple[Kind, list[str]]:
  """The system as it reads the data: the features in config.data.dir in place of its frozen text
  encoders; and lines for the log about those that are not read.

  Raises ConfigError, DataError where they are not those that the config's encoders would give,
  weights aside, and for an encoder that is adapted.
  """
  texts = texts_of(c.data.dir)
  own = {name: encoder for name, encoder in system.text.items() if name in system.parts}
  if texts is None or not own:
    return system, []
  check_captions(c.data.dir, texts)
  manifest = read_manifest(c.data.dir)
  captions = looked_at(ShardSource(c.data.dir, next(iter(manifest["splits"]))))
  nulls, cached = read_nulls(c.data.dir, texts), {}
  for name, stored in texts.encoders.items():
    if name not in own:
      continue
    if system.parts[name].train != "none":
      raise ConfigError(
        f"parts.{name}.train = {system.parts[name].train!r}: {c.data.dir} holds features of "
        f"{name!r} with fixed weights, so that it is not trained. Use parts.{name}.train='none', "
        f"or {texts.data} itself."
      )
    check_not_adapted(system, name, c.data.dir)
    now = stored_text(own[name], stored.start, stored.weights, captions, stored.dtype)
    for field, what in DECIDED.items():
      before, here = getattr(stored, field), getattr(now, field)
      if before != here:
        raise DataError(
          f"{c.data.dir} holds features of {name!r} of which {what} is {before}, and "
          f"text.towers.{name} = {c.text.towers[name]!r} has {here}. "
          f"{encode_text_again(c.data.dir, texts)}"
        )
    cached[name] = Cached(stored, nulls[name])
  return dataclasses.replace(system, cached=cached), _notes(c, texts, own, cached)


def _notes(
  c: ConfigDict, texts: Texts, own: dict[str, Any], cached: dict[str, Cached]
) -> list[str]:
  folder, said = c.data.dir, []
  for name in own:
    if name in cached:
      said.append(f"text.towers.{name}: its output for captions is read from {folder}")
    elif c.parts[name].train == "none":
      said.append(f"text.towers.{name} is frozen and runs in each step: {folder} has no features")
  unused = [name for name in texts.encoders if name not in own]
  if unused:
    said.append(f"{folder} has features of {', '.join(unused)}, which text.towers does not name")
  return said


def check_text_weights(c: ConfigDict, system: System, frozen: dict[str, str]) -> None:
  """Raises DataError where features are of other weights than the run draws with.

  frozen  training.checksum.fingerprint by part
  """
  for name, (stored, _) in system.cached.items():
    if frozen[name] != stored.weights:
      start = c.parts[name].start or "random weights"
      raise DataError(
        f"{c.data.dir} holds features of {name!r} with the weights {stored.weights} "
        f"({stored.start}), and parts.{name}.start = {start!r} has {frozen[name]}: the model would "
        f"be drawn with another text than it is trained with. Let parts.{name}.start be the "
        "former, or encode the captions with the latter."
      )
