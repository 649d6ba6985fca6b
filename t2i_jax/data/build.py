"""Building a data folder: shards, manifest, tokenizer, and a list of skipped items."""

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from t2i_jax import __version__
from t2i_jax.data.items import BuildSource, Made, Skipped
from t2i_jax.data.parallel_map import ordered_map
from t2i_jax.data.progress import Meter
from t2i_jax.data.record import SCHEMA
from t2i_jax.data.shards import SplitWriter, sha256_of
from t2i_jax.data.source import FORMAT, MANIFEST, read_manifest
from t2i_jax.data.tokenize import train_bpe
from t2i_jax.errors import DataError

SKIPPED, TOKENIZER, ATTRIBUTION = "skipped.jsonl", "tokenizer.json", "ATTRIBUTION.txt"
OWN_FILES = (MANIFEST, TOKENIZER, SKIPPED, ATTRIBUTION, "*.arrayrecord", "sheet-*.png")
SHARD_RECORDS = 8192


def build(
  source: BuildSource,
  out: str | Path,
  *,
  workers: int | None = None,
  shard_records: int = SHARD_RECORDS,
  vocab: int | None = None,
  overwrite: bool = False,
  progress: bool = True,
) -> dict[str, Any]:
  """Writes a source into the folder `out`, completely or not at all.

  A build that is killed leaves `out.partial-PID` beside it, which is never read.

  workers        processes; None: one per core. The result does not depend on their number
  shard_records  records per shard
  vocab          size of the BPE trained on the training captions; None: the source's default
  overwrite      replaces `out` if this function built it
  progress       shows a bar, or lines where stdout is not a terminal
  Returns the manifest. Raises DataError and leaves `out` unchanged.
  """
  out = Path(out).resolve()
  workers = (os.cpu_count() or 1) if workers is None else workers
  if shard_records < 1 or workers < 1:
    raise DataError(
      f"--shard-records={shard_records} and --workers={workers} must both be at least 1."
    )
  check_target(out, overwrite)
  total = source.total()
  partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
  try:
    partial.mkdir(parents=True)
    with Meter(f"building {out.name}", total, progress) as meter:
      made = metered(ordered_map(source.make, source.tasks(), workers), meter)
      items = keep_one_for_val(made) if source.holds_out else made
      manifest = write_folder(source, items, partial, shard_records, vocab)
    put_in_place(partial, out)
  except OSError as error:
    raise DataError(
      f"{error.filename or out} cannot be written: {error.strerror}. Choose another --to."
    ) from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return manifest


def check_target(out: Path, overwrite: bool) -> None:
  """Raises DataError unless `out` is free, empty, or may be replaced."""
  if not out.exists():
    return
  if not out.is_dir():
    raise DataError(f"--to={out} is a file. Use a folder that does not exist yet.")
  if not any(out.iterdir()):
    return
  if not overwrite:
    raise DataError(f"{out} is not empty. Choose another --to, or replace it with --overwrite.")
  try:
    read_manifest(out)
  except DataError as error:
    raise DataError(f"--overwrite replaces built folders only: {error}") from error
  foreign = sorted(p.name for p in out.iterdir() if not any(p.match(own) for own in OWN_FILES))
  if foreign:
    raise DataError(
      f"--overwrite would delete {foreign[0]} in {out}, which `t2i data build` did not write. "
      "Move it elsewhere first."
    )


def put_in_place(partial: Path, out: Path) -> None:
  """Renames the finished folder; an old one is renamed first and then deleted."""
  old = out.with_name(f"{out.name}.old-{os.getpid()}")
  if out.exists() and any(out.iterdir()):
    out.rename(old)
  partial.rename(out)
  shutil.rmtree(old, ignore_errors=True)


def metered(chunks: Iterable[list[Made | Skipped]], meter: Meter) -> Iterator[Made | Skipped]:
  """The items of the chunks one by one, counted."""
  for chunk in chunks:
    yield from chunk
    meter.advance(len(chunk))


def keep_one_for_val(items: Iterable[Made | Skipped]) -> Iterator[Made | Skipped]:
  """Uses the last training record for validation if no other is."""
  held, has_val = None, False
  for item in items:
    if isinstance(item, Made) and item.split == "train":
      held, item = item, held
    has_val = has_val or (isinstance(item, Made) and item.split == "val")
    if item is not None:
      yield item
  if held is not None:
    yield held if has_val else dataclasses.replace(held, split="val")


def write_folder(
  source: BuildSource,
  items: Iterable[Made | Skipped],
  folder: Path,
  shard_records: int,
  vocab: int | None,
) -> dict[str, Any]:
  """Writes all files of a built folder into `folder`. Returns the manifest."""
  writers = {split: SplitWriter(folder, split, shard_records) for split in source.splits}
  spool = folder / "captions.part"  # on disk: a large set's captions do not fit in memory
  reasons: Counter[str] = Counter()
  with (
    # Half of a surrogate pair in a user's JSON is written as an escape sequence.
    (folder / SKIPPED).open("w", encoding="utf-8", errors="backslashreplace") as skipped,
    spool.open("w", encoding="utf-8") as captions,
  ):
    for item in items:
      if isinstance(item, Skipped):
        reasons[item.reason.split(":")[0]] += 1
        skipped.write(json.dumps(dataclasses.asdict(item), ensure_ascii=False) + "\n")
        continue
      writers[item.split].write(item.data, len(item.captions))
      if item.split == source.splits[0]:
        captions.writelines(json.dumps(caption) + "\n" for caption in item.captions)
  splits = {split: writer.close() for split, writer in writers.items()}
  check_not_empty(source, splits, reasons)
  with spool.open(encoding="utf-8") as lines:
    text = train_bpe(map(json.loads, lines), vocab or source.vocab)
  spool.unlink()
  (folder / TOKENIZER).write_text(text, encoding="utf-8")
  if source.attribution:
    (folder / ATTRIBUTION).write_text(source.attribution + "\n", encoding="utf-8")
  manifest = {
    "format": FORMAT,
    "schema": SCHEMA,
    "made_by": {
      "version": __version__,
      "source": type(source).__name__.lower(),
      "arguments": dataclasses.asdict(source),  # type: ignore[call-overload]
    },
    "licence": source.licence,
    "attribution": source.attribution,
    "splits": {split: entry for split, entry in splits.items() if entry["records"]},
    "tokenizer": {
      "file": TOKENIZER,
      "vocab": len(json.loads(text)["model"]["vocab"]),
      "sha256": sha256_of(folder / TOKENIZER),
    },
    "skipped": {"count": reasons.total(), "reasons": dict(sorted(reasons.items()))},
  }
  (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8")
  return manifest


def check_not_empty(source: BuildSource, splits: dict[str, Any], reasons: Counter[str]) -> None:
  """Raises DataError where no training record is left."""
  usable = sum(entry["records"] for entry in splits.values())
  if splits[source.splits[0]]["records"]:
    return
  why = f"; skipped: {skip_summary(dict(reasons))}" if reasons else ""
  need = "training and validation need one each" if usable else "there is nothing to train on"
  raise DataError(f"{usable} of {usable + reasons.total()} items can be used: {need}{why}.")


def skip_summary(reasons: dict[str, int]) -> str:
  """Counts by reason as text."""
  return ", ".join(f"{count} {reason}" for reason, count in reasons.items())
