"""From pieces of entries to a finished folder: shards as those of the data, keys, manifest."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jax

from t2i_jax import __version__
from t2i_jax.data import pieces as stored
from t2i_jax.data.claim import ATTRIBUTION, TOKENIZER, put_in_place
from t2i_jax.data.pieces import KINDS, Before, packed_keys
from t2i_jax.data.provenance import copy_provenance
from t2i_jax.data.record import Record
from t2i_jax.data.shards import write_shard
from t2i_jax.data.source import MANIFEST, PROVENANCE, ShardSource
from t2i_jax.errors import DataError


class Entries(Protocol):
  """What is stored for the images or the captions of records, one entry each.

  kind  of data.pieces.KINDS;   what: is encoded, for messages;   rows: are encoded at once
  """

  kind: str
  what: str
  rows: int

  def size(self, sources: dict[str, ShardSource]) -> tuple[int, str]: ...

  def wanted(self, record: Record) -> list[tuple[bytes, Any]]:
    """The key of each entry of a record, and what it is made of."""
    ...

  def row(self, name: str, of: Any) -> Any:
    """What is encoded, of what the entry of a record of this name is made of."""
    ...

  def run(self, rows: Sequence[Any]) -> Any:
    """At most `rows` of them, encoded on this process's devices; the result is on its way."""
    ...

  def entries(self, result: Any, names: Sequence[str]) -> list[bytes]:
    """The entries of a result.   names: of their records"""
    ...

  def applied(self, record: Record, entries: Sequence[bytes]) -> Record:
    """The record with its entries."""
    ...


def write_shards(
  sources: dict[str, ShardSource],
  partial: Path,
  pieces: Path,
  makers: Sequence[Entries],
  before: Before,
) -> None:
  """This process's shards into `partial`; their entries and keys beside the pieces.

  sources  by split;   pieces: the folder of the entries that were encoded
  """
  number = 0
  for split, source in sources.items():
    for shard, start, stop in source.spans():
      number += 1
      if number % jax.process_count() != jax.process_index():
        continue
      held = _Entries(split, pieces, before)
      keys = {maker.kind: bytearray() for maker in makers}

      def records(source=source, start=start, stop=stop, held=held, keys=keys):
        for i in range(start, stop):
          record = source[i]
          held.move(i)
          of_kind: dict[str, list[bytes]] = {kind: [] for kind in keys}
          for maker in makers:
            own = [key for key, _ in maker.wanted(record)]
            of_kind[maker.kind] += own
            record = maker.applied(record, [held[key] for key in own])
          for kind, found in of_kind.items():
            keys[kind].extend(packed_keys(found, kind))
          yield record.pack(), len(record.texts)

      entry, captions = write_shard(partial / shard, records())
      (pieces / f"{shard}.json").write_text(json.dumps([entry, captions]))
      for kind, found in keys.items():
        (pieces / f"{shard}{KINDS[kind][0]}").write_bytes(found)


class _Entries(dict):
  """Entries by key: of the piece of a record, or from before."""

  def __init__(self, split: str, folder: Path, before: Before):
    self._split, self._folder, self._before, self._start = split, folder, before, -1

  def move(self, index: int) -> None:
    """To the piece of record `index`."""
    start = index // stored.PIECE * stored.PIECE
    if start != self._start:
      self.clear()
      self._start = start
      self.update(stored.read_piece(self._folder / f"{self._split}-{start:09d}.piece"))

  def __missing__(self, key: bytes) -> bytes:
    found = self._before.find(key)
    if found is None:
      raise DataError(
        f"{self._folder} has lost a piece of {self._split}. Run the same command again."
      )
    return found


def finish(
  data: Path,
  manifest: dict[str, Any],
  sources: dict[str, ShardSource],
  partial: Path,
  pieces: Path,
  made: dict[str, Any],
  out: Path,
) -> None:
  """Keys, tokenizer and manifest; the folder gets its name, and the pieces go.

  made  entries of the manifest, by kind
  """
  splits = {}
  for split, source in sources.items():
    shards, captions = [], 0
    for name, *_ in source.spans():
      entry, count = json.loads((pieces / f"{name}.json").read_text())
      shards.append(entry)
      captions += count
    for kind in made:
      end = KINDS[kind][0]
      with (partial / f"{split}{end}").open("wb") as keys:
        for name, *_ in source.spans():
          keys.write((pieces / f"{name}{end}").read_bytes())
    splits[split] = {"records": len(source), "captions": captions, "shards": shards}
  for name in (TOKENIZER, ATTRIBUTION):
    if (data / name).is_file():
      shutil.copyfile(data / name, partial / name)
  lengths = {split: v for split, v in manifest.get("lengths", {}).items() if split in splits}
  copied = {split: copy_provenance(data, split, partial) for split in splits}
  provenance = {split: entry for split, entry in copied.items() if entry is not None}
  given = {key: value for key, value in manifest.items() if key != PROVENANCE}
  source_of = {"source": ", ".join(made), "arguments": manifest.get("made_by", {})}
  made_by = {"version": __version__} | source_of
  written = given | {"made_by": made_by, "splits": splits, "lengths": lengths} | made
  written |= {PROVENANCE: provenance} if provenance else {}
  text = json.dumps(written, indent=1, ensure_ascii=False) + "\n"
  (partial / MANIFEST).write_text(text, "utf-8")
  put_in_place(partial, out, overwrite=True)
  shutil.rmtree(pieces)
