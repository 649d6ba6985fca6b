"""What a source of `t2i data build` gives the builder."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from t2i_jax.data.record import Record

CHUNK = 64  # items a task holds, enough to hide what handing over a task costs


@dataclasses.dataclass(frozen=True)
class Made:
  """A record ready to write: split, packed bytes, captions and instructions."""

  split: str
  data: bytes
  captions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Skipped:
  """An item that cannot be used. `reason` is "kind" or "kind: detail"; kinds are counted."""

  item: str
  reason: str


class BuildSource(Protocol):
  """A frozen dataclass whose fields are the source's arguments; it travels to worker processes.

  splits  names of splits in order, the training split first
  vocab   tokens of the BPE unless the caller asks for another number
  holds_out  whether "val" is split off by hash, so that it may come out empty on few items
  """

  splits: Any
  vocab: Any
  holds_out: Any

  @property
  def licence(self) -> str: ...

  @property
  def attribution(self) -> str: ...

  def total(self) -> int | None:
    """Number of items, None where counting would cost a pass. Raises DataError on bad arguments."""

  def tasks(self) -> Iterator[Any]:
    """Work for `make`, in a fixed order."""

  def make(self, task: Any) -> list[Made | Skipped]:
    """A task's items in a fixed order; runs in a worker process."""


def made(split: str, record: Record) -> Made:
  """A record as the builder takes it."""
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
