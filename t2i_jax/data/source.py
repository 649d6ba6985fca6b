"""Random access to records: the `Source` protocol, and `ShardSource` over a built folder."""

import hashlib
import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from array_record.python.array_record_module import ArrayRecordReader

from t2i_jax.data.record import Record, unpack
from t2i_jax.data.substitutes import substitutes
from t2i_jax.errors import DataError

FORMAT = "t2i_jax/1"
MANIFEST = "manifest.json"
OPEN_READERS = 128  # files open at once in a process; the usual limit is 1024
# What a manifest has; * is any key, ? one that may be missing, a list has any number of its entry.
COUNTS = {"*": int}
HISTOGRAM = {"quantiles": COUNTS, "longest": int, "histogram": COUNTS}
SHARD = {"file": str, "records": int, "bytes": int, "sha256": str}
SPLIT = {"records": int, "captions": int, "shards": [SHARD]}
# data.latents.Latents says what these are.
TEXTS = ("images", "images_hash", "stored", "dtype", "autoencoder", "weights", "config")
LATENTS = dict.fromkeys(TEXTS, str) | {"image_size": [int], "shape": [int], "batch": int}
# data.features.Texts and StoredText say what these are.
ENCODER: dict[str, Any] = dict.fromkeys(("start", "weights", "config", "ids", "dtype"), str)
ENCODER |= dict.fromkeys(("limit", "length", "width", "pooled"), int)
PROVENANCE = "provenance"  # by split: data.provenance
DRAWN = "drawn"  # data.drawn.Drawn says what it is
FEATURES = {"data": str, "data_hash": str, "batch": int, "encoders": {"*": ENCODER}}
SHAPE: dict[str, Any] = {
  "splits": {"*": SPLIT},
  "tokenizer": {"file": str, "vocab": int, "sha256": str},
  "attribution": str,
  "?latents": LATENTS,
  "?text": FEATURES,
  "?provenance": {"*": {"file": str, "sha256": str}},
  "?drawn": {"splits": [str], "model": str, "step": int, "data": str},
  "?lengths": {"*": {"*": {"bpe": HISTOGRAM, "bytes": HISTOGRAM}}},
}
KINDS = {str: "text", int: "a count", dict: "a map", list: "a list"}
RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"


class Source(Protocol):
  """Random access to records, as the loader uses it."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Record: ...


def read_manifest(folder: str | Path) -> dict[str, Any]:
  """The manifest of a built folder.

  Raises DataError where there is none, it is unreadable, or a field is missing or of another type.
  """
  path = Path(folder) / MANIFEST
  try:
    manifest = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError as error:
    state = "has no manifest.json" if Path(folder).is_dir() else "does not exist"
    raise DataError(
      f"{folder} {state}. Build it with: t2i data build --from ... --to {folder}"
    ) from error
  except (OSError, ValueError, RecursionError) as error:
    raise DataError(f"{path} cannot be read: {error}. Build the folder again.") from error
  if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
    found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
    raise DataError(f"{path} has format {found!r}, this version reads {FORMAT!r}. Build it again.")
  problem = _problem(manifest, SHAPE, "") or ("" if manifest["splits"] else "splits is empty")
  if problem:
    raise DataError(f"{path}: {problem}. Build the folder again.")
  return manifest


def _problem(value: Any, shape: Any, where: str) -> str:
  """How a value of a manifest differs from its shape, or ""."""
  kind = shape if isinstance(shape, type) else type(shape)
  right = kind is type(value)  # True is no int
  if not right or (kind is int and value < 0):
    return f"{where} is {value!r:.60}, not {KINDS[kind]}"
  if where.endswith(".file") and (value in ("", ".", "..") or Path(value).name != value):
    return f"{where} is {value!r:.60}, not the name of a file in the folder"
  parts: list[tuple[str, Any, Any]] = []
  if isinstance(shape, list):
    parts = [(f"{where}[{i}]", inner, shape[0]) for i, inner in enumerate(value)]
  elif isinstance(shape, dict):
    within = f"{where}." if where else ""
    named = dict.fromkeys(value, shape["*"]) if "*" in shape else shape
    for key in named:
      if key not in value and not key.startswith("?"):
        return f"{within}{key} is missing"
    inner_of = {key.removeprefix("?"): inner for key, inner in named.items()}
    parts = [(within + key, value[key], inner_of[key]) for key in inner_of if key in value]
  return next(filter(None, (_problem(v, inner, at) for at, v, inner in parts)), "")


def manifest_hash(folder: str | Path) -> str:
  """The SHA-256 of a built folder's manifest.json, in hexadecimal.

  The manifest has the hash of every shard and of the tokenizer, and the order of the shards: two
  folders of one hash give a run the same records in the same order, and the same token ids.
  Raises DataError where there is no manifest.
  """
  read_manifest(folder)
  return hashlib.sha256((Path(folder) / MANIFEST).read_bytes()).hexdigest()


def changed_hash(folder: str | Path, before: str) -> str | None:
  """The hash of a built folder where it is not the one before; None where it is, or where the
  folder is not on this machine any more, so that nothing can be said.
  """
  try:
    now = manifest_hash(folder)
  except DataError:
    return None
  return None if now == before else now


def images_folder(folder: str | Path) -> Path:
  """The folder that has the images of a built folder's records, each of the same index.

  It is the folder itself, or that of whose images it holds the latents. Raises DataError where the
  latter is not on this machine, or has changed since.
  """
  entry = read_manifest(folder).get("latents")
  if entry is None:
    return Path(folder)
  images = Path(entry["images"])
  state = "not on this machine" if not (images / MANIFEST).is_file() else ""
  if changed_hash(images, entry["images_hash"]):
    state = "another one than was encoded"
  if state:
    raise DataError(
      f"{folder} holds latents, and {images}, the folder of their images, which are needed here, "
      f"is {state}. Put the original there."
    )
  return images


class ShardSource:
  """One split of a built folder.

  folder  written by `t2i data build --to`
  split   a name in its manifest
  without  indices of records that are never read: another one is in the place of each,
          data.substitutes
  Raises DataError where the split is unknown or empty, or a shard is missing or has another size
  than in the manifest. Shards are opened when first read; the object can be pickled.
  """

  def __init__(self, folder: str | Path, split: str, without: Collection[int] = ()):
    self.folder, self.split = Path(folder), split
    splits = read_manifest(folder)["splits"]
    if split not in splits:
      raise DataError(f"{folder} has no split {split!r}; it has {', '.join(splits)}.")
    self._shards: list[dict[str, Any]] = splits[split]["shards"]
    for shard in self._shards:
      problem = size_problem(self.folder, shard)
      if problem:
        raise DataError(f"{problem}. Build {folder} again, or copy the shard again.")
    self._ends = list(accumulate(shard["records"] for shard in self._shards))
    if not len(self):
      raise DataError(f"split {split!r} of {folder} has no records.")
    self._in_place = substitutes(len(self), without)
    self._open()

  def _open(self) -> None:
    self._readers: OrderedDict[int, Any] = OrderedDict()
    self._lock = threading.Lock()

  def __getstate__(self) -> dict[str, Any]:
    return {k: v for k, v in self.__dict__.items() if k not in ("_readers", "_lock")}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._open()

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, index: int) -> Record:
    """Record `index` in [0, len). Raises DataError naming shard and record where it is corrupt."""
    if not 0 <= index < len(self):
      raise IndexError(f"record {index} of {len(self)}")
    index = self._in_place.get(index, index)
    number = bisect_right(self._ends, index)
    shard = self._shards[number]
    within = index - (self._ends[number] - shard["records"])
    try:
      return unpack(self._reader(number).read([within])[0])
    except (DataError, RuntimeError, IndexError) as error:
      raise DataError(
        f"{self.folder / shard['file']}, record {within}: {error}. "
        f"Check with: t2i data verify {self.folder}"
      ) from error

  def spans(self) -> list[tuple[str, int, int]]:
    """Of each shard: its file, and the records from start to stop that it has."""
    starts = [0, *self._ends[:-1]]
    return [
      (shard["file"], start, stop)
      for shard, start, stop in zip(self._shards, starts, self._ends, strict=True)
    ]

  def spread(self, n: int) -> list[Record]:
    """At most n records, evenly spaced over the split: similar records are often neighbours."""
    n = min(n, len(self))
    return [self[i * len(self) // n] for i in range(n)]

  def _reader(self, number: int) -> Any:
    """The shard's reader; the least recently used one is closed where too many are open."""
    with self._lock:
      if number in self._readers:
        self._readers.move_to_end(number)
        return self._readers[number]
      reader = open_shard(self.folder / self._shards[number]["file"])
      self._readers[number] = reader
      if len(self._readers) > OPEN_READERS:
        self._readers.popitem(last=False)  # closed when no thread reads from it any more
      return reader


def open_shard(path: Path) -> Any:
  """An ArrayRecordReader for random access. Raises DataError on another kind of file."""
  reader = ArrayRecordReader(str(path), RANDOM_ACCESS)
  if not reader.ok():
    try:
      reader.close()  # raises with the reason
    except RuntimeError as error:
      raise DataError(f"is not a readable ArrayRecord file ({error})") from error
    raise DataError("is not a readable ArrayRecord file")
  return reader


def size_problem(folder: Path, shard: dict[str, Any]) -> str | None:
  """A problem of a shard's existence or size, or None."""
  path = folder / shard["file"]
  try:
    size = path.stat().st_size
  except OSError as error:
    return f"{path} is missing ({error.strerror})"
  if size != shard["bytes"]:
    state = "is empty" if size == 0 else f"is cut short or changed: it has {size} bytes"
    return f"{path} {state}, the manifest says {shard['bytes']}"
  return None
