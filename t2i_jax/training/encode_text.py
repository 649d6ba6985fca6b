"""Captions to features of frozen text encoders, a fixed number at once: the entries of
`t2i data encode --config`."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.data import pieces
from t2i_jax.data.batch import Features
from t2i_jax.data.features import StoredText, Texts, ids_hash
from t2i_jax.data.record import Record
from t2i_jax.data.source import ShardSource, manifest_hash
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError, DataError, NotFinite, PromptError
from t2i_jax.models import abstract_of, with_params
from t2i_jax.models.conditioning import Tower
from t2i_jax.models.params import Params
from t2i_jax.parallel import batch_sharding, make_mesh
from t2i_jax.systems import System, make_system
from t2i_jax.systems.parts import split_start
from t2i_jax.towers import TextEncoder
from t2i_jax.training.checksum import fingerprint
from t2i_jax.training.restore import load_starts
from t2i_jax.training.state import abstract_params

COUNTED = 1024  # records whose tokens are counted, for the size
LOOKED_AT = 16  # records whose captions tell one tokenizer from another


class Captions:
  """The entry of each caption by one encoder: assemble.Entries. Instructions have none.

  A caption that is too long is cut, as config.text.too_long = "truncate" does: where a run refuses
  it, or takes another caption, its features are not read.
  """

  kind = pieces.TEXT

  def __init__(
    self,
    name: str,
    encoder: TextEncoder,
    params: Params,
    stored: StoredText,
    mesh: Mesh,
    batch: int,
  ):
    self.name, self.encoder, self.stored = name, encoder, stored
    self.what = f"captions by {name!r}"
    self.params, self.rows, self.put = params, batch * mesh.size, batch_sharding(mesh)
    where = jax.tree.map(lambda leaf: leaf.sharding, params)
    self._run: Any = jax.jit(
      lambda *given: _output(encoder, *given), in_shardings=(where, self.put, self.put)
    )

  def size(self, sources: dict[str, ShardSource]) -> tuple[int, str]:
    """Bytes of all entries, and a line about them; of many records those of some, scaled."""
    stored, total = self.stored, sum(map(len, sources.values()))
    looked = [
      record
      for source in sources.values()
      for record in source.spread(-(-COUNTED * len(source) // total))
    ]
    ids = _ids(self.encoder, [text for record in looked for text in record.captions])
    each = float(_counted(self.encoder, np.stack([mask for _, mask in ids])).sum() / len(ids))
    count = round(len(ids) * total / len(looked))
    size = round(count * stored.entry_bytes(each))
    about = "" if len(looked) == total else "about "
    pooled = f", and {stored.pooled} pooled" if stored.pooled else ""
    return size, (
      f"features by {self.name!r}, {stored.width} a token{pooled}, {stored.dtype}: {about}"
      f"{count:,} captions of {each:.1f} tokens, at most {stored.length}, of "
      f"{stored.entry_bytes(each):,.0f} bytes, {size / 1e9:.3g} GB"
    )

  def null(self) -> Features:
    """Of the null of guidance, without the axis B."""
    ids, mask = self.encoder.null
    found = self.run([(ids[0], mask[0])])
    return jax.tree.map(lambda x: np.asarray(x)[0], found)

  def wanted(self, record: Record) -> list[tuple[bytes, Any]]:
    try:
      return [(self.stored.key(*one), one) for one in _ids(self.encoder, record.captions)]
    except PromptError as error:
      raise DataError(f"record {record.key!r}: its caption {error}") from error

  def row(self, name: str, of: Any) -> Any:
    return of

  def run(self, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> Any:
    """At most `rows` captions, the null in place of those that are missing."""
    ids, mask = (np.repeat(x, self.rows, axis=0) for x in self.encoder.null)
    for i, (one, its_mask) in enumerate(rows):
      ids[i], mask[i] = one, its_mask
    return self._run(self.params, *(jax.device_put(x, self.put) for x in (ids, mask)))

  def entries(self, result: Features, names: Sequence[str]) -> list[bytes]:
    found = jax.tree.map(np.asarray, result)
    return [
      self._entry(jax.tree.map(lambda x, i=i: x[i], found), name) for i, name in enumerate(names)
    ]

  def _entry(self, one: Features, name: str) -> bytes:
    with np.errstate(over="ignore"):
      cast = one._replace(tokens=one.tokens.astype(self.stored.dtype))
      if one.pooled is not None:
        cast = cast._replace(pooled=one.pooled.astype(self.stored.dtype))
    numbers = lambda of: [of.tokens[of.mask], *([] if of.pooled is None else [of.pooled])]
    if not all(np.isfinite(x).all() for x in numbers(cast)):
      finite = all(np.isfinite(x).all() for x in numbers(one))
      hint = "--text-dtype=float32" if finite else f"other weights than {self.stored.start!r}"
      raise NotFinite(
        f"the features of record {name!r} by {self.name!r} are not finite as "
        f"{self.stored.dtype}. Use {hint}."
      )
    return self.stored.pack(cast)

  def applied(self, record: Record, entries: Sequence[bytes]) -> Record:
    before = record.features or ({},) * len(record.captions)
    features = tuple(old | {self.name: entry} for old, entry in zip(before, entries, strict=True))
    return dataclasses.replace(record, features=features)


def text_entries(
  c: ConfigDict, data: Path, sources: dict[str, ShardSource], dtype: str, batch: int
) -> tuple[list[Captions], Texts]:
  """The frozen text encoders of a config, with their weights.

  data  the built folder, of which `sources` are splits
  Raises ConfigError where there is none, or one cannot be stored; RestoreError for its weights.
  """
  system = make_system(c, Tokenizer.load(data, c.text.tokenizer))
  names = tuple(name for name in system.text if name in system.parts and _frozen(system, name))
  if not names:
    kinds = ", ".join(
      f"parts.{n}.train = {c.parts[n].train!r}" for n in system.text if n in c.parts
    )
    raise ConfigError(
      f"--config of {c.name}: no text encoder is frozen and has a start ({kinds or 'none'}), so "
      "that none has features to store. Set parts.<encoder>.train='none' and "
      "parts.<encoder>.start='folder:PATH'."
    )
  for name in names:
    if system.text[name].shown is not None:
      raise ConfigError(
        f"text.towers.{name} sees images: what it gives for a caption is not that of another "
        "image. Its features are not stored; use a config without it."
      )
    if split_start(system.parts[name].start, "")[0] == "run" and jax.process_count() > 1:
      raise ConfigError(
        f"parts.{name}.start = {system.parts[name].start!r}: one process alone encodes with the "
        f"weights of a run. Write them first: t2i export --part={name}."
      )
  mesh = make_mesh(devices=jax.local_devices())
  abstract = abstract_params(system, mesh)
  params = load_starts(system, abstract, names)
  looked = looked_at(next(iter(sources.values())))
  made, encoders = [], {}
  for name in names:
    if traverse_util.flatten_dict(params[name]).keys() != set(
      traverse_util.flatten_dict(abstract[name])
    ):
      raise ConfigError(
        f"parts.{name}.start = {system.parts[name].start!r} has not all weights of the encoder; "
        "the others would be random. Give a start with all of them."
      )
    encoder, start = system.text[name], system.parts[name].start
    weights = fingerprint({name: params[name]})[name]
    encoders[name] = stored_text(encoder, start, weights, looked, dtype)
    made.append(Captions(name, encoder, params[name], encoders[name], mesh, batch))
  return made, Texts(str(data.resolve()), manifest_hash(data), batch, encoders)


def _frozen(system: System, name: str) -> bool:
  return system.parts[name].train == "none" and bool(system.parts[name].start)


def stored_text(
  encoder: TextEncoder, start: str, weights: str, captions: Sequence[str], dtype: str
) -> StoredText:
  """What is stored of an encoder.   captions: those by which its tokenizer is known again"""
  ids, mask = encoder.null
  out = jax.eval_shape(partial(_output, encoder), abstract_of(encoder.make), ids, mask)
  padding = bool(np.any(_counted(encoder, np.zeros_like(mask))))
  return StoredText(
    start=start,
    weights=weights,
    config=f"{encoder.config}{', padding counts' if padding else ''}",
    ids=ids_hash([(ids[0], mask[0]), *_ids(encoder, captions)]),
    limit=encoder.length,
    length=out.tokens.shape[1],
    width=out.tokens.shape[2],
    pooled=0 if out.pooled is None else out.pooled.shape[1],
    dtype=dtype,
  )


def looked_at(source: ShardSource) -> list[str]:
  """Captions by which a tokenizer is known again.   source: the first split of a folder"""
  return [text for record in source.spread(LOOKED_AT) for text in record.captions]


def _counted(encoder: TextEncoder, mask: np.ndarray) -> np.ndarray:
  """Which tokens of the output count, by the mask of the ids: [M, T] each. No network is run."""
  empty = Tower(jnp.zeros((*mask.shape, 1)), jnp.asarray(mask), None)
  return np.asarray(encoder.after(empty).mask)


def _output(encoder: TextEncoder, params: Params, ids: jax.Array, mask: jax.Array) -> Features:
  """ids [M, T], mask [M, T] -> what the backbone is given, float32."""
  tower = encoder.after(with_params(encoder.make)(params)(ids, mask, jnp.float32))
  return Features(*tower)


def _ids(encoder: TextEncoder, captions: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
  ids, mask = encoder.tokenizer.encode(list(captions), encoder.length, True)
  return list(zip(ids, mask, strict=True))
