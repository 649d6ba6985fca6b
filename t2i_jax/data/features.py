"""Features of frozen text encoders, stored for the captions of a built folder.

A record has for each of its captions one entry an encoder: the tokens that count, without padding,
and the pooled vector. An entry is found by its key, a hash of the caption's token ids and of all
else that made its features: what has not changed is not encoded again.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np

from t2i_jax.data.batch import Features
from t2i_jax.data.claim import NULLS
from t2i_jax.data.pieces import KEY_BYTES
from t2i_jax.data.record import Record
from t2i_jax.data.source import changed_hash, read_manifest
from t2i_jax.errors import DataError

FORMAT = 1  # of the way from ids to features; another one makes other keys


@dataclasses.dataclass(frozen=True)
class StoredText:
  """What a folder has of one text encoder: an entry of its manifest.

  start    of its weights, as parts.*.start;   weights: training.checksum.fingerprint of them
  config   of the network, and what is done to its output
  ids      ids_hash of captions of the folder
  limit    tokens of a caption that are encoded;   length: T, tokens of the output
  width    D of tokens;   pooled: P of the pooled vector, 0 where there is none
  dtype    of the stored numbers
  """

  start: str
  weights: str
  config: str
  ids: str
  limit: int
  length: int
  width: int
  pooled: int
  dtype: str

  @property
  def made_by(self) -> str:
    """All that decides the features of token ids, as text."""
    shape = (self.limit, self.length, self.width, self.pooled)
    return json.dumps((FORMAT, shape, self.dtype, self.weights, self.config))

  def key(self, ids: np.ndarray, mask: np.ndarray) -> bytes:
    """Of the entry of a caption with these ids [T] and this mask [T]."""
    of = self.made_by.encode() + b"\0" + ids.astype("<i4").tobytes() + np.packbits(mask).tobytes()
    return hashlib.sha256(of).digest()[:KEY_BYTES]

  def entry_bytes(self, tokens: float) -> float:
    """Of an entry of so many tokens that count."""
    return _mask_bytes(self.length) + (tokens * self.width + self.pooled) * self._dtype.itemsize

  def pack(self, features: Features) -> bytes:
    """The entry of a caption, features without the axis B: its mask as bits, the tokens where it is
    True [n, D], the pooled vector [P]."""
    mask = np.asarray(features.mask)
    kept = np.asarray(features.tokens)[mask].astype(self._dtype)
    pooled = b"" if features.pooled is None else features.pooled.astype(self._dtype).tobytes()
    return np.packbits(mask).tobytes() + kept.tobytes() + pooled

  def unpack(self, data: bytes) -> Features:
    """The inverse of `pack`, zeros at padding. Raises DataError where the size is another."""
    start = _mask_bytes(self.length)
    mask = np.unpackbits(np.frombuffer(data[:start], np.uint8), count=self.length).astype(bool)
    count = int(mask.sum())
    if len(data) != self.entry_bytes(count):
      raise DataError(f"has features of {len(data)} bytes, not {self.entry_bytes(count):.0f}")
    numbers = np.frombuffer(data[start:], self._dtype)
    tokens = np.zeros((self.length, self.width), self.dtype)
    tokens[mask] = numbers[: count * self.width].reshape(count, self.width)
    pooled = numbers[count * self.width :].astype(self.dtype) if self.pooled else None
    return Features(tokens, mask, pooled)

  @property
  def _dtype(self) -> np.dtype:
    return np.dtype(self.dtype).newbyteorder("<")


@dataclasses.dataclass(frozen=True)
class Texts:
  """What the features of a folder are of: its manifest's entry "text".

  data      path of the built folder;   data_hash: data.source.manifest_hash of it
  batch     captions that were encoded at once on a device
  encoders  by name
  """

  data: str
  data_hash: str
  batch: int
  encoders: dict[str, StoredText]

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


class Cached(NamedTuple):
  """An encoder whose features are read.   null: of the null of guidance, one row, float32"""

  stored: StoredText
  null: Features


def texts_of(folder: str | Path) -> Texts | None:
  """What the features of a folder are of; None where it has none. Raises DataError."""
  entry = read_manifest(folder).get("text")
  if entry is None:
    return None
  try:
    encoders = {name: StoredText(**fields) for name, fields in entry["encoders"].items()}
    return Texts(**entry | {"encoders": encoders})
  except (TypeError, AttributeError) as error:
    raise DataError(
      f"{folder}/manifest.json: its entry text cannot be read ({error}). Encode it again."
    ) from error


def features_of(record: Record, caption: int, name: str, stored: StoredText) -> Features:
  """What a record has of an encoder for a caption, by number. Raises DataError."""
  if not record.features or name not in record.features[caption]:
    raise DataError(f"has no features of text encoder {name!r} for caption {caption}")
  return stored.unpack(record.features[caption][name])


def ids_hash(encoded: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
  """A hash of token ids and masks, in hexadecimal: of one tokenizer and template."""
  found = hashlib.sha256()
  for ids, mask in encoded:
    found.update(ids.astype("<i4").tobytes() + np.packbits(mask).tobytes())
  return found.hexdigest()[:16]


def write_nulls(path: Path, texts: Texts, nulls: dict[str, Features]) -> None:
  """The features of the null of each encoder, without the axis B."""
  packed = {name: _exact(texts.encoders[name]).pack(null) for name, null in nulls.items()}
  path.write_bytes(msgpack.packb(packed))


def read_nulls(folder: str | Path, texts: Texts) -> dict[str, Features]:
  """The features of the null of each encoder, one row [1, ...]. Raises DataError."""
  path = Path(folder) / NULLS
  try:
    packed = msgpack.unpackb(path.read_bytes())
    found = {name: _exact(stored).unpack(packed[name]) for name, stored in texts.encoders.items()}
  except (OSError, ValueError, LookupError, TypeError, msgpack.UnpackException, DataError) as error:
    raise DataError(f"{path} cannot be read ({error}). Encode {folder} again.") from error
  row = lambda x: None if x is None else x[None]
  return {name: Features(*map(row, null)) for name, null in found.items()}


def _exact(stored: StoredText) -> StoredText:
  return dataclasses.replace(stored, dtype="float32")


def check_captions(folder: str | Path, texts: Texts) -> None:
  """Raises DataError where the captions of a folder of features may have changed since.

  Where they are not on this machine any more, nothing can be said.
  """
  now = changed_hash(texts.data, texts.data_hash)
  if now is not None:
    raise DataError(
      f"{folder} holds features of other captions than {texts.data} has now: its manifest.json "
      f"has the hash {now[:12]}, {texts.data_hash[:12]} when they were encoded. "
      f"{encode_text_again(folder, texts)}"
    )


def encode_text_again(folder: str | Path, texts: Texts) -> str:
  """The command that brings a folder up to date, as the end of a message."""
  return (
    f"Encode again what changed: t2i data encode --data={texts.data} --to={folder} --config=FILE, "
    "with this run's config."
  )


def _mask_bytes(length: int) -> int:
  return -(-length // 8)
