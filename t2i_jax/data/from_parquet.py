"""Parquet tables with images in them, as Hugging Face datasets and img2dataset write them."""

import dataclasses
import glob
import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from t2i_jax.data.account import Account
from t2i_jax.data.captions import CAPTION_KEYS, caption_values
from t2i_jax.data.files import MAX_BYTES, check_size
from t2i_jax.data.from_webdataset import names_of
from t2i_jax.data.provenance import NAMES, described
from t2i_jax.data.user_images import UserImages, needed, printable, reason_of
from t2i_jax.errors import DataError

SUFFIXES = (".parquet",)
IMAGE_NAMES = ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes")
ROWS = 64  # read at once
BUFFER = 2**20  # bytes of a column that are read at once
STATUS = "status"  # img2dataset's: "success", "failed_to_download", ...

parquet: Any = partial(needed, "pyarrow.parquet", "parquet")


@dataclasses.dataclass
class Item:
  """A row: the bytes of its image, its captions, and what it states of author, licence and consent.

  kind  "items"; "files": a damaged one
  """

  key: str
  image: Any = None
  captions: Sequence[Any] | None = None
  problem: str = ""
  kind: str = "items"
  meta: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Parquet(UserImages):
  """Tables with a column of images, bytes or {bytes, path}, and one of captions, a text or a list.

  Rows are read a few at a time; at most a row group is in memory, not a file.

  path     a .parquet file, a folder that is searched for them, or a glob
  image, caption  names of columns; "" finds them. A column of whole numbers may be the caption:
           classes, for the tokenizer labels:N
  """

  image: str = ""
  caption: str = ""

  def _files(self) -> list[str]:
    if os.path.isdir(self.path):
      found = glob.glob(os.path.join(glob.escape(self.path), "**", "*.parquet"), recursive=True)
    else:
      found = glob.glob(self.path, recursive=True)
    return sorted(found)

  def total(self) -> int:
    self.check_arguments()
    files, opened = self._files(), parquet()
    if not files:
      raise DataError(
        f"--path={self.path}: no .parquet found. Use a file, a folder or a quoted glob."
      )
    total, columns = 0, None
    for path in files:
      try:
        table = opened.ParquetFile(path)
      except Exception:  # the file is named where it is read
        total += 1
        continue
      with table:
        columns = columns or columns_of(table.schema_arrow, self.image, self.caption, path)
        total += table.metadata.num_rows
    return total

  def size_of(self, item: Item) -> int:
    return len(item.image or b"")

  def items(self) -> Iterator[Item | Account]:
    """Rows are read here, in the order of the sorted paths; workers decode the images."""
    files = self._files()
    for path, name in zip(files, names_of(files, SUFFIXES), strict=True):
      account = Account()
      account.find("files")
      try:
        yield from self._rows(path, name)
      except DataError:
        raise
      except Exception as error:
        problem = f"file is damaged: {reason_of(error)}"
        yield Item(printable(path), problem=problem, kind="files")
      else:
        account.use("files")
      yield account

  def _rows(self, path: str, name: str) -> Iterator[Item]:
    with parquet().ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as table:
      schema = table.schema_arrow
      columns = columns_of(schema, self.image, self.caption, path)
      wanted = [columns.image, *columns.captions]
      stated = [name for names in NAMES.values() for name in names]
      wanted += [name for name in (STATUS, *stated) if name in schema.names]
      wanted = list(dict.fromkeys(wanted))
      number = 0
      for batch in table.iter_batches(ROWS, columns=wanted, use_threads=False):
        for row in batch.to_pylist():
          yield _item(row, columns, printable(f"{name}/{number:08d}"))
          number += 1

  def captions_of(self, item: Item) -> Sequence[Any] | None:
    return item.captions

  def meta_of(self, item: Item) -> dict[str, Any]:
    return item.meta

  def image_of(self, item: Item) -> bytes:
    if not item.image:
      raise DataError("no image")
    check_size(len(item.image), MAX_BYTES)
    return item.image


@dataclasses.dataclass(frozen=True)
class Columns:
  """Names of the columns that are read."""

  image: str
  captions: tuple[str, ...]


def _item(row: dict[str, Any], columns: Columns, key: str) -> Item:
  image, problem = row[columns.image], ""
  if isinstance(image, dict):
    if not image.get("bytes") and image.get("path"):
      problem = f"no image: a path without bytes: {image['path']}"
    image = image.get("bytes")
  status = row.get(STATUS)
  if not image and not problem and isinstance(status, str) and status != "success":
    problem = f"no image: {status}"
  texts = [row[name] for name in columns.captions]
  return Item(key, image, caption_values(texts), printable(problem), meta=described(row))


def columns_of(schema: Any, image: str, caption: str, where: str) -> Columns:
  """The columns of images and of captions, given or found. Raises DataError.

  image, caption  as given by the user, or ""
  where           the file, for messages
  """
  import pyarrow as pa

  types = {field.name: field.type for field in schema}
  has = f"{where} has the columns " + ", ".join(f"{name} ({kind})" for name, kind in types.items())
  images = [name for name, kind in types.items() if _is_image(pa, kind)]
  whole = lambda kind: pa.types.is_integer(_inner(pa, kind))
  texts = [name for name, kind in types.items() if _is_text(pa, kind)]
  for given, able, flag, what in (
    (image, images, "--image", "bytes, or {bytes, path}"),
    (caption, texts + [n for n, k in types.items() if whole(k)], "--caption", "texts or lists"),
  ):
    if given and given not in able:
      raise DataError(f"{flag}={given} is no column of {what}: {has}.")
  if not image:
    if not images:
      hint = ""
      if {"url", "key", STATUS} <= set(types):
        hint = " It is img2dataset's table beside a tar: use --from webdataset."
      raise DataError(f"{has}; none holds the bytes of images.{hint}")
    image = _one_of(images, IMAGE_NAMES, f"{has}. Say which holds the images: --image=NAME.")
  if caption:
    return Columns(image, (caption,))
  named = tuple(name for name in texts if name.lower() in CAPTION_KEYS)
  if named:
    return Columns(image, named)
  if not texts:
    raise DataError(f"{has}; none holds captions. A column of numbers is taken by --caption=NAME.")
  return Columns(image, (_one_of(texts, (), f"{has}. Say which is the caption: --caption=NAME."),))


def _one_of(names: Sequence[str], preferred: Sequence[str], question: str) -> str:
  """The only name, or the first that is preferred. Raises DataError."""
  if len(names) == 1:
    return names[0]
  found = [name for wanted in preferred for name in names if name.lower() == wanted]
  if not found:
    raise DataError(question)
  return found[0]


def _inner(pa: Any, kind: Any) -> Any:
  """The type of a column's values, without dictionaries and lists."""
  while True:
    if pa.types.is_dictionary(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
      kind = kind.value_type
    else:
      return kind


def _is_bytes(pa: Any, kind: Any) -> bool:
  return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_image(pa: Any, kind: Any) -> bool:
  if pa.types.is_struct(kind):
    return any(
      kind.field(i).name == "bytes" and _is_bytes(pa, kind.field(i).type)
      for i in range(kind.num_fields)
    )
  return _is_bytes(pa, kind)


def _is_text(pa: Any, kind: Any) -> bool:
  inner = _inner(pa, kind)
  return pa.types.is_string(inner) or pa.types.is_large_string(inner)
