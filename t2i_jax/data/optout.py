"""Opt-out lists: what is not to be trained on, and which records of a folder that is.

A text file with an entry a line; what follows a # is a remark:

    sha256:2c26b46b68ffc68ff99b453c1d304134...   of an image file, as it was given or is stored
    phash:f0e1c3870f1e3c78                       of an image: data.perceptual
    author:Ada Lovelace                          case and outer spaces do not count
    id:train/000123                              the key of a record

A content hash misses a copy that was scaled or compressed again; a perceptual hash finds it, and
others besides, at a rate that `Matches.false` has.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from t2i_jax.data.images import decode
from t2i_jax.data.perceptual import RADIUS, distances, false_matches, perceptual_hash
from t2i_jax.data.provenance import Provenance, read_provenance
from t2i_jax.data.source import ShardSource, images_folder
from t2i_jax.errors import DataError

SHAPES = {
  "sha256": (re.compile(r"[0-9a-f]{64}"), "64 hexadecimal digits"),
  "phash": (re.compile(r"[0-9a-f]{16}"), "16 hexadecimal digits"),
  "author": (re.compile(r".+"), "a name"),
  "id": (re.compile(r".+"), "the key of a record"),
}


class OptOut(NamedTuple):
  """The entries by kind, a dict of the normal form of each to the line as it was written.

  digest  SHA-256 of all entries, whatever their order and remarks
  """

  entries: Mapping[str, Mapping[str, str]]

  @property
  def digest(self) -> str:
    lines = sorted(f"{kind}:{value}" for kind, found in self.entries.items() for value in found)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()

  @property
  def phashes(self) -> tuple[int, ...]:
    return tuple(int(value, 16) for value in self.entries.get("phash", {}))

  def of(self, found: Provenance) -> list[tuple[str, str]]:
    """The entries, kind and normal form, that a record matches; perceptual hashes left out."""
    values = [("sha256", one) for one in found.hashes]
    values += [("author", normal("author", found.author)), ("id", found.key)]
    return [(kind, value) for kind, value in values if value in self.entries.get(kind, {})]


class Match(NamedTuple):
  """A record of a list.   number: its index;   why: the entries that it matches, as written"""

  split: str
  number: int
  provenance: Provenance
  why: tuple[str, ...]


class Matches(NamedTuple):
  """Records of a folder that a list names.

  where, total  the folder and its splits, and how many records they have
  unmatched  entries, as they were written, that no record matches
  false      of pairs of different images of the folder, how many are within the radius of the
             perceptual hash, and of how many; (0, 0) where the list has no perceptual hash
  """

  where: str
  total: int
  records: list[Match]
  unmatched: list[str]
  false: tuple[int, int]

  def by_split(self) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for match in self.records:
      found.setdefault(match.split, []).append(match.number)
    return found


def normal(kind: str, value: str) -> str:
  """An entry's value in the form in which it is compared."""
  value = value.strip()
  return value.casefold() if kind == "author" else value if kind == "id" else value.lower()


def entries_of(lines: Iterable[str], where: str) -> OptOut:
  """A list of lines.   where: they are from, for messages.   Raises DataError."""
  found: dict[str, dict[str, str]] = {}
  for number, line in enumerate(lines, 1):
    text = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
    if not text:
      continue
    kind, colon, value = text.partition(":")
    if not colon or kind not in SHAPES:
      raise DataError(
        f"{where}, line {number}: {text[:60]!r} is no entry. Write KIND:VALUE, of the kinds "
        f"{', '.join(SHAPES)}."
      )
    pattern, said = SHAPES[kind]
    value = normal(kind, value)
    if not pattern.fullmatch(value):
      raise DataError(f"{where}, line {number}: {text[:60]!r}: write {said} after {kind}:.")
    found.setdefault(kind, {})[value] = text
  if not found:
    raise DataError(f"{where} has no entry. Write one a line, as author:NAME or sha256:HASH.")
  return OptOut(found)


def read_optout(path: str | Path) -> OptOut:
  """The list of a file. Raises DataError."""
  try:
    text = Path(path).read_bytes().decode("utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f"{path} cannot be read as UTF-8: {error}.") from error
  return entries_of(text.split("\n"), str(path))


def match(
  optout: OptOut, folder: str | Path, splits: Sequence[str], radius: int = RADIUS
) -> Matches:
  """The records of some splits of a built folder that a list names.

  radius  bits in which perceptual hashes may differ
  A folder of latents is compared by the images that these are of. Raises DataError where these are
  needed and are not there, or have changed.
  """
  found: list[Match] = []
  hashes: list[int] = []
  same: list[str] = []
  total, hit = 0, set[tuple[str, str]]()
  listed = optout.phashes
  pixels = images_folder(folder) if listed else folder
  for split in dict.fromkeys(splits):
    images = ShardSource(pixels, split) if listed else None
    for index, one in enumerate(read_provenance(folder, split)):
      total += 1
      of = optout.of(one)
      if images is not None:
        own = [perceptual_hash(decode(image)) for image in images[index].images]
        hashes.append(own[0])
        same.append(one.hashes[0])
        of += [("phash", f"{value:016x}") for value in near(own, listed, radius)]
      if of:
        hit.update(of)
        why = tuple(optout.entries[kind][value] for kind, value in dict.fromkeys(of))
        found.append(Match(split, index, one, why))
  unmatched = [
    text
    for kind, entries in optout.entries.items()
    for value, text in entries.items()
    if (kind, value) not in hit
  ]
  false = false_matches(hashes, same, radius) if hashes else (0, 0)
  return Matches(f"{', '.join(splits)} in {folder}", total, found, unmatched, false)


def check_matches(matches: Matches, *others: Matches) -> None:
  """Raises DataError where neither these nor others have a record, or these are all there are.

  others  of the data of which models drew these
  """
  each = (matches, *others)
  if not any(one.records for one in each):
    compared = ", and ".join(f"none of the {one.total:,} records of {one.where}" for one in each)
    raise DataError(
      f"{compared} matches one of the {len(matches.unmatched)} entries, as "
      f"{matches.unmatched[0]!r}. A hash is of the image's file as it was built; authors are those "
      "of its .provenance.jsonl files."
    )
  if len(matches.records) == matches.total:
    raise DataError(
      f"all {matches.total:,} records of {matches.where} match the list, the first by "
      f"{matches.records[0].why[0]!r}: nothing would be left. Make the list narrower."
    )


def near(hashes: Sequence[int], listed: Sequence[int], radius: int) -> list[int]:
  """Those of a list that some of the hashes match."""
  far = distances(np.array(listed, np.uint64), np.array(hashes, np.uint64)).min(axis=1)
  return [value for value, bits in zip(listed, far.tolist(), strict=True) if bits <= radius]
