"""Lengths of captions in tokens: counted when a folder is built, compared with text.length before
a run begins.

A length is that of a caption with BOS and EOS, as text.length counts.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from t2i_jax.data.source import ShardSource, read_manifest
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError, DataError

QUANTILES = {"50%": 0.5, "90%": 0.9, "99%": 0.99}
KINDS = ("bpe", "bytes")  # tokenizers whose lengths a manifest has
TEXTS = ("captions", "instructions")
TOO_LONG = ("error", "truncate", "skip")
BATCH = 4096  # captions tokenized at once


class Limit(NamedTuple):
  """The tokens that a text encoder takes.

  instructions, captions  whether it reads those of edits, and captions of images
  """

  tokenizer: Tokenizer
  length: int
  instructions: bool = False
  captions: bool = True

  @property
  def read(self) -> tuple[str, ...]:
    """Those of TEXTS that it reads."""
    both = zip(TEXTS, (self.captions, self.instructions), strict=True)
    return tuple(name for name, reads in both if reads)


class Histogram(Counter[int]):
  """Number of texts by length."""

  def over(self, length: int) -> int:
    """How many are longer."""
    return sum(n for tokens, n in self.items() if tokens > length)

  def summary(self) -> dict[str, Any]:
    """For the manifest: the least length that a share of the texts does not exceed, the longest,
    and the histogram.
    """
    total, below = self.total(), 0
    quantiles: dict[str, int] = {}
    for tokens in sorted(self):
      below += self[tokens]
      for name, share in QUANTILES.items():
        if below >= share * total:
          quantiles.setdefault(name, tokens)
    return {
      "quantiles": quantiles,
      "longest": max(self),
      "histogram": {str(tokens): self[tokens] for tokens in sorted(self)},
    }


class Lengths:
  """Histograms of the texts of a split, for each of KINDS.   bpe: the folder's own tokenizer"""

  def __init__(self, bpe: Tokenizer):
    self._tokenizers = {"bpe": bpe, "bytes": Tokenizer.bytes()}
    self._counts = {text: {kind: Histogram() for kind in KINDS} for text in TEXTS}

  def count(self, captions: Sequence[str], instructions: Sequence[str]) -> None:
    for text, found in zip(TEXTS, (captions, instructions), strict=True):
      for kind, histogram in self._counts[text].items():
        histogram.update(self._tokenizers[kind].lengths(found))

  def to_json(self) -> dict[str, Any]:
    """{"captions": {"bpe": Histogram.summary, "bytes": ...}, "instructions": ...}"""
    return {
      text: {kind: histogram.summary() for kind, histogram in kinds.items()}
      for text, kinds in self._counts.items()
      if any(kinds.values())
    }


def length_lines(manifest: dict[str, Any]) -> list[str]:
  """What a manifest has of its own tokenizer, as a line for each split and kind of text."""
  lines = []
  for split, texts in manifest.get("lengths", {}).items():
    for text, kinds in texts.items():
      lines.append(f"tokens of {text}, {split}: {shares(kinds['bpe'])}")
  return lines


def shares(found: dict[str, Any]) -> str:
  """A Histogram.summary in words."""
  quantiles = [f"{share} up to {n}" for share, n in found["quantiles"].items()]
  return f"{', '.join(quantiles)}, longest {found['longest']}"


def check_lengths(
  source: ShardSource, limit: Limit, policy: str, records: int | None = None
) -> str:
  """Counts the texts of a split that are too long for an encoder, before a run begins.

  The counts are the manifest's; of another tokenizer, or of a folder that has none, the records are
  read once, which is not needed unless `policy` is "error".

  policy   config.text.too_long
  records  the first ones that are used; None: all
  Returns a line for the log, "" where nothing is too long or it is not known.
  Raises ConfigError for an unknown policy, DataError where the policy is "error" and texts are too
  long, or "skip" and all are.
  """
  if policy not in TOO_LONG:
    raise ConfigError(f"text.too_long = {policy!r} is not one of {', '.join(TOO_LONG)}.")
  if limit.tokenizer.kind == "labels":
    return ""
  counts = _of_manifest(source, limit)
  if counts is None and policy != "error":
    return ""
  if counts is None or (records is not None and counts.over(limit.length)):
    counts = of_records(source, limit, records)
  over = counts.over(limit.length)
  if not over:
    return ""
  said = (
    f"{over:,} of {counts.total():,} captions of split {source.split!r} have more than "
    f"text.length = {limit.length} tokens, up to {max(counts)}"
  )
  if policy == "skip" and over == counts.total():
    raise DataError(f"{source.folder}: {said}. None is left; use text.length={max(counts)}.")
  if policy == "error":
    raise DataError(
      f"{source.folder}: {said}. Use text.length={max(counts)} or more, or "
      "text.too_long='truncate' or 'skip'."
    )
  return f"{said}: text.too_long = {policy!r}"


def _of_manifest(source: ShardSource, limit: Limit) -> Histogram | None:
  texts = read_manifest(source.folder).get("lengths", {}).get(source.split)
  if texts is None or limit.tokenizer.kind not in KINDS:
    return None
  counts = Histogram()
  for text in limit.read:
    if text in texts:
      found = texts[text][limit.tokenizer.kind]["histogram"]
      counts.update({int(tokens): n for tokens, n in found.items() if tokens.isdecimal()})
  return counts


def of_records(source: ShardSource, limit: Limit, records: int | None) -> Histogram:
  """Lengths of the texts of a split that an encoder reads.   records: the first ones; None: all"""
  counts, texts = Histogram(), list[str]()
  for index in range(min(len(source), len(source) if records is None else records)):
    record = source[index]
    texts += record.captions if limit.captions else ()
    texts += [text for text, _ in record.then] if limit.instructions else ()
    if len(texts) >= BATCH:
      counts.update(limit.tokenizer.lengths(texts))
      texts.clear()
  counts.update(limit.tokenizer.lengths(texts))
  return counts
