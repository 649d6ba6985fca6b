"""The stored form of a captioned image: the bytes of its file, captions, a key, and metadata.

A record of edits also has turns: an instruction, and the edited image.
"""

import dataclasses
from typing import Any

import msgpack

from t2i_jax.errors import DataError

SCHEMA = {
  "image": "bytes of a PNG, JPEG or WEBP file; or of a .npy file, encoded latents float [H, W, C]",
  "captions": "list of strings, at least one; training samples one of them",
  "key": "string that names the item in its source",
  "meta": "map of further data of the source, of JSON types",
  "then": "list of [string, bytes]: an instruction and the image after it; optional",
  "features": "list of a map a caption, text encoder to data.features.StoredText.pack; optional",
}


@dataclasses.dataclass(frozen=True)
class Record:
  """One captioned image; the fields are described in SCHEMA."""

  image: bytes
  captions: tuple[str, ...]
  key: str
  meta: dict[str, Any] = dataclasses.field(default_factory=dict)
  then: tuple[tuple[str, bytes], ...] = ()
  features: tuple[dict[str, bytes], ...] = ()

  @property
  def images(self) -> tuple[bytes, ...]:
    """All image files, in order."""
    return (self.image, *(image for _, image in self.then))

  @property
  def texts(self) -> tuple[str, ...]:
    """All texts: captions, then instructions."""
    return (*self.captions, *(text for text, _ in self.then))

  def pack(self) -> bytes:
    """The stored form, msgpack."""
    fields: dict[str, Any] = {
      "image": self.image,
      "captions": list(self.captions),
      "key": self.key,
      "meta": self.meta,
    }
    if self.then:
      fields["then"] = [list(turn) for turn in self.then]
    if self.features:
      fields["features"] = list(self.features)
    return msgpack.packb(fields)


def unpack(data: bytes) -> Record:
  """The inverse of `Record.pack`. Raises DataError on bytes that are not a record."""
  try:
    fields = msgpack.unpackb(data)
    then = tuple((text, image) for text, image in fields.get("then", ()))
    captions = tuple(fields["captions"])
    features = tuple(map(dict, fields.get("features", ())))
    record = Record(fields["image"], captions, fields["key"], fields["meta"], then, features)
  except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as error:
    raise DataError(f"is not a record of this format ({type(error).__name__}: {error})") from error
  wrong = schema_problem(record)
  if wrong:
    raise DataError(wrong)
  return record


def schema_problem(record: Record) -> str | None:
  """How a record differs from SCHEMA, or None."""
  if not all(isinstance(image, bytes) and image for image in record.images):
    return "has no image bytes"
  if not record.captions:
    return "has no caption"
  for i, caption in enumerate(record.captions):
    if not isinstance(caption, str) or not caption.strip():
      return f"has an empty caption (number {i})"
  for i, (text, _) in enumerate(record.then):
    if not isinstance(text, str) or not text.strip():
      return f"has an empty instruction (number {i})"
  if not isinstance(record.key, str) or not record.key:
    return "has no key"
  if not isinstance(record.meta, dict):
    return f"has meta of type {type(record.meta).__name__}, not a map"
  if record.features and len(record.features) != len(record.captions):
    return f"has features of {len(record.features)} captions, and {len(record.captions)} captions"
  return None
