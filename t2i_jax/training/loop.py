"""The training loop of every system.

The order matters: log, evaluate, sample, then save; save before the next batch is taken. The state
of the data is the step, so a restored run continues with the batch that was lost.
"""

import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from t2i_jax.data.batch import Batch
from t2i_jax.data.loader import Loader, validation_batches
from t2i_jax.errors import NotFinite
from t2i_jax.parallel import batch_sharding, overridden, owned_rows
from t2i_jax.systems import merge_params
from t2i_jax.training.begin import Beginning, begin
from t2i_jax.training.checkpoint import dump, state_size
from t2i_jax.training.lock import Lock
from t2i_jax.training.log import Log
from t2i_jax.training.processes import any_process
from t2i_jax.training.save import Saver, check_workdir
from t2i_jax.training.setup import set_up
from t2i_jax.training.show import make_show
from t2i_jax.training.step import jit_train_step, make_validation_step

PREFETCH = 4  # batches read ahead


def every(interval: int, step: int) -> bool:
  """True every `interval` steps; never for 0."""
  return interval > 0 and step % interval == 0


class StopRequest:
  """Records SIGTERM. Processes agree at logging steps, so that all save the same step."""

  def __init__(self):
    self.received = False
    self.previous = signal.signal(signal.SIGTERM, self._receive)

  def _receive(self, *_):
    self.received = True

  def agreed(self, exchange: bool) -> bool:
    """Whether any process was stopped; across processes only where `exchange`."""
    if jax.process_count() > 1 and not exchange:
      return False
    return any_process(self.received)

  def close(self) -> None:
    signal.signal(signal.SIGTERM, self.previous)


def on_devices(batches: Iterator[Batch], mesh, batch: int, ahead: int = 2) -> Iterator[Batch]:
  """Local batches as global arrays on the mesh, placed `ahead` batches before their use."""
  sharding = batch_sharding(mesh)
  place = lambda rows: jax.make_array_from_process_local_data(
    sharding, rows, (batch, *rows.shape[1:])
  )
  queue: deque = deque()
  for local in batches:
    queue.append(jax.tree.map(place, local))
    if len(queue) > ahead:
      yield queue.popleft()
  yield from queue


def train(config: ConfigDict, workdir: str | Path, new_data: bool = False) -> None:
  """Trains, or continues training, until train.steps or SIGTERM.

  new_data  whether a run may go on with other data than those of its checkpoint
  Errors of users are found before anything is compiled or allocated.
  Raises ConfigError, MeshError, DataError, PromptError, RestoreError, WorkdirError, NotFinite.
  """
  with overridden(config.mesh.rules):
    run = set_up(config)
    check_workdir(Path(workdir), run.abstract, config.checkpoint.keep)
    keep = config.checkpoint.keep
    with closing(Lock(Path(workdir))) as lock, closing(Saver(workdir, keep)) as saver:
      begun = begin(config, run, saver, new_data)
      if begun.step < config.train.steps:
        _train(config, Path(workdir), begun, saver, lock)
      elif jax.process_index() == 0:
        print(f"{config.name}: all {begun.step} steps are done; nothing to train", flush=True)


def _train(c: ConfigDict, workdir: Path, begun: Beginning, saver: Saver, lock: Lock) -> None:
  run, start, state, meta, _ = begun
  mesh, system, abstract = run.mesh, run.system, run.abstract
  log = open_log(c, workdir, begun)
  transform = run.row_maker
  loader = Loader(
    run.source,
    transform,
    seed=c.seed,
    global_batch=c.train.batch,
    rows=run.rows,
    workers=c.data.workers,
    prefetch=PREFETCH,
  )
  data = on_devices(loader.batches(start), mesh, c.train.batch)
  step_fn = jit_train_step(system, run.optimizers, c, mesh, abstract)
  validate = make_validation(system, c, mesh, run.val_source, transform)
  shown = make_show(c, run, workdir)

  def save(step: int) -> None:
    lock.check()
    saver.save(state, meta._replace(position=step * c.train.batch))

  with closing(log), closing(StopRequest()) as stop, jax.set_mesh(mesh):
    for step in range(start + 1, c.train.steps + 1):
      began = time.perf_counter()
      state, metrics = step_fn(state, next(data))
      if step == start + 1:
        jax.block_until_ready(metrics)
        log.compiled(step, time.perf_counter() - began)
      last = step == c.train.steps
      stopping = stop.agreed(every(c.log.every, step))
      paused = time.perf_counter()
      if last or stopping or every(c.log.every, step):
        metrics = {name: float(value) for name, value in metrics.items()}  # waits for the step
        if last or every(c.log.every, step):  # not where only SIGTERM led here
          log.train(step, metrics)
        paused = time.perf_counter()
        if not np.isfinite(metrics["loss"]):
          raise NotFinite(
            f"loss is {metrics['loss']} at step {step} (finite at the log line before). "
            f"{saver.last()} Lower train.lr (now {c.train.lr}) or train.clip."
          )
      if last or every(c.eval.every, step):
        log.write(step, "val", validate(merge_params(state.ema, state.frozen)), {})
      if shown is not None and (last or every(shown[0], step)):
        try:
          shown[1](merge_params(state.ema, state.frozen), step, log)
        except NotFinite:  # of the weights, which is said instead, or else of config.sampling
          save(step)
          raise
      if last or stopping or every(c.checkpoint.every, step):
        save(step)
      log.pause(time.perf_counter() - paused)
      if stopping:
        log.say(f"SIGTERM: saving step {step} and ending; the same command continues from here")
        break


def open_log(c: ConfigDict, workdir: Path, begun: Beginning) -> Log:
  """The log with its first lines; config.json beside it."""
  run, start, *_ = begun
  log = Log(
    workdir,
    start,
    steps=c.train.steps,
    batch=c.train.batch,
    flops=3.0 * run.system.flops * c.train.batch,
  )
  log.say(
    f"{c.name}: {state_size(run.abstract.trainable) / 1e6:.2f} M trained parameters, "
    f"{len(run.source)} records, {jax.device_count()} x {jax.devices()[0].device_kind}, "
    f"mesh {dict(run.mesh.shape)}, from step {start}"
  )
  for note in (*run.notes, *begun.notes):
    log.say(f"  {note}")
  if jax.process_index() == 0:
    dump(workdir / "config.json", c.to_dict())
  return log


def make_validation(system, c: ConfigDict, mesh, source, transform):
  """params -> {"loss", "loss_bin_k"} over the first eval.rows records."""
  step = mesh.shape["data"] * mesh.shape["fsdp"]
  at_once = c.train.batch // c.train.accumulate  # rows, as in training
  batch = -(-min(at_once, c.eval.rows) // step) * step
  owned = owned_rows(mesh, batch)
  step_fn = jax.jit(make_validation_step(system, c), out_shardings=jax.NamedSharding(mesh, jax.P()))

  def validate(params) -> dict[str, float]:
    total: dict = {}
    local = validation_batches(source, transform, c.eval.rows, batch, owned)
    for i, rows in enumerate(on_devices(iter(local), mesh, batch)):
      found = step_fn(params, rows, np.arange(i * batch, (i + 1) * batch))
      total = {name: total.get(name, 0) + np.asarray(part) for name, part in found.items()}
    by_bin = total["image"][0] / np.maximum(total["image"][1], 1)
    means = {name: total[name][0].sum() / max(total[name][1].sum(), 1) for name in system.terms}
    names = {f"loss_{name}": mean for name, mean in means.items()} if len(means) > 1 else {}
    if system.timed:
      names |= {f"loss_bin_{k}": value for k, value in enumerate(by_bin)}
    names |= system.measured({name: part for name, part in total.items() if name not in means})
    return {"loss": sum(system.terms[name].weight * mean for name, mean in means.items())} | names

  return validate
