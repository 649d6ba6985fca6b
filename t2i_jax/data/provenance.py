"""Where each record comes from: content hashes, author, licence and consent, a line a record.

`t2i data build` writes them beside the shards, as SPLIT.provenance.jsonl, whose hash is in the
manifest; a folder that was built before has none, and the same is read from its records. Latents
have those of their images.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from t2i_jax.data.record import Record
from t2i_jax.data.shards import sha256_of
from t2i_jax.data.source import PROVENANCE, ShardSource, images_folder, read_manifest
from t2i_jax.errors import DataError

END = ".provenance.jsonl"  # of the name of a split's file
# By what it is called here: what rows of users, and the metadata of records, call it.
NAMES = {
  "author": ("author", "artist", "creator"),
  "licence": ("licence", "license"),
  "consent": ("consent",),
}
LONGEST = 300  # characters
# Of an XMP packet in an image file [iptc.org/std/photometadata]: data mining is prohibited.
PROHIBITED = re.compile(rb"DMI-PROHIBITED[A-Z-]*")


class Provenance(NamedTuple):
  """Of a record; "" where it is not stated.

  key      of the record
  hashes   SHA-256, in hexadecimal, of its image files as they are stored, the first one first; then
           of the file that was read, where that was stored in another form
  author, licence, consent  as its source states them
  """

  key: str
  hashes: tuple[str, ...]
  author: str = ""
  licence: str = ""
  consent: str = ""

  def line(self) -> str:
    """As JSON; what is not stated is left out."""
    stated = {name: value for name, value in self._asdict().items() if value}
    return json.dumps(stated, ensure_ascii=False)


def described(fields: Any) -> dict[str, str]:
  """Author, licence and consent of a JSON object or a row of a table, for a record's metadata."""
  if not isinstance(fields, Mapping):
    return {}
  found = {}
  for name, keys in NAMES.items():
    value = next((fields[key] for key in keys if isinstance(fields.get(key), str)), "").strip()
    if value:
      found[name] = value[:LONGEST]
  return found


def signal_in(data: bytes) -> str:
  """The consent that an image file itself states, or ""."""
  found = PROHIBITED.search(data)
  return f"plus:DataMining {found[0].decode()}" if found else ""


def provenance_of(record: Record, original: bytes | None = None) -> Provenance:
  """Of a record.   original: the file of its image as it was read"""
  files = [*record.images, *(() if original is None else (original,))]
  hashes = tuple(dict.fromkeys(hashlib.sha256(file).hexdigest() for file in files))
  stated = described(record.meta)
  if "consent" not in stated and signal_in(files[-1]):
    stated["consent"] = signal_in(files[-1])
  return Provenance(record.key, hashes, **stated)


def read_provenance(folder: str | Path, split: str) -> Iterator[Provenance]:
  """Of each record of a split, in the order of their indices.

  Of latents that have no such file, those of their images. Raises DataError where the file of a
  folder is not what was built, and where those images are needed and are not there.
  """
  folder = Path(folder)
  manifest = read_manifest(folder)
  entry = manifest.get(PROVENANCE, {}).get(split)
  if entry is None:
    images = images_folder(folder)
    if images != folder:
      yield from read_provenance(images, split)
      return
    source = ShardSource(folder, split)
    yield from (provenance_of(source[i]) for i in range(len(source)))
    return
  digest, count, path = hashlib.sha256(), 0, folder / entry["file"]
  try:
    with path.open("rb") as lines:
      for line in lines:
        digest.update(line)
        fields = json.loads(line)
        yield Provenance(**fields | {"hashes": tuple(fields["hashes"])})
        count += 1
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise DataError(f"{path}, line {count + 1}: cannot be read: {error}.") from error
  if digest.hexdigest() != entry["sha256"] or count != manifest["splits"][split]["records"]:
    raise DataError(
      f"{path} is not what was built: {count} lines, another sha256 than the manifest says."
    )


def copy_provenance(folder: str | Path, split: str, to: Path) -> dict[str, str] | None:
  """Gives the same split of another folder, `to`, the file of this one. Returns the manifest's
  entry; None, and nothing is written, for latents that have none of their own.

  Raises DataError as read_provenance does.
  """
  manifest = read_manifest(folder)
  if split not in manifest.get(PROVENANCE, {}) and "latents" in manifest:
    return None
  path = to / f"{split}{END}"
  with path.open("w", encoding="utf-8") as lines:
    lines.writelines(f"{one.line()}\n" for one in read_provenance(folder, split))
  return {"file": path.name, "sha256": sha256_of(path)}


def without_files(folder: str | Path) -> str:
  """What holds for a folder that was built without these files, as a sentence; else ""."""
  manifest = read_manifest(folder)
  if manifest["splits"].keys() <= manifest.get(PROVENANCE, {}).keys():
    return ""
  images = images_folder(folder)
  if images != Path(folder):
    return without_files(images)
  return (
    f"{folder} was built without provenance: hashes are of the image files that it stores, not of "
    "those that were given, and authors those in the metadata of its records"
  )
