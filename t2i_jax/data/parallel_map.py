"""A map over worker processes that keeps the order and a bounded number of results."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from t2i_jax.errors import DataError

AHEAD = 4  # tasks in flight per worker; their results are kept in memory


def ordered_map(function: Callable, tasks: Iterable[Any], workers: int) -> Iterator[Any]:
  """function(task) for each task, in order. One worker means this process.

  Processes are spawned, not forked: the caller may have threads. A script that calls this with
  more than one worker must do so under `if __name__ == "__main__"`.
  Raises DataError where a worker was killed; errors of `function` are raised unchanged.
  """
  if workers == 1:
    yield from map(function, tasks)
    return
  spawn = multiprocessing.get_context("spawn")
  pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=end_with_parent)
  pending: deque[Future] = deque()
  try:
    for task in tasks:
      pending.append(pool.submit(function, task))
      if len(pending) >= AHEAD * workers:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
  except BrokenProcessPool as error:
    raise DataError(
      f"one of {workers} worker processes was killed, possibly for lack of memory. "
      "Use fewer --workers."
    ) from error
  finally:
    pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
  """In a worker: ends it when its parent has ended, also if the parent was killed."""

  def watch() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
      parent.join()
      os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
