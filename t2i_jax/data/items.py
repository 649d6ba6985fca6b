"""The interface between sources of `t2i data build` and the builder."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from t2i_jax.data.account import Account
from t2i_jax.data.provenance import provenance_of
from t2i_jax.data.record import Record

CHUNK = 64  # items per task, enough to hide the cost of passing a task to a process
CHUNK_BYTES = 2**26  # of the files of a task, which are in memory together


@dataclasses.dataclass(frozen=True)
class Made:
  """A packed record: split, bytes, captions and, last among them, instructions.

  provenance  the line that says where it comes from: data.provenance
  """

  split: str
  data: bytes
  captions: tuple[str, ...]
  instructions: int = 0
  provenance: str = ""


@dataclasses.dataclass(frozen=True)
class Skipped:
  """An item that cannot be used.

  reason  "kind" or "kind: detail"; kinds are counted
  kind    of the account: "items", or what is named beside them ("files", "rows", "captions", ...)
  """

  item: str
  reason: str
  kind: str = "items"


# What a task gives: records, what is named as skipped, and counts of what it found.
Result = Made | Skipped | Account


class BuildSource(Protocol):
  """A frozen dataclass whose fields are the source's arguments; it is pickled for worker processes.

  splits     names of splits in order, the training split first
  vocab      default size of the BPE
  holds_out  whether "val" is split off by hash, so that it may be empty for few items
  A source whose tasks are lists of items may have `lost`: parallel_map.ordered_map.
  It may have `placeholders`, the default number of the BPE's, and `corpus()`, captions on which
  the BPE is trained in place of those of the training split.
  """

  splits: Any
  vocab: Any
  holds_out: Any

  @property
  def licence(self) -> str: ...

  @property
  def attribution(self) -> str: ...

  def total(self) -> int | None:
    """Number of items, None where counting needs a pass. Raises DataError on invalid arguments."""

  def tasks(self) -> Iterator[Any]:
    """Arguments of `make`, in a fixed order."""

  def make(self, task: Any) -> list[Result]:
    """A task's items in a fixed order; runs in a worker process."""


def made(split: str, record: Record, original: bytes | None = None) -> Made:
  """A record, packed for the builder.   original: the file that its image was read from"""
  line = provenance_of(record, original).line()
  return Made(split, record.pack(), record.texts, len(record.then), line)


def in_chunks(
  items: Iterable[Any], size: int = CHUNK, weigh: Callable[[Any], int] | None = None
) -> Iterator[list[Any]]:
  """Lists of `size` items; the last may be shorter.

  weigh  bytes of an item; a list ends at CHUNK_BYTES, too
  """
  chunk: list[Any] = []
  weight = 0
  for item in items:
    chunk.append(item)
    weight += weigh(item) if weigh else 0
    if len(chunk) == size or weight >= CHUNK_BYTES:
      yield chunk
      chunk, weight = [], 0
  if chunk:
    yield chunk
