"""What is stored for images or captions, by key: pieces of a folder that is being encoded, and the
entries of one that is brought up to date."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgpack

from t2i_jax.data.images import read_latent
from t2i_jax.data.record import Record
from t2i_jax.data.source import ShardSource, read_manifest
from t2i_jax.errors import DataError

PIECE = 64  # records that are written at once, and lost at most where a process is killed
KEY_BYTES = 16
# Of each kind of entry: its entry in the manifest; the end of the name of the file of a split's
# keys, in which the keys of each record follow their number; and the bytes of that number.
IMAGES, TEXT = "latents", "text"
KINDS = {IMAGES: (".keys", 1), TEXT: (".text.keys", 2)}


def write_piece(path: Path, found: Mapping[bytes, bytes]) -> None:
  """Writes entries; the file has its name once it is complete."""
  part = path.with_name(f"{path.name}.{os.getpid()}.part")
  with part.open("wb") as file:
    file.write(msgpack.packb(found))
    file.flush()
    os.fsync(file.fileno())
  part.rename(path)


def read_piece(path: Path) -> dict[bytes, bytes]:
  """The entries of a piece; none where there is no such file, or not a whole one."""
  try:
    found = msgpack.unpackb(path.read_bytes(), strict_map_key=False)
  except (OSError, ValueError, msgpack.UnpackException):
    return {}
  return found if isinstance(found, dict) else {}


def entries_of(record: Record, kind: str) -> list[bytes]:
  """The entries of a record: its images; the features of all captions, encoder by encoder."""
  if kind == IMAGES:
    return list(record.images)
  names = record.features[0] if record.features else ()
  return [caption[name] for name in names for caption in record.features]


def packed_keys(keys: Sequence[bytes], kind: str) -> bytes:
  """The keys of a record's entries, in the order of entries_of, as the file of keys has them."""
  return len(keys).to_bytes(KINDS[kind][1], "little") + b"".join(keys)


class Before:
  """The entries of a folder that is brought up to date."""

  def __init__(self, folder: Path):
    self._sources: list[ShardSource] = []
    self._at: dict[bytes, tuple[str, int, int, int]] = {}
    self._last: tuple[int, int, Record] | None = None
    try:
      manifest = read_manifest(folder)
      for split in manifest["splits"]:
        for kind, (end, width) in KINDS.items():
          if kind in manifest:
            self._read(folder / f"{split}{end}", kind, width)
        self._sources.append(ShardSource(folder, split))
    except (DataError, OSError):  # what cannot be read is encoded again
      self._at.clear()

  def _read(self, path: Path, kind: str, width: int) -> None:
    """The keys of the split that comes next; none where it has no file of them."""
    if path.is_file():
      for index, many in enumerate(_split_keys(path.read_bytes(), width)):
        for number, key in enumerate(many):
          self._at[key] = (kind, len(self._sources), index, number)

  def find(self, key: bytes) -> bytes | None:
    """The stored entry of a key, or None."""
    if key not in self._at:
      return None
    kind, source, index, number = self._at[key]
    try:
      found = entries_of(self._record(source, index), kind)[number]
      if kind == IMAGES:
        read_latent(found)
    except (DataError, LookupError):
      return None
    return found

  def _record(self, source: int, index: int) -> Record:
    if self._last is None or self._last[:2] != (source, index):
      self._last = (source, index, self._sources[source][index])
    return self._last[2]


def _split_keys(data: bytes, width: int) -> Iterator[list[bytes]]:
  place = 0
  while place < len(data):
    count = int.from_bytes(data[place : place + width], "little")
    start = place + width
    yield [data[start + i * KEY_BYTES : start + (i + 1) * KEY_BYTES] for i in range(count)]
    place = start + count * KEY_BYTES
