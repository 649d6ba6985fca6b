"""From pieces of latents to a finished folder: shards as those of the images, keys, manifest."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax

from t2i_jax import __version__
from t2i_jax.data import latents as cache
from t2i_jax.data.claim import ATTRIBUTION, TOKENIZER, put_in_place
from t2i_jax.data.latents import Before, Latents
from t2i_jax.data.shards import write_shard
from t2i_jax.data.source import MANIFEST, ShardSource
from t2i_jax.errors import DataError


def write_shards(
  sources: dict[str, ShardSource], partial: Path, pieces: Path, latents: Latents, before: Before
) -> None:
  """This process's shards into `partial`; their entries and keys beside the pieces.

  sources  of images, by split;   pieces: the folder of the entries that were encoded
  """
  number = 0
  for split, source in sources.items():
    for shard, start, stop in source.spans():
      number += 1
      if number % jax.process_count() != jax.process_index():
        continue
      held = _Entries(split, pieces, before)
      keys = bytearray()

      def records(source=source, start=start, stop=stop, held=held, keys=keys):
        for i in range(start, stop):
          record = source[i]
          keys.extend(cache.packed_keys(record, latents))
          held.move(i)
          yield cache.with_latents(record, latents, held).pack(), len(record.texts)

      entry, captions = write_shard(partial / shard, records())
      (pieces / f"{shard}.json").write_text(json.dumps([entry, captions]))
      (pieces / f"{shard}.keys").write_bytes(keys)


class _Entries(dict):
  """Entries by key: of the piece of a record, or from before."""

  def __init__(self, split: str, folder: Path, before: Before):
    self._split, self._folder, self._before, self._start = split, folder, before, -1

  def move(self, index: int) -> None:
    """To the piece of record `index`."""
    start = index // cache.PIECE * cache.PIECE
    if start != self._start:
      self.clear()
      self._start = start
      self.update(cache.read_piece(self._folder / f"{self._split}-{start:09d}.piece"))

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
  latents: Latents,
  out: Path,
) -> None:
  """Keys, tokenizer and manifest; the folder gets its name, and the pieces go."""
  splits = {}
  for split, source in sources.items():
    shards, captions = [], 0
    with (partial / cache.keys_file(split)).open("wb") as keys:
      for name, *_ in source.spans():
        entry, count = json.loads((pieces / f"{name}.json").read_text())
        shards.append(entry)
        captions += count
        keys.write((pieces / f"{name}.keys").read_bytes())
    splits[split] = {"records": len(source), "captions": captions, "shards": shards}
  for name in (TOKENIZER, ATTRIBUTION):
    if (data / name).is_file():
      shutil.copyfile(data / name, partial / name)
  lengths = {split: v for split, v in manifest.get("lengths", {}).items() if split in splits}
  made_by = {"version": __version__, "source": "latents", "arguments": manifest.get("made_by", {})}
  written = manifest | {"made_by": made_by, "splits": splits, "lengths": lengths}
  written["latents"] = latents.__dict__
  text = json.dumps(written, indent=1, ensure_ascii=False) + "\n"
  (partial / MANIFEST).write_text(text, "utf-8")
  put_in_place(partial, out, overwrite=True)
  shutil.rmtree(pieces)
