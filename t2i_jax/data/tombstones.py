"""Tombstones: records of a built folder that a run does not read, as config.data.tombstones names.

A JSON file with the hash of the folder's manifest, so that indices are of no other folder. At each
position of the order at which one of them would be read, another record is: data.substitutes.
Positions, and with them the noise and the choice of captions of all other rows, stay as they are.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from t2i_jax.data.roles import Without
from t2i_jax.data.source import manifest_hash
from t2i_jax.errors import DataError, WorkdirError

FORMAT = "t2i_jax/tombstones/1"


def read_tombstones(path: str | Path, folder: str | Path) -> dict[str, tuple[int, ...]]:
  """Indices by split, sorted; {} for the path "".

  folder  the built folder that they are of
  Raises DataError where they are of another one.
  """
  if not path:
    return {}
  where = f"data.tombstones = {str(path)!r}"
  try:
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("format") != FORMAT:
      raise ValueError(f"it is not of the format {FORMAT!r}")
    splits = {split: tuple(sorted(set(map(int, i)))) for split, i in found["splits"].items()}
    data = str(found["data"])
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
    raise DataError(
      f"{where} cannot be read: {error}. Write it with: t2i consent --optout=LIST --tombstones=FILE"
    ) from error
  if data != manifest_hash(folder):
    raise DataError(
      f"{where} is of a folder whose manifest.json has the hash {data[:12]}; that of {folder} is "
      f"{manifest_hash(folder)[:12]}. Write it again: t2i consent --optout=LIST --tombstones=FILE"
    )
  return {split: indices for split, indices in splits.items() if indices}


def write_tombstones(
  path: str | Path, folder: str | Path, splits: Mapping[str, Sequence[int]], optout: str
) -> None:
  """Writes the file.   optout: digest of the list that names them.   Raises WorkdirError."""
  content = {
    "format": FORMAT,
    "data": manifest_hash(folder),
    "optout": optout,
    "splits": {split: sorted(set(indices)) for split, indices in splits.items()},
  }
  try:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
  except OSError as error:
    raise WorkdirError(f"{path} cannot be written: {error.strerror}.") from error


def joined(one: Without, other: Without) -> dict[str, tuple[int, ...]]:
  """Tombstones of both."""
  found = {split: {*one.get(split, ()), *other.get(split, ())} for split in {**one, **other}}
  return {split: tuple(sorted(indices)) for split, indices in found.items()}
