"""What a source of `t2i data build` gives the builder, and the rules that user files share."""

import dataclasses
import hashlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from PIL import Image

from t2i_jax.data.images import is_latent, normalize, read_latent
from t2i_jax.data.record import Record
from t2i_jax.errors import DataError

CHUNK = 64  # items a task holds, enough to hide what handing over a task costs
CAPTION_KEYS = ("text", "caption", "captions")


@dataclasses.dataclass(frozen=True)
class Made:
  """A record ready to write: split, packed bytes, captions."""

  split: str
  data: bytes
  captions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Skipped:
  """An item that cannot be used. `reason` is "kind" or "kind: detail"; kinds are counted."""

  item: str
  reason: str


class BuildSource(Protocol):
  """A frozen dataclass whose fields are the source's arguments; it travels to worker processes.

  splits  names of splits in order, the training split first
  vocab   tokens of the BPE unless the caller asks for another number
  holds_out  whether "val" is split off by hash, so that it may come out empty on few items
  """

  splits: Any
  vocab: Any
  holds_out: Any

  @property
  def licence(self) -> str: ...

  @property
  def attribution(self) -> str: ...

  def total(self) -> int | None:
    """Number of items, None where counting would cost a pass. Raises DataError on bad arguments."""

  def tasks(self) -> Iterator[Any]:
    """Work for `make`, in a fixed order."""

  def make(self, task: Any) -> list[Made | Skipped]:
    """A task's items in a fixed order; runs in a worker process."""


def made(split: str, record: Record) -> Made:
  """A record as the builder takes it."""
  return Made(split, record.pack(), record.captions)


def in_chunks(items: Iterable[Any], size: int = CHUNK) -> Iterator[list[Any]]:
  """Lists of `size` items; the last may be shorter."""
  chunk: list[Any] = []
  for item in items:
    chunk.append(item)
    if len(chunk) == size:
      yield chunk
      chunk = []
  if chunk:
    yield chunk


def caption_lines(data: bytes) -> list[str]:
  """A text file's captions, one a line. UTF-8 whatever the locale; a byte order mark is dropped."""
  try:
    return data.decode("utf-8-sig").splitlines()
  except UnicodeDecodeError as error:
    raise DataError(f"caption is not UTF-8: {error.reason} at byte {error.start}") from error


def caption_fields(fields: Any) -> list[str] | None:
  """Captions of a JSON object: its "text", "caption" and "captions"; None where it has none."""
  found: list[str] = []
  present = [fields[k] for k in CAPTION_KEYS if k in fields] if isinstance(fields, dict) else []
  for value in present:
    found += [c for c in (value if isinstance(value, list) else [value]) if isinstance(c, str)]
  return found if present else None


def clean_captions(captions: list[str] | None) -> tuple[str, ...]:
  """Without white space around, empty ones and repetitions. Raises DataError if none is left."""
  if captions is None:
    raise DataError("no caption")
  kept = tuple(dict.fromkeys(c.strip() for c in captions if c.strip()))
  if not kept:
    raise DataError("empty caption")
  for caption in kept:
    try:
      caption.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can hold half of a surrogate pair
      raise DataError(f"caption is not UTF-8: {error.reason}") from error
  return kept


def split_of(key: str, val_fraction: float) -> str:
  """ "val" for a share of all keys, "train" for the others; by hash, so that order is no matter."""
  value = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big")
  return "val" if value < val_fraction * 2**64 else "train"


def check_val_fraction(fraction: float) -> None:
  """Raises DataError outside of [0, 1)."""
  if not 0 <= fraction < 1:
    raise DataError(f"--val-fraction={fraction} is not in [0, 1).")


def printable(name: str) -> str:
  """A file name as UTF-8 text; bytes that are none are written out as \\udcxx."""
  return name.encode("utf-8", "backslashreplace").decode("utf-8")


def user_item(
  key: str, image: bytes, captions: list[str] | None, max_size: int | None, val_fraction: float
) -> Made:
  """A user's picture or latents with captions. Raises DataError with the reason to skip it."""
  kept = clean_captions(captions)
  if is_latent(image):
    read_latent(image)
    data = image
  else:
    with warnings.catch_warnings():
      warnings.simplefilter("error", Image.DecompressionBombWarning)
      data = normalize(image, max_size)
  return made(split_of(key, val_fraction), Record(data, kept, key))
