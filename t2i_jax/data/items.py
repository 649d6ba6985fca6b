"""The interface between sources of `t2i data build` and the builder."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from t2i_jax.data.record import Record

CHUNK = 64  # items per task, enough to hide the cost of passing a task to a process


@dataclasses.dataclass(frozen=True)
class Made:
  """A packed record: split, bytes, captions and instructions."""

  split: str
  data: bytes
  captions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Skipped:
  """An item that cannot be used.   reason: "kind" or "kind: detail"; kinds are counted"""

  item: str
  reason: str


class BuildSource(Protocol):
  """A frozen dataclass whose fields are the source's arguments; it is pickled for worker processes.

  splits     names of splits in order, the training split first
  vocab      default size of the BPE
  holds_out  whether "val" is split off by hash, so that it may be empty for few items
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

  def make(self, task: Any) -> list[Made | Skipped]:
    """A task's items in a fixed order; runs in a worker process."""


def made(split: str, record: Record) -> Made:
  """A record, packed for the builder."""
  return Made(split, record.pack(), record.texts)


def in_chunks(items: Iterable[Any], size: int = CHUNK) -> Iterator[list[Any]]:
  """Lists of `size` items; the last may be shorter."""
  chunk: list[Any] = []
  for item in items:
    chunk.append(item)
    if len(chunk) == size:
      yield chunk
      chunk = []
  if chunk:
    yield chunk
