"""A user's folder of images, captions in .txt files beside them or in a metadata.jsonl."""

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from t2i_jax.data.account import Account
from t2i_jax.data.captions import caption_fields, caption_lines
from t2i_jax.data.conditions import KEYPOINTS, checked_keypoints
from t2i_jax.data.files import MAX_TEXT, lines_of, open_regular, read_regular
from t2i_jax.data.images import is_image_name
from t2i_jax.data.provenance import described
from t2i_jax.data.user_images import UserImages, printable, reason_of
from t2i_jax.errors import DataError

METADATA = "metadata.jsonl"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".npy")
HIDDEN, OTHER = "name begins with a dot", "neither image nor captions"
NOT_READ = "not read: metadata.jsonl has the captions"


@dataclasses.dataclass(frozen=True)
class Item:
  """An image file: its path under the root, and captions if a metadata.jsonl gives them.

  beside   path of its file of captions, or ""
  meta     what its row gives besides: provenance, keypoints
  problem  a reason to skip it that is found without opening it
  kind     "items"; "files", "rows" or "folders" of what is named and is no image
  """

  name: str
  captions: Sequence[Any] | None = None
  beside: str = ""
  meta: dict[str, Any] = dataclasses.field(default_factory=dict)
  problem: str = ""
  kind: str = "items"

  @property
  def key(self) -> str:
    return printable(self.name.replace(os.sep, "/"))


@dataclasses.dataclass(frozen=True)
class Folder(UserImages):
  """Images of a folder and its subfolders; names that begin with a dot are ignored.

  Captions of `a/b.jpg` are the lines of `a/b.txt`, or rows of a `metadata.jsonl` in any folder:
  {"file_name": "b.jpg", "text" | "caption" | "captions": ...}, names relative to that folder. A row
  may have "author", "licence" and "consent": data.provenance; and "keypoints" of people, for
  condition images: data.conditions.skeleton.

  path  of the folder; it is only read
  """

  def total(self) -> int:
    self.check_arguments()
    if not Path(self.path).is_dir():
      raise DataError(f"--path={self.path} is not a folder.")
    return sum(not isinstance(item, Account) for item in self.items())

  def size_of(self, item: Item) -> int:
    try:
      return os.stat(os.path.join(self.path, item.name)).st_size
    except (OSError, ValueError):
      return 0

  def captions_of(self, item: Item) -> Sequence[Any] | None:
    if item.captions is not None or not item.beside:
      return item.captions
    return caption_lines(read_regular(os.path.join(self.path, item.beside), MAX_TEXT))

  def meta_of(self, item: Item) -> dict[str, Any]:
    return item.meta

  def image_of(self, item: Item) -> bytes:
    return read_regular(os.path.join(self.path, item.name))

  def items(self) -> Iterator[Item | Account]:
    """In the order of sorted paths, the same on every file system."""
    account = Account()
    metadata = _Metadata(self.path, account)
    for under, files in self._folders([]):
      if METADATA in files:
        metadata.read(under)
    unreadable: list[Item] = []
    for under, files in self._folders(unreadable):
      yield from metadata.problems.get(under, ())
      yield from _items_of(under, files, metadata, account)
    account.find("folders", len(unreadable))
    yield from unreadable
    yield account

  def _folders(self, unreadable: list[Item]) -> Iterator[tuple[str, list[str]]]:
    """Paths of the folders under the root with their files; each once, also if it is linked."""

    def note(error: OSError) -> None:
      name = os.path.relpath(error.filename, self.path)
      unreadable.append(Item(name, problem=reason_of(error), kind="folders"))

    seen = set()
    for folder, folders, files in os.walk(self.path, onerror=note, followlinks=True):
      real = os.path.realpath(folder)
      if real in seen:  # a link to a parent folder
        folders.clear()
        continue
      seen.add(real)
      folders[:] = sorted(f for f in folders if not f.startswith("."))
      yield os.path.relpath(folder, self.path), files


class _Metadata:
  """The rows of all metadata.jsonl of a folder.

  captions   by path of the image under the root;   meta: what rows give besides, by that path
  listed     by path of the folder: the images that its file is the first to list
  problems   by path of the folder: rows that cannot be used, or the file
  """

  def __init__(self, root: str, account: Account):
    self._root, self._account = root, account
    self.captions: dict[str, list[Any]] = {}
    self.meta: dict[str, dict[str, Any]] = {}
    self.listed: dict[str, list[str]] = {}
    self.problems: dict[str, list[Item]] = {}

  def read(self, under: str) -> None:
    """Reads the file of one folder."""
    name = os.path.normpath(os.path.join(under, METADATA))
    listed, problems = self.listed.setdefault(under, []), self.problems.setdefault(under, [])
    self._account.find("files")
    try:
      with open_regular(os.path.join(self._root, name)) as file:
        for number, line in enumerate(lines_of(file), 1):
          if line is not None and not line.strip():
            continue
          self._account.find("rows")
          try:
            path, captions, meta = _row(under, line)
          except Exception as error:
            reason = reason_of(error)
            problems.append(Item(f"{name}:{number}", problem=reason, kind="rows"))
            continue
          self._account.use("rows")
          if path not in self.captions:
            listed.append(path)
          self.captions.setdefault(path, []).extend(captions)
          self.meta.setdefault(path, {}).update(meta)
    except Exception as error:
      problems.append(Item(name, problem=reason_of(error), kind="files"))
    else:
      self._account.use("files")


def _row(under: str, line: bytes | None) -> tuple[str, list[Any], dict[str, Any]]:
  """The path under the root, the captions and the metadata of a row. Raises DataError."""
  if line is None:
    raise DataError(f"bad row: more than {MAX_TEXT:,} bytes")
  try:
    row = json.loads(line.decode("utf-8-sig"))
    file_name = row["file_name"]
    path = os.path.normpath(os.path.join(under, file_name))
  except Exception as error:
    raise DataError(f"bad row: {type(error).__name__} {error}") from error
  if os.path.isabs(file_name) or path.split(os.sep)[0] == ".." or "\0" in path:
    raise DataError(f"outside of the folder: {file_name}")
  found = caption_fields(row)
  if found is None:
    raise DataError("no caption")
  meta: dict[str, Any] = dict(described(row))
  if KEYPOINTS in row:
    meta[KEYPOINTS] = checked_keypoints(row[KEYPOINTS])
  return path, found, meta


def _items_of(
  under: str, files: list[str], metadata: _Metadata, account: Account
) -> Iterator[Item]:
  """The items of a folder and its files that are to be named; `account` gets its files."""
  files = [name for name in files if name != METADATA]  # which is counted where it is read
  names = sorted(name for name in files if not name.startswith("."))
  account.find("files", len(files))
  account.reject("files", HIDDEN, len(files) - len(names))
  path_of = {name: os.path.normpath(os.path.join(under, name)) for name in names}
  listed = {name for name in names if path_of[name] in metadata.captions}
  images = listed | {name for name in names if name.lower().endswith(SUFFIXES)}
  texts = [name for name in names if name.lower().endswith(".txt") and name not in listed]
  by_stem = {_stem(name): name for name in sorted(texts, key=lambda name: name.endswith(".txt"))}
  beside = {path_of[name]: by_stem.get(_stem(name)) for name in images - listed}
  for path in sorted({*beside, *metadata.listed.get(under, ())}):
    text = beside.get(path)
    beside_it, meta = path_of[text] if text else "", metadata.meta.get(path, {})
    yield Item(path, metadata.captions.get(path), beside_it, meta)
  read = set(beside.values())
  stems = {_stem(name) for name in listed}
  for name in names:
    if name in images or name in read:
      account.use("files")
    elif name in texts and _stem(name) in stems:
      account.reject("files", NOT_READ)
    elif name in texts:
      yield Item(path_of[name], problem="no image: captions alone", kind="files")
    elif is_image_name(name):
      reason = f"format is not read: {os.path.splitext(name)[1]}"
      yield Item(path_of[name], problem=reason, kind="files")
    else:
      account.reject("files", OTHER)


def _stem(name: str) -> str:
  return os.path.splitext(name)[0]
