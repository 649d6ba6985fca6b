"""A user's folder of images, captions in .txt files beside them or in a metadata.jsonl."""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

from t2i_jax.data.items import in_chunks
from t2i_jax.data.user_images import UserImages, caption_fields, caption_lines, printable
from t2i_jax.errors import DataError

METADATA = "metadata.jsonl"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".npy")


@dataclasses.dataclass(frozen=True)
class Item:
  """An image file: its path under the root, and captions if a metadata.jsonl gives them.

  problem  a reason to skip it that is found without opening it
  """

  name: str
  captions: tuple[str, ...] | None = None
  problem: str = ""

  @property
  def key(self) -> str:
    return printable(self.name.replace(os.sep, "/"))


@dataclasses.dataclass(frozen=True)
class Folder(UserImages):
  """Images of a folder and its subfolders; names that begin with a dot are ignored.

  Captions of `a/b.jpg` are the lines of `a/b.txt`, or rows of a `metadata.jsonl` in any folder:
  {"file_name": "b.jpg", "text" | "caption" | "captions": ...}, names relative to that folder.

  path  of the folder; it is only read
  """

  def total(self) -> int:
    self.check_val_fraction()
    if not Path(self.path).is_dir():
      raise DataError(f"--path={self.path} is not a folder.")
    return sum(1 for _ in self._items())

  def tasks(self) -> Iterator[list[Item]]:
    return in_chunks(self._items())

  def _items(self) -> Iterator[Item]:
    """In the order of sorted paths, the same on every file system."""
    seen = set()
    given: set[str] = set()  # images that a metadata.jsonl of a parent folder lists
    unreadable: list[Item] = []

    def note(error: OSError) -> None:
      name = os.path.relpath(error.filename, self.path)
      unreadable.append(Item(name, problem=f"cannot be read: {error.strerror}"))

    for folder, folders, files in os.walk(self.path, onerror=note, followlinks=True):
      real = os.path.realpath(folder)
      if real in seen:  # a link to a parent folder
        folders.clear()
        continue
      seen.add(real)
      folders[:] = sorted(f for f in folders if not f.startswith("."))
      under = os.path.relpath(folder, self.path)
      listed: dict[str, tuple[str, ...]] = {}
      if METADATA in files:
        name = os.path.normpath(os.path.join(under, METADATA))
        try:
          listed, problems = _read_metadata(self.path, name)
        except OSError as error:
          problems = [Item(name, problem=f"cannot be read: {error.strerror}")]
        yield from problems
      here = {os.path.normpath(os.path.join(under, f)) for f in files if _is_image(f)}
      for name in sorted((here | set(listed)) - given):
        yield Item(name, listed.get(name))
      given |= set(listed) - here
    yield from unreadable

  def open_item(self, item: Item) -> tuple[bytes, list[str] | None]:
    path = Path(self.path) / item.name
    captions = list(item.captions) if item.captions is not None else _beside(path)
    return path.read_bytes(), captions


def _is_image(name: str) -> bool:
  return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _beside(path: Path) -> list[str] | None:
  try:
    return caption_lines(path.with_suffix(".txt").read_bytes())
  except FileNotFoundError:
    return None


def _read_metadata(root: str, name: str) -> tuple[dict[str, tuple[str, ...]], list[Item]]:
  """Captions by path under the root, and the invalid rows of one metadata.jsonl."""
  captions: dict[str, tuple[str, ...]] = {}
  problems = []
  under = os.path.dirname(name)
  with open(os.path.join(root, name), "rb") as lines:
    for number, line in enumerate(lines, 1):
      where = f"{name}:{number}"
      try:
        row = json.loads(line.decode("utf-8-sig"))
        file_name = row["file_name"]
        path = os.path.normpath(os.path.join(under, file_name))
      except (ValueError, TypeError, KeyError) as error:
        if line.strip():
          problems.append(Item(where, problem=f"bad row: {type(error).__name__} {error}"))
        continue
      if os.path.isabs(file_name) or path.split(os.sep)[0] == ".." or "\0" in path:
        problems.append(Item(where, problem=f"outside of the folder: {file_name}"))
        continue
      found = caption_fields(row)
      if found is None:
        problems.append(Item(where, problem="no caption"))
        continue
      captions[path] = (*captions.get(path, ()), *found)
  return captions, problems
