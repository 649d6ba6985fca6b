"""Tensors of safetensors files, read in slices and written file by file. Nothing is unpickled."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from t2i_jax.errors import RestoreError

STEM = "diffusion_pytorch_model"
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
LISTED = 10  # names in one message; the rest is counted


def some(names: Iterable[str]) -> str:
  """Names for a message: the first LISTED, and the number of the rest."""
  found = sorted(names)
  more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
  return ", ".join(found[:LISTED]) + more


class Stored(NamedTuple):
  """Where a tensor is stored.   key: its name in that file"""

  file: Path
  key: str
  shape: tuple[int, ...]
  dtype: str  # in safetensors' notation, "BF16"


class Tensors:
  """The tensors of some safetensors files by name. Close it, or use it as a context manager."""

  def __init__(self) -> None:
    self.stored: dict[str, Stored] = {}
    self.again: list[tuple[str, Stored]] = []  # further tensors of a name, after renaming
    self._files: dict[Path, Any] = {}
    self._open = ExitStack()

  def __enter__(self) -> "Tensors":
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()

  def close(self) -> None:
    self._open.close()

  def add(self, path: Path) -> None:
    """Adds the tensors of a file. Raises RestoreError where the file is incomplete."""
    try:
      opened = self._open.enter_context(safe_open(path, framework="numpy"))
    except (SafetensorError, OSError) as error:
      raise RestoreError(
        f"{path.name} is incomplete or not safetensors: {_lengths(path)} ({error}). Copy it again."
      ) from error
    self._files[path] = opened
    for key in opened.keys():  # noqa: SIM118  not a dict
      about = opened.get_slice(key)
      self.stored[key] = Stored(path, key, tuple(about.get_shape()), about.get_dtype())

  def keep(self, prefix: str) -> None:
    """Keeps only the tensors whose names begin with the prefix, and removes it from them."""
    kept = {name: at for name, at in self.stored.items() if name.startswith(prefix)}
    self.stored = {name.removeprefix(prefix): at for name, at in kept.items()}

  def rename(self, name_of: Callable[[str], str | None]) -> None:
    """Gives tensors other names; those that it maps to None are left out."""
    stored, self.stored = self.stored, {}
    for name, at in stored.items():
      to = name_of(name)
      if to in self.stored:
        self.again.append((to, at))
      elif to is not None:
        self.stored[to] = at

  def squeeze(self, which: Callable[[str], bool]) -> None:
    """Drops the axes of size 1 after the second of these tensors: matrices stored as 1 x 1
    convolutions."""
    for name, at in self.stored.items():
      if which(name) and at.shape[2:] == (1,) * len(at.shape[2:]):
        self.stored[name] = at._replace(shape=at.shape[:2])

  def read(self, name: str, slices: tuple[slice, ...]) -> np.ndarray:
    """A slice of a tensor, in the dtype it is stored in."""
    return self.read_at(self.stored[name], slices)

  def read_at(self, at: Stored, slices: tuple[slice, ...]) -> np.ndarray:
    """As `read`, of a tensor by where it is stored."""
    stored = self._files[at.file].get_slice(at.key)
    dropped = len(stored.get_shape()) - len(at.shape)
    if not dropped:
      return stored[slices]
    found = stored[(*slices, *[slice(0, 1)] * dropped)]
    return found.reshape(found.shape[: len(at.shape)])


def _lengths(path: Path) -> str:
  """The size of a damaged file, and the size that its header gives if it can be read."""
  size = path.stat().st_size
  try:
    with path.open("rb") as f:
      length = int.from_bytes(f.read(8), "little")
      header = json.loads(f.read(min(length, size)))
    end = max(about["data_offsets"][1] for key, about in header.items() if key != "__metadata__")
    return f"it has {size} bytes of {8 + length + end}"
  except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
    return f"it has {size} bytes and no header that can be read"


class Found(NamedTuple):
  """The tensors of a folder.

  problems  of its files, one text each
  lost      names that its index assigns to files that cannot be read
  """

  tensors: Tensors
  problems: list[str]
  lost: set[str]

  def renamed(self, name_of: Callable[[str], str | None]) -> "Found":
    """With other names: see Tensors.rename."""
    self.tensors.rename(name_of)
    lost = {to for to in map(name_of, self.lost) if to is not None}
    return self._replace(lost=lost)


def open_tensors(folder: Path, stem: str = STEM) -> Found:
  """The tensors of a folder: of the file with this stem, or of several files with an index.

  Where there is neither, they are those of the one variant that is there, as "fp16" of
  STEM.fp16.safetensors. Raises RestoreError where there is none, or several.
  """
  single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
  if not index.is_file() and not single.is_file():
    single, index = _of_variant(folder, stem) or (single, index)
  found = Found(Tensors(), [], set())
  if not index.is_file():
    if not single.is_file():
      raise RestoreError(f"{folder} has no {single.name}{_instead(folder)}")
    _add(found, single, None)
    return found
  try:
    weight_map = json.loads(index.read_text())["weight_map"]
    by_file: dict[str, set[str]] = {}
    for name, file in weight_map.items():
      by_file.setdefault(file, set()).add(name)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise RestoreError(f"{index} cannot be read: {error!r}. Copy it again.") from error
  for file in sorted(by_file):
    _add(found, folder / Path(file).name, by_file[file])
  return found


def _of_variant(folder: Path, stem: str) -> tuple[Path, Path] | None:
  """The file and the index of the only variant in a folder, of which one exists; None: no variant.

  Raises RestoreError where there are several.
  """
  named = re.compile(rf"{stem}\.(?:safetensors\.index\.(\w+)\.json|(\w+)\.safetensors)")
  matches = map(named.fullmatch, (path.name for path in folder.iterdir()))
  variants = sorted({match[1] or match[2] for match in matches if match})
  if len(variants) > 1:
    raise RestoreError(
      f"{folder} has no {stem}.safetensors, and the variants {', '.join(variants)}: remove the "
      "files of all but one."
    )
  if not variants:
    return None
  (name,) = variants
  return folder / f"{stem}.{name}.safetensors", folder / f"{stem}.safetensors.index.{name}.json"


def _add(found: Found, path: Path, names: set[str] | None) -> None:
  """Adds a file;   names: those that the index assigns to it"""
  if not path.is_file():
    found.problems.append(f"{path.name}, which the index names, is missing")
    found.lost.update(names or ())
    return
  try:
    found.tensors.add(path)
  except RestoreError as error:
    found.problems.append(str(error).rstrip("."))
    found.lost.update(names or ())
    return
  there = {key for key, at in found.tensors.stored.items() if at.file == path}
  absent = set() if names is None else names - there
  if absent:
    found.problems.append(f"{path.name} lacks tensors of the index: {some(absent)}")
    found.lost.update(absent)


def _instead(folder: Path) -> str:
  """The end of a message about missing weights: the files that are there."""
  files = [path.name for path in folder.iterdir() if path.is_file()]
  pickles = [name for name in files if name.endswith(PICKLES)]
  others = [name for name in files if name.endswith(".safetensors")]
  if others:
    return f", but {some(others)}: rename the file, or use load_file for an original layout."
  if pickles:
    return (
      f", but {some(pickles)}: pickles can execute code and are not read. "
      "Use the safetensors files, or save the model with safe_serialization=True."
    )
  return " and no other weights. Give the folder of the transformer."


class Planned(NamedTuple):
  """One tensor to write."""

  name: str
  size: int  # bytes


def plan_files(tensors: Iterable[Planned], limit: int) -> list[list[str]]:
  """Names by file, in order; at most `limit` bytes per file unless one tensor is larger."""
  files: list[list[str]] = [[]]
  filled = 0
  for name, size in tensors:
    if files[-1] and filled + size > limit:
      files.append([])
      filled = 0
    files[-1].append(name)
    filled += size
  return files


def file_names(stem: str, count: int) -> Iterator[str]:
  if count == 1:
    yield f"{stem}.safetensors"
    return
  yield from (f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1))


def write_file(
  path: Path, tensors: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None
) -> None:
  """about: what the header says besides. Raises OSError where it cannot be written."""
  try:
    save_file(dict(tensors), path, metadata={"format": "pt", **(about or {})})
  except SafetensorError as error:
    raise OSError(str(error)) from error


def write_index(folder: Path, stem: str, weight_map: Mapping[str, str], total: int) -> None:
  content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
  (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n")
