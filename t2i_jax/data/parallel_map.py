"""A map over worker processes that keeps the order and a bounded number of results."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from t2i_jax.errors import DataError

AHEAD = 4  # tasks in flight per worker; their results are kept in memory
LIMIT = 600  # seconds of a task, and of an item alone, until its worker is ended


def ordered_map(
  function: Callable,
  tasks: Iterable[Any],
  workers: int,
  lost: Callable[[Any, str], list[Any]] | None = None,
) -> Iterator[Any]:
  """function(task) for each task, in order. One worker means this process.

  Processes are spawned, not forked: the caller may have threads. A script that calls this with
  more than one worker must do so under `if __name__ == "__main__"`.

  lost  for tasks and results that are lists: where a worker is killed, crashes or takes longer
        than LIMIT, the items of the tasks in flight are done one by one, and lost(item, why) is the
        result of one whose worker ends again
  Raises DataError where a worker was killed and there is no `lost`; errors of `function` are raised
  unchanged.
  """
  if workers == 1:
    yield from map(function, tasks)
    return
  timed = partial(_within, function, LIMIT) if lost else function
  pool = _pool(workers)
  pending: deque[tuple[Any, Future]] = deque()
  try:
    for task in tasks:
      pending.append((task, _submit(pool, timed, task)))
      if len(pending) < AHEAD * workers:
        continue
      if _is_broken(pending[0][1]) and lost:
        pool = _again(pool, workers)
        yield from _one_by_one(timed, pending, lost)
      else:
        yield pending.popleft()[1].result()
    while pending:
      if _is_broken(pending[0][1]) and lost:
        yield from _one_by_one(timed, pending, lost)
      else:
        yield pending.popleft()[1].result()
  except BrokenProcessPool as error:
    raise DataError(
      f"one of {workers} worker processes was killed, possibly for lack of memory. "
      "Use fewer --workers."
    ) from error
  finally:
    pool.shutdown(cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
  spawn = multiprocessing.get_context("spawn")
  return ProcessPoolExecutor(workers, mp_context=spawn, initializer=end_with_parent)


def _again(pool: ProcessPoolExecutor, workers: int) -> ProcessPoolExecutor:
  """A new pool in place of a broken one."""
  pool.shutdown(cancel_futures=True)
  return _pool(workers)


def _submit(pool: ProcessPoolExecutor, function: Callable, task: Any) -> Future:
  """The result to come; of a broken pool, its exception."""
  try:
    return pool.submit(function, task)
  except BrokenProcessPool as error:
    future: Future = Future()
    future.set_exception(error)
    return future


def _is_broken(future: Future) -> bool:
  """Waits for a result; whether the worker ended instead."""
  return isinstance(future.exception(), BrokenProcessPool)


def _one_by_one(
  function: Callable, pending: deque[tuple[Any, Future]], lost: Callable[[Any, str], list[Any]]
) -> Iterator[Any]:
  """The results of all pending tasks, the items of those that were lost each by itself."""
  pool = _pool(1)
  try:
    while pending:
      task, future = pending.popleft()
      if not _is_broken(future):
        yield future.result()
        continue
      results: list[Any] = []
      for item in task:
        alone = _submit(pool, function, [item])
        if _is_broken(alone):
          pool = _again(pool, 1)
          results += lost(item, f"its process crashed, was killed or took over {LIMIT} s")
        else:
          results += alone.result()
      yield results
  finally:
    pool.shutdown(cancel_futures=True)


def _within(function: Callable, seconds: int, task: Any) -> Any:
  """function(task) in a worker, which SIGALRM ends where it takes longer, whatever it does."""
  signal.alarm(seconds)
  try:
    return function(task)
  finally:
    signal.alarm(0)


def end_with_parent() -> None:
  """In a worker: ends it when its parent has ended, also if the parent was killed."""

  def watch() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
      parent.join()
      os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
