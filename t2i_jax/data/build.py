"""Building a data folder: shards, manifest, tokenizer, and a list of skipped items."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from t2i_jax import __version__
from t2i_jax.data.account import Account
from t2i_jax.data.claim import ATTRIBUTION, SKIPPED, TOKENIZER, check_target, claimed, put_in_place
from t2i_jax.data.drawn import Drawn
from t2i_jax.data.items import BuildSource, Made, Result, Skipped
from t2i_jax.data.lengths import BATCH, Lengths
from t2i_jax.data.parallel_map import ordered_map
from t2i_jax.data.progress import Meter
from t2i_jax.data.provenance import END
from t2i_jax.data.record import SCHEMA
from t2i_jax.data.shards import SplitWriter, sha256_of
from t2i_jax.data.source import DRAWN, FORMAT, MANIFEST, PROVENANCE
from t2i_jax.data.tokenize import Tokenizer, check_captions, placeholder_words, train_bpe
from t2i_jax.errors import DataError

SHARD_RECORDS = 8192
EXAMPLES = 3  # of skipped items in an error


def build(
  source: BuildSource,
  out: str | Path,
  *,
  workers: int | None = None,
  shard_records: int = SHARD_RECORDS,
  vocab: int | None = None,
  placeholders: int | None = None,
  max_bad: float = 1.0,
  overwrite: bool = False,
  progress: bool = True,
  tokenizer: str | None = None,
  drawn: Drawn | None = None,
) -> dict[str, Any]:
  """Writes a source into the folder `out`, completely or not at all.

  A build that is killed leaves `out.partial` beside it, which is never read and which the next
  build of `out` uses again.

  workers        processes; None: one per core. The result does not depend on their number. With 1
                 this process reads the images, so that a crash or endless loop in it is the build's
  shard_records  records per shard
  vocab          size of the BPE trained on the training captions; None: the source's default
  placeholders   of these tokens, how many are "<v0>", "<v1>", ..: in no caption, each one id, for
                 words to be learned later; None: the source's default, 0 for most
  max_bad        share of the items in [0, 1] that may be skipped
  overwrite      replaces `out` if this function built it
  tokenizer      a BPE as JSON, in place of one that is trained
  drawn          the model that drew images of it, for the manifest
  progress       shows a bar, or lines where stdout is not a terminal
  Returns the manifest. Raises DataError and leaves `out` unchanged.
  """
  out = Path(out).resolve()
  workers = (os.cpu_count() or 1) if workers is None else workers
  if shard_records < 1 or workers < 1:
    raise DataError(
      f"--shard-records={shard_records} and --workers={workers} must both be at least 1."
    )
  if not 0 <= max_bad <= 1:
    raise DataError(f"--max-bad={max_bad} is not a share in [0, 1].")
  try:
    check_target(out, overwrite)
    total = source.total()
    with claimed(out) as partial:
      check_target(out, overwrite)  # another build may have ended in between
      with Meter(f"building {out.name}", total, progress) as meter:
        lost = getattr(source, "lost", None)
        made = metered(ordered_map(source.make, source.tasks(), workers, lost), meter)
        checked = within_share(made, max_bad, total)
        items = keep_one_for_val(checked) if source.holds_out else checked
        how = (shard_records, vocab, placeholders, tokenizer, drawn)
        manifest = write_folder(source, items, partial, *how)
      put_in_place(partial, out, overwrite)
  except OSError as error:
    raise DataError(
      f"{error.filename or out} cannot be written: {error.strerror}. Choose another --to."
    ) from error
  return manifest


def metered(chunks: Iterable[list[Result]], meter: Meter) -> Iterator[Result]:
  """The items of the chunks one by one, counted."""
  for chunk in chunks:
    yield from chunk
    meter.advance(sum(is_item(result) for result in chunk))


def is_item(result: Result) -> bool:
  """Whether it is a record or stands for one: not an account, nor a caption beside others."""
  return isinstance(result, Made) or (isinstance(result, Skipped) and result.kind != "captions")


def within_share(items: Iterable[Result], max_bad: float, total: int | None) -> Iterator[Result]:
  """The items. Raises DataError as soon as more than a share `max_bad` of them must be skipped.

  total  number of items, None where it is known at the end only
  """
  bad: list[Skipped] = []
  count, reasons = 0, Counter[str]()

  def check(total: int) -> None:
    of = max(total, count)  # the files may have changed since they were counted
    if of and reasons.total() / of > max_bad:
      named = "; ".join(f"{item.item}: {item.reason}" for item in bad)
      raise DataError(
        f"{reasons.total():,} of {of:,} items cannot be used, more than --max-bad={max_bad}: "
        f"{skip_summary(dict(reasons))}. The first: {named}. Nothing was built."
      )

  for item in items:
    count += is_item(item)
    if isinstance(item, Skipped) and is_item(item):
      reasons[item.reason.split(":")[0]] += 1
      bad += [item] if len(bad) < EXAMPLES else []
      if total is not None:
        check(total)
    yield item
  check(0)


def keep_one_for_val(items: Iterable[Result]) -> Iterator[Result]:
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
  items: Iterable[Result],
  folder: Path,
  shard_records: int,
  vocab: int | None,
  placeholders: int | None = None,
  tokenizer: str | None = None,
  drawn: Drawn | None = None,
) -> dict[str, Any]:
  """Writes all files of a built folder into `folder`. Returns the manifest."""
  writers = {split: SplitWriter(folder, split, shard_records) for split in source.splits}
  # On disk: a large set's captions do not fit in memory.
  spools = {split: folder / f"captions-{split}.part" for split in source.splits}
  reasons: Counter[str] = Counter()
  account = Account()
  if placeholders is None:
    placeholders = getattr(source, "placeholders", 0)
  reserved = placeholder_words(placeholders)
  with ExitStack() as stack:
    # Half of a surrogate pair in a user's JSON is written as an escape sequence.
    skipped = stack.enter_context(
      (folder / SKIPPED).open("w", encoding="utf-8", errors="backslashreplace")
    )
    texts = {s: stack.enter_context(p.open("w", encoding="utf-8")) for s, p in spools.items()}
    origins = {
      split: stack.enter_context((folder / f"{split}{END}").open("w", encoding="utf-8"))
      for split in source.splits
    }
    for item in items:
      if isinstance(item, Account):
        account.add(item)
      elif isinstance(item, Skipped):
        reasons[item.reason.split(":")[0]] += 1
        account.reject(item.kind, item.reason)
        line = {"item": item.item, "reason": item.reason}
        skipped.write(json.dumps(line, ensure_ascii=False) + "\n")
      else:
        check_captions(item.captions, reserved)
        account.use("items")
        writers[item.split].write(item.data, len(item.captions))
        texts[item.split].write(json.dumps([item.captions, item.instructions]) + "\n")
        origins[item.split].write(item.provenance + "\n")
  if not account.found["items"]:  # of a source that does not count
    account.find("items", account.used["items"] + reasons.total())
  account.check()
  splits = {split: writer.close() for split, writer in writers.items()}
  check_not_empty(source, splits, reasons)
  own = (caption for captions, _ in lines_of(spools[source.splits[0]]) for caption in captions)
  corpus = source.corpus() if hasattr(source, "corpus") else own
  text = tokenizer or train_bpe(corpus, vocab or source.vocab, placeholders)
  (folder / TOKENIZER).write_text(text, encoding="utf-8")
  lengths = {split: split_lengths(path, text) for split, path in spools.items()}
  for path in spools.values():
    path.unlink()
  provenance = {}
  for split, entry in splits.items():
    path = folder / f"{split}{END}"
    if entry["records"]:
      provenance[split] = {"file": path.name, "sha256": sha256_of(path)}
    else:
      path.unlink()
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
    PROVENANCE: provenance,
    "tokenizer": {
      "file": TOKENIZER,
      "vocab": Tokenizer.bpe(text).vocab,
      "sha256": sha256_of(folder / TOKENIZER),
    },
    "skipped": {"count": reasons.total(), "reasons": dict(sorted(reasons.items()))},
    "account": account.to_json(),
    "lengths": {split: found for split, found in lengths.items() if found},
  }
  manifest |= {} if drawn is None else {DRAWN: dataclasses.asdict(drawn)}
  (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8")
  return manifest


def lines_of(spool: Path) -> Iterator[list[Any]]:
  """The texts of each record, and how many of them, the last ones, are instructions."""
  with spool.open(encoding="utf-8") as lines:
    yield from map(json.loads, lines)


def split_lengths(spool: Path, tokenizer: str) -> dict[str, Any]:
  """The lengths of a split's captions in tokens, for the manifest."""
  lengths = Lengths(Tokenizer.bpe(tokenizer))
  captions: list[str] = []
  instructions: list[str] = []
  for texts, n in lines_of(spool):
    captions += texts[: len(texts) - n]
    instructions += texts[len(texts) - n :]
    if len(captions) >= BATCH:
      lengths.count(captions, instructions)
      captions, instructions = [], []
  lengths.count(captions, instructions)
  return lengths.to_json()


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
