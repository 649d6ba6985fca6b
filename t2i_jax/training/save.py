"""Checkpoints as they are written, by Orbax, asynchronously: of finite numbers, with checksums.

Orbax writes to a temporary folder and renames it, so that a kill at any time leaves the last
complete step usable. The checksums are of the arrays on the devices and in the step's meta: they
are complete when the step is.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from t2i_jax.errors import NotFinite, WorkdirError
from t2i_jax.training.checkpoint import Checkpoints, Meta, say, to_json
from t2i_jax.training.checksum import checksums, not_finite
from t2i_jax.training.state import TrainState

DAMAGED = "damaged"  # the folder, beside checkpoints, of steps that cannot be used


def check_workdir(workdir: Path, state: Any, keep: int) -> None:
  """Raises WorkdirError where the folder cannot be written or has too little space."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=workdir, prefix=".probe-") as probe:
      probe.write(b"0" * 4096)
  except OSError as error:
    raise WorkdirError(f"--workdir={workdir} cannot be written: {error.strerror}.") from error
  size = sum(np.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
  free = shutil.disk_usage(workdir).free
  if free < 1.2 * size:
    raise WorkdirError(
      f"--workdir={workdir} has {free / 1e9:.3f} GB free, one checkpoint takes {size / 1e9:.3f} GB "
      f"and checkpoint.keep = {keep} are kept. Free some space or use another --workdir."
    )


class Saver(Checkpoints):
  """The checkpoints of a run by its trainer, which alone writes them.   keep: maximum number"""

  def __init__(self, workdir: str | Path, keep: int):
    super().__init__(workdir)
    drop_echoes()
    self.options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
    )
    self.manager = ocp.CheckpointManager(self.root, options=self.options)

  def save(self, state: TrainState, meta: Meta) -> None:
    """Starts writing; returns when the arrays are copied.

    Raises NotFinite where a number is not finite, before anything is written or removed, and
    WorkdirError on a full disk.
    """
    step = int(state.step)
    if step == self.manager.latest_step():
      return
    trees = {
      "params": state.trainable,
      "ema": state.ema,
      "opt": {"opt": state.opt, "running": state.running},
    }
    sums = {name: checksums(tree) for name, tree in trees.items()}
    for name, found in sums.items():
      if not_finite(found):
        raise NotFinite(f"step {step} is not saved: of {name}, {not_finite(found)}. {self.last()}")
    hashes = {n: {path: one.hash for path, one in found.items()} for n, found in sums.items()}
    frozen = {name: tree for name, tree in state.frozen.items() if name in meta.copied}
    if frozen:
      trees["frozen"] = frozen
    items: dict[str, Any] = {n: ocp.args.StandardSave(tree) for n, tree in trees.items()}
    items["meta"] = ocp.args.JsonSave(to_json(meta._replace(arrays=hashes)))
    self._guard(lambda: self.manager.save(step, args=ocp.args.Composite(**items)))

  def last(self) -> str:
    """Which step is the newest complete one, as a sentence; waits for one that is being written."""
    try:
      self.wait()
    except WorkdirError as error:
      return str(error)
    return self._newest()

  def _newest(self) -> str:
    steps = self.on_disk()
    return f"Step {steps[-1]} is complete and usable." if steps else "No step has been saved."

  def set_aside(self, after: int) -> None:
    """Moves the steps after one, which are damaged, out of the way; nothing of them is lost."""
    moved = [step for step in self.steps() if step > after]
    if not moved:
      return
    for step in moved:
      if jax.process_index() == 0:
        folder = self.root.parent / DAMAGED
        folder.mkdir(exist_ok=True)
        to, n = folder / str(step), 1
        while to.exists():
          to, n = folder / f"{step}.{n}", n + 1
        (self.root / str(step)).rename(to)
        say(f"{self.root / str(step)} is now {to}")
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices("set_aside")
    self.manager.reload()

  def _guard(self, action) -> None:
    try:
      action()
    except (OSError, ValueError) as error:
      raise WorkdirError(f"saving to {self.root} failed: {error}. {self._newest()}") from error

  def wait(self) -> None:
    self._guard(self.manager.wait_until_finished)

  def close(self) -> None:
    super().close()
    self._guard(self.manager.close)


def drop_echoes() -> None:
  """Leaves the echoes of a failed save out of what sys.unraisablehook reports.

  When one array cannot be written, Orbax closes the event loop in which the others are awaited, and
  each of those then reports "Event loop is closed" with a traceback, at any time until the process
  ends: up to hundreds around the one error that `Saver` raises.
  """
  before = sys.unraisablehook

  def without_echoes(report: Any) -> None:
    if str(report.exc_value) != "Event loop is closed":
      before(report)

  if getattr(before, "__name__", "") != without_echoes.__name__:
    sys.unraisablehook = without_echoes
