"""A user's folder of pictures, captions in .txt files beside them or in a metadata.jsonl."""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from t2i_jax.data.items import (
  Made,
  Skipped,
  caption_fields,
  caption_lines,
  check_val_fraction,
  in_chunks,
  printable,
  user_item,
)
from t2i_jax.errors import DataError

METADATA = "metadata.jsonl"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".npy")


@dataclasses.dataclass(frozen=True)
class Item:
  """A picture found: its path under the root, and captions if a metadata.jsonl gives them.

  problem  the reason to skip it, known without opening it
  """

  name: str
  captions: tuple[str, ...] | None = None
  problem: str = ""


@dataclasses.dataclass(frozen=True)
class Folder:
  """Pictures of a folder and the folders in it; names that begin with a dot are passed over.

  Captions of `a/b.jpg` are the lines of `a/b.txt`, or rows of a `metadata.jsonl` in any folder:
  {"file_name": "b.jpg", "text" | "caption" | "captions": ...}, names relative to that folder.

  path                  of the folder; it is only read
  max_size              pixels that the longer side may have; None leaves sizes alone
  val_fraction          share of the pictures held out as "val", by hash of the name; at least one
  licence, attribution  of the pictures, for the manifest
  """

  path: str
  max_size: int | None = None
  val_fraction: float = 0.02
  licence: str = "not stated"
  attribution: str = ""

  splits: ClassVar = ("train", "val")
  vocab: ClassVar = 4096
  holds_out: ClassVar = True

  def total(self) -> int:
    check_val_fraction(self.val_fraction)
    if not Path(self.path).is_dir():
      raise DataError(f"--path={self.path} is no folder.")
    return sum(1 for _ in self._items())

  def tasks(self) -> Iterator[list[Item]]:
    return in_chunks(self._items())

  def _items(self) -> Iterator[Item]:
    """In the order of sorted paths, the same on every file system."""
    seen = set()
    given: set[str] = set()  # pictures that a metadata.jsonl further up names
    closed: list[Item] = []

    def note(error: OSError) -> None:
      name = os.path.relpath(error.filename, self.path)
      closed.append(Item(name, problem=f"cannot be read: {error.strerror}"))

    for folder, folders, files in os.walk(self.path, onerror=note, followlinks=True):
      real = os.path.realpath(folder)
      if real in seen:  # a link back up
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
      here = {os.path.normpath(os.path.join(under, f)) for f in files if _is_picture(f)}
      for name in sorted((here | set(listed)) - given):
        yield Item(name, listed.get(name))
      given |= set(listed) - here
    yield from closed

  def make(self, task: list[Item]) -> list[Made | Skipped]:
    return [self._make(item) for item in task]

  def _make(self, item: Item) -> Made | Skipped:
    key = printable(item.name.replace(os.sep, "/"))
    path = Path(self.path) / item.name
    try:
      if item.problem:
        raise DataError(item.problem)
      captions = list(item.captions) if item.captions is not None else _beside(path)
      return user_item(key, path.read_bytes(), captions, self.max_size, self.val_fraction)
    except DataError as error:
      return Skipped(key, str(error))
    except OSError as error:
      return Skipped(key, f"cannot be read: {error.strerror}")


def _is_picture(name: str) -> bool:
  return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _beside(path: Path) -> list[str] | None:
  try:
    return caption_lines(path.with_suffix(".txt").read_bytes())
  except FileNotFoundError:
    return None


def _read_metadata(root: str, name: str) -> tuple[dict[str, tuple[str, ...]], list[Item]]:
  """Captions by path under the root, and what is wrong with rows of one metadata.jsonl."""
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
