"""Writing a split's shards: ArrayRecord files with a fixed number of records."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from t2i_jax.errors import DataError

# One record per group: random access reads no other records.
OPTIONS = "group_size:1"


class SplitWriter:
  """Writes records of one split; `close` renames the shards, whose names have their number."""

  def __init__(self, folder: Path, split: str, shard_records: int):
    self.folder, self.split, self.shard_records = folder, split, shard_records
    self.records = self.captions = 0
    self._writer: Any = None
    self._parts: list[tuple[Path, int]] = []

  def write(self, data: bytes, captions: int) -> None:
    """Appends a packed record with its number of captions. Raises DataError on a full disk."""
    if self._writer is None:
      path = self.folder / f"{self.split}-{len(self._parts):05d}.part"
      self._writer = _guarded(path, ArrayRecordWriter, str(path), OPTIONS)
      self._parts.append((path, 0))
    path, records = self._parts[-1]
    _guarded(path, self._writer.write, data)
    self._parts[-1] = (path, records + 1)
    self.records += 1
    self.captions += captions
    if records + 1 == self.shard_records:
      self._finish_shard()

  def _finish_shard(self) -> None:
    writer, self._writer = self._writer, None
    _guarded(self._parts[-1][0], writer.close)

  def close(self) -> dict[str, Any]:
    """Ends the last shard. Returns the split's entry in the manifest."""
    if self._writer is not None:
      self._finish_shard()
    shards = []
    for number, (part, records) in enumerate(self._parts):
      path = self.folder / f"{self.split}-{number:05d}-of-{len(self._parts):05d}.arrayrecord"
      part.rename(path)
      shards.append(_entry(path, records))
    return {"records": self.records, "captions": self.captions, "shards": shards}


def write_shard(path: Path, records: Iterable[tuple[bytes, int]]) -> tuple[dict[str, Any], int]:
  """Writes a whole shard: packed records, each with its number of captions.

  Returns the shard's entry in the manifest, and the captions. Raises DataError on a full disk.
  """
  writer = _guarded(path, ArrayRecordWriter, str(path), OPTIONS)
  count = captions = 0
  for data, n in records:
    _guarded(path, writer.write, data)
    count, captions = count + 1, captions + n
  _guarded(path, writer.close)
  return _entry(path, count), captions


def _entry(path: Path, records: int) -> dict[str, Any]:
  size = path.stat().st_size
  return {"file": path.name, "records": records, "bytes": size, "sha256": sha256_of(path)}


def sha256_of(path: Path) -> str:
  """The SHA-256 of a file, in hexadecimal."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _guarded(path: Path, action, *args) -> Any:
  """Calls a writer; its RuntimeError on a full or unwritable disk becomes a DataError."""
  try:
    return action(*args)
  except RuntimeError as error:
    raise DataError(
      f"{path} cannot be written: {error}. Free some space, or choose another --to."
    ) from error
