"""The base of sources of a user's images: arguments, captions, keys, splits."""

import dataclasses
import hashlib
import warnings
from typing import Any, ClassVar

from PIL import Image

from t2i_jax.data.images import is_latent, normalize, read_latent
from t2i_jax.data.items import Made, Skipped, made
from t2i_jax.data.record import Record
from t2i_jax.errors import DataError

CAPTION_KEYS = ("text", "caption", "captions")


@dataclasses.dataclass(frozen=True)
class UserImages:
  """A source whose items have a `key` and a `problem` (the reason to skip it, or "").

  path                  of the images; it is only read
  max_size              maximum of the longer side in pixels; None: no limit
  val_fraction          share of the items held out as "val", by hash of the key; at least one item
  licence, attribution  of the images, for the manifest
  """

  path: str
  max_size: int | None = None
  val_fraction: float = 0.02
  licence: str = "not stated"
  attribution: str = ""

  splits: ClassVar = ("train", "val")
  vocab: ClassVar = 4096
  holds_out: ClassVar = True

  def open_item(self, item: Any) -> tuple[bytes, list[str] | None]:
    """The image's file and its captions. Raises DataError or OSError: the item is skipped."""
    raise NotImplementedError

  def check_val_fraction(self) -> None:
    """Raises DataError outside of [0, 1)."""
    if not 0 <= self.val_fraction < 1:
      raise DataError(f"--val-fraction={self.val_fraction} is not in [0, 1).")

  def make(self, task: list[Any]) -> list[Made | Skipped]:
    return [self._make(item) for item in task]

  def _make(self, item: Any) -> Made | Skipped:
    try:
      if item.problem:
        raise DataError(item.problem)
      image, captions = self.open_item(item)
      return user_item(item.key, image, captions, self.max_size, self.val_fraction)
    except DataError as error:
      return Skipped(item.key, str(error))
    except OSError as error:
      return Skipped(item.key, f"cannot be read: {error.strerror}")


def caption_lines(data: bytes) -> list[str]:
  """A text file's captions, one per line, UTF-8; a byte order mark is dropped."""
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
  """Captions stripped, without empty ones and repetitions. Raises DataError if none is left."""
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
  """ "val" for a share of all keys, "train" for the others, by hash, independent of the order."""
  value = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big")
  return "val" if value < val_fraction * 2**64 else "train"


def printable(name: str) -> str:
  """A file name as UTF-8 text; invalid bytes are written as \\udcxx."""
  return name.encode("utf-8", "backslashreplace").decode("utf-8")


def user_item(
  key: str, image: bytes, captions: list[str] | None, max_size: int | None, val_fraction: float
) -> Made:
  """A user's image or latents with captions. Raises DataError with the reason to skip it."""
  kept = clean_captions(captions)
  if is_latent(image):
    read_latent(image)
    data = image
  else:
    with warnings.catch_warnings():
      warnings.simplefilter("error", Image.DecompressionBombWarning)
      data = normalize(image, max_size)
  return made(split_of(key, val_fraction), Record(data, kept, key))
