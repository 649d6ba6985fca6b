"""Checking a built folder, record by record, against its manifest."""

import dataclasses
import os
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from t2i_jax.data.features import StoredText, features_of, texts_of
from t2i_jax.data.images import decode, is_latent, read_latent
from t2i_jax.data.parallel_map import ordered_map
from t2i_jax.data.progress import Meter
from t2i_jax.data.record import unpack
from t2i_jax.data.shards import sha256_of
from t2i_jax.data.source import PROVENANCE, open_shard, read_manifest, size_problem
from t2i_jax.data.tokenize import Tokenizer, file_problem
from t2i_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Problem:
  """A problem of a file, or of one record of it."""

  file: str
  record: int | None
  what: str

  def __str__(self) -> str:
    where = self.file if self.record is None else f"{self.file}, record {self.record}"
    return f"{where}: {self.what}"


def verify(
  folder: str | Path, *, workers: int | None = None, progress: bool = True
) -> list[Problem]:
  """Reads and decodes every record of a built folder. Returns its problems.

  Checked: each shard's size, hash and number of records; that each record has the schema, an image
  that decodes, captions that are not empty, and their features where the folder has some; sums of
  records and captions by split; the hashes of the tokenizer and of the lines of provenance; and
  that the manifest lists all shards.
  Raises DataError where there is no manifest, or a field of it is missing or odd.
  """
  folder = Path(folder)
  manifest = read_manifest(folder)
  problems = _check_tokenizer(folder, manifest)
  named = {shard["file"] for split in manifest["splits"].values() for shard in split["shards"]}
  for path in sorted(folder.glob("*.arrayrecord")):
    if path.name not in named:
      problems.append(Problem(path.name, None, "is not in the manifest"))
  total = sum(split["records"] for split in manifest["splits"].values())
  shards = [shard for split in manifest["splits"].values() for shard in split["shards"]]
  workers = (os.cpu_count() or 1) if workers is None else workers
  if workers < 1:
    raise DataError(f"--workers={workers} must be at least 1.")
  workers = max(1, min(workers, len(shards)))
  captions: dict[str, int] = {}
  texts = texts_of(folder)
  check = partial(check_shard, folder, encoders={} if texts is None else texts.encoders)
  with Meter(f"verifying {folder.name}", total, progress) as meter:
    for shard, (found, count) in zip(shards, ordered_map(check, shards, workers), strict=True):
      problems += found
      captions[shard["file"]] = count
      meter.advance(shard["records"])
  for name, split in manifest["splits"].items():
    problems += _check_sums(name, split, captions)
  for entry in manifest.get(PROVENANCE, {}).values():
    problems += _check_provenance(folder, entry)
  return problems


def _check_provenance(folder: Path, entry: dict[str, str]) -> list[Problem]:
  try:
    if sha256_of(folder / entry["file"]) == entry["sha256"]:
      return []
  except OSError as error:
    return [Problem(entry["file"], None, f"cannot be read: {error.strerror}")]
  return [Problem(entry["file"], None, "has another sha256 than the manifest says")]


def _check_tokenizer(folder: Path, manifest: dict[str, Any]) -> list[Problem]:
  name = manifest["tokenizer"]["file"]
  what = file_problem(folder)
  if what:
    return [Problem(name, None, what)]
  try:
    vocab = Tokenizer.load(folder, "bpe").vocab
  except DataError as error:
    return [Problem(name, None, str(error))]
  if vocab != manifest["tokenizer"]["vocab"]:
    says = manifest["tokenizer"]["vocab"]
    return [Problem(name, None, f"has {vocab} tokens, the manifest says {says}")]
  return []


def _check_sums(name: str, split: dict[str, Any], captions: dict[str, int]) -> list[Problem]:
  found = []
  records = sum(shard["records"] for shard in split["shards"])
  if records != split["records"]:
    what = f"split {name}: shards have {records} records, the split says {split['records']}"
    found.append(Problem("manifest.json", None, what))
  counted = sum(captions[shard["file"]] for shard in split["shards"])
  if counted != split["captions"]:
    what = f"split {name}: {counted} captions were read, the manifest says {split['captions']}"
    found.append(Problem("manifest.json", None, what))
  return found


def check_shard(
  folder: Path, shard: dict[str, Any], encoders: dict[str, StoredText]
) -> tuple[list[Problem], int]:
  """The problems of one shard, and its number of captions.

  encoders  whose features the folder has, by name
  """
  name = shard["file"]
  problem = size_problem(folder, shard)
  found = [Problem(name, None, problem)] if problem else []
  if not (folder / name).is_file():
    return found or [Problem(name, None, "is not a regular file")], 0
  captions = 0
  try:
    if not problem and sha256_of(folder / name) != shard["sha256"]:
      found.append(Problem(name, None, "has another sha256 than the manifest says"))
    reader = open_shard(folder / name)
    records = reader.num_records()
    if records != shard["records"]:
      what = f"has {records} records, the manifest says {shard['records']}"
      found.append(Problem(name, None, what))
    for index in range(records):
      try:
        record = unpack(reader.read([index])[0])
        captions += len(record.texts)
        for image in record.images:
          (read_latent if is_latent(image) else decode)(image)
        for i, name in product(range(len(record.captions)), encoders):
          features_of(record, i, name, encoders[name])
      except (DataError, RuntimeError) as error:
        found.append(Problem(name, index, str(error)))
  except (DataError, OSError, RuntimeError) as error:
    found.append(Problem(name, None, str(error)))
  return found, captions
