"""Batches in the global order, decoded by grain's threads or processes and prefetched."""

import atexit
from collections.abc import Iterator, Sequence
from typing import Protocol

import grain
import grain.experimental
import numpy as np
from absl import flags

from t2i_jax.data.batch import Batch, stack, without_weight
from t2i_jax.data.lengths import Limit
from t2i_jax.data.order import rng_at
from t2i_jax.data.parallel_map import end_with_parent
from t2i_jax.data.record import Record
from t2i_jax.data.roles import record_at
from t2i_jax.data.source import Source

ENDLESS = 2**48  # rows; grain requires a length
THREADS = 4  # PIL holds the interpreter's lock for about half of a decode
LEAST_SHARED = 2**20  # bytes from which workers pass an array in shared memory, not by a pipe
VALIDATION_SEED = 0


class RowMaker(Protocol):
  """Records -> a row of a batch: transforms.Transform, documents.Packing.

  window  records per row
  limits  the tokens that its text encoders take
  """

  window: int

  @property
  def limits(self) -> list[Limit]: ...

  def __call__(self, records: Sequence[Record], rng: np.random.Generator) -> Batch: ...


class _Rows:
  """The rows of one process, in order, from a step on; random access for grain."""

  def __init__(self, source: Source, transform: RowMaker, seed: int, batch: int, rows, start: int):
    self.source, self.transform = source, transform
    self.seed, self.batch, self.rows, self.start = seed, batch, rows, start

  def __len__(self) -> int:
    return ENDLESS

  def __getitem__(self, i: int) -> Batch:
    step, row = divmod(i, len(self.rows))
    position = (self.start + step) * self.batch + int(self.rows[row])
    window = self.transform.window
    positions = range(position * window, (position + 1) * window)
    found, roles = zip(*(record_at(self.source, p, self.seed) for p in positions), strict=True)
    made = self.transform(found, rng_at(position, self.seed))
    return made if roles[0] is None else made._replace(role=np.int32(roles[0]))


class Loader:
  """The rows of each global batch that belong to this process.

  seed          of the order and of the choice of captions
  global_batch  rows per step over all processes
  rows          [n] row indices in [0, global_batch) that this process reads
  workers       processes that decode; 0: threads of this process
  prefetch      batches prefetched
  """

  def __init__(
    self,
    source: Source,
    transform: RowMaker,
    *,
    seed: int,
    global_batch: int,
    rows: np.ndarray,
    workers: int,
    prefetch: int,
  ):
    self.source, self.transform, self.seed = source, transform, seed
    self.global_batch, self.rows = global_batch, np.asarray(rows)
    self.workers, self.prefetch = workers, prefetch

  def batches(self, start_step: int) -> Iterator[Batch]:
    """Batches of steps start_step, start_step + 1, ... without end.

    Row r of step s is p = s * global_batch + r, made of the records at positions p * window to
    (p + 1) * window of the global order. Yields rows of the transform with a leading axis [n].
    Raises DataError.
    """
    rows = _Rows(self.source, self.transform, self.seed, self.global_batch, self.rows, start_step)
    dataset = grain.MapDataset.source(rows).batch(len(self.rows), batch_fn=stack)
    iterator = iter(self._in_processes(dataset) if self.workers else self._in_threads(dataset))
    atexit.register(iterator.close)  # workers must end before the interpreter unloads modules
    try:
      yield from iterator
    finally:
      atexit.unregister(iterator.close)
      iterator.close()

  def _in_threads(self, dataset: grain.MapDataset) -> grain.IterDataset:
    threads = min(THREADS, self.prefetch)
    return dataset.to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=self.prefetch))

  def _in_processes(self, dataset: grain.MapDataset) -> grain.IterDataset:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # grain reads absl flags, which only absl.app parses
    ahead = max(1, self.prefetch // self.workers)
    options = grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=ahead)
    read = dataset.to_iter_dataset(grain.ReadOptions(1, prefetch_buffer_size=1))
    by_pipe = grain.experimental.DatasetOptions(min_shm_size=LEAST_SHARED)
    shared = grain.experimental.WithOptionsIterDataset(read, by_pipe)
    return shared.mp_prefetch(options, worker_init_fn=lambda index, count: end_with_parent())


def validation_batches(
  source: Source, transform: RowMaker, count: int, batch: int, rows: np.ndarray
) -> Iterator[Batch]:
  """The rows of the first records by index, at most `count` rows, the same at every call.

  batch  rows of a global batch; the last one is padded with rows of weight 0
  rows   [n] row indices in [0, batch) that this process reads
  Yields batches as `Loader` does.
  """
  window = transform.window
  count = min(count, len(source) // window)
  for start in range(0, count, batch):
    found = []
    for row in rows:
      index = start + int(row)
      real = index if index < count else start
      records = [source[i] for i in range(real * window, (real + 1) * window)]
      item = transform(records, rng_at(real, VALIDATION_SEED))
      found.append(item if index < count else without_weight(item))
    yield stack(found)
