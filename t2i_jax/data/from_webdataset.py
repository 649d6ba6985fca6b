"""Tars in the WebDataset format: consecutive members with one key are an item."""

import dataclasses
import glob
import json
import os
import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path

from t2i_jax.data.items import in_chunks
from t2i_jax.data.user_images import UserImages, caption_fields, caption_lines, printable
from t2i_jax.errors import DataError

IMAGE_FIELDS = ("npy", "png", "webp", "jpeg", "jpg")
CAPTION_FIELDS = ("txt", "json")
TARS = (".tar", ".tar.gz", ".tgz")


@dataclasses.dataclass
class Item:
  """The members of one key: field name (what follows the first dot) to bytes."""

  key: str
  fields: dict[str, bytes] = dataclasses.field(default_factory=dict)
  problem: str = ""


@dataclasses.dataclass(frozen=True)
class WebDataset(UserImages):
  """Tars with KEY.jpg (jpeg, png, webp, or npy: encoded latents) beside KEY.txt or KEY.json.

  A txt has one caption per line, a json has "text", "caption" or "captions".

  path  a tar, a folder of tars or a glob; tars are only read
  """

  def _tars(self) -> list[str]:
    if os.path.isdir(self.path):
      names = [os.path.join(self.path, name) for name in os.listdir(self.path)]
      return sorted(name for name in names if name.endswith(TARS))
    return sorted(glob.glob(self.path, recursive=True))

  def total(self) -> None:
    self.check_val_fraction()
    if not self._tars():
      raise DataError(f"--path={self.path}: no tar found. Use a tar, a folder or a quoted glob.")

  def tasks(self) -> Iterator[list[Item]]:
    """Members are read here, sequentially, as a tar requires; workers decode them."""
    return in_chunks(item for tar in self._tars() for item in _read_tar(tar))

  def open_item(self, item: Item) -> tuple[bytes, list[str] | None]:
    image = next((item.fields[f] for f in IMAGE_FIELDS if f in item.fields), None)
    if image is None:
      raise DataError("no image")
    return image, _captions(item)


def _captions(item: Item) -> list[str] | None:
  found = caption_lines(item.fields["txt"]) if "txt" in item.fields else None
  if "json" in item.fields:
    try:
      more = caption_fields(json.loads(item.fields["json"].decode("utf-8-sig")))
    except ValueError as error:
      raise DataError(f"json cannot be read: {error}") from error
    found = found if more is None else [*(found or []), *more]
  return found


def _read_tar(path: str) -> Iterator[Item]:
  """Items in the order of the tar; a truncated tar is reported and its earlier items kept."""
  stem = Path(path).name.split(".")[0]
  item = None
  try:
    with tarfile.open(path, "r|*") as tar:
      for member in tar:
        folder, name = posixpath.split(posixpath.normpath(member.name))
        base, _, field = name.partition(".")
        if not member.isfile() or not base or field.lower() not in IMAGE_FIELDS + CAPTION_FIELDS:
          continue
        key = printable("/".join(part for part in (stem, folder, base) if part))
        if item is None or item.key != key:
          if item is not None:
            yield item
          item = Item(key)
        stream = tar.extractfile(member)
        assert stream is not None  # a regular file
        item.fields[field.lower()] = stream.read()
  except (tarfile.TarError, OSError, EOFError) as error:
    # The current item may lack a member: it is not used.
    yield Item(printable(path), problem=f"tar is truncated: {error}")
    return
  if item is not None:
    yield item
