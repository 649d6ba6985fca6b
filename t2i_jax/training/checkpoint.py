"""Checkpoints by Orbax: params, ema, opt, and meta as separate items; written asynchronously.

Orbax writes beside and renames, so a kill at any instant leaves the last complete step usable.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from t2i_jax import config as configs
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import RestoreError, WorkdirError
from t2i_jax.models.params import Params
from t2i_jax.training.state import TrainState, merge_params

# What a run is: a checkpoint restores only where these are the same.
IDENTITY: tuple[str, ...] = (
  "seed",
  "text.",
  "model.",
  "process.",
  "data.image_size",
  "data.train_split",
  "data.rows",
)
IDENTITY += ("train.batch", "train.optimizer", "train.freeze")
FREE = ("model.remat", "model.attention")


class Meta(NamedTuple):
  """The non-array part of a checkpoint: enough to sample with nothing else."""

  config: ConfigDict
  tokenizer: Tokenizer
  position: int  # rows of the global order consumed


def check_workdir(workdir: Path, state: Any, keep: int) -> None:
  """Raises WorkdirError where the run could not be saved: unwritable, or too little space."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe = workdir / f".probe-{jax.process_index()}"
    probe.write_bytes(b"0" * 4096)
    probe.unlink()
  except OSError as error:
    raise WorkdirError(f"--workdir={workdir} cannot be written: {error.strerror}.") from error
  size = sum(np.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
  free = shutil.disk_usage(workdir).free
  if free < 1.2 * size:
    raise WorkdirError(
      f"--workdir={workdir} has {free / 1e9:.3f} GB free, one checkpoint takes {size / 1e9:.3f} GB "
      f"and checkpoint.keep = {keep} are kept. Free some space or choose another --workdir."
    )


def check_same_run(saved: ConfigDict, config: ConfigDict, step: int) -> dict[str, tuple]:
  """Raises RestoreError where the checkpoint is of another model; returns harmless differences."""
  different = configs.differences(saved, config)
  fatal = {
    key: pair for key, pair in different.items() if key.startswith(IDENTITY) and key not in FREE
  }
  if fatal:
    lines = [f"{key} is {a!r} there, {b!r} here" for key, (a, b) in fatal.items()]
    raise RestoreError(
      f"the checkpoint of step {step} was written by {saved.name}, this run is {config.name}: "
      f"{'; '.join(lines)}. Use another --workdir, or the config of the checkpoint."
    )
  return {key: pair for key, pair in different.items() if key not in fatal}


class Checkpoints:
  """The checkpoints of a work directory."""

  def __init__(self, workdir: str | Path, keep: int = 1):
    # Orbax narrates each save, and its failures too; what concerns a user is raised.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    self.root = Path(workdir).resolve() / "checkpoints"
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
    )
    self.manager = ocp.CheckpointManager(self.root, options=options)

  def latest(self) -> int | None:
    return self.manager.latest_step()

  def on_disk(self) -> int | None:
    """The newest step that is whole on disk, whatever is being written now."""
    return max(self.manager.all_steps(read=True), default=None)

  def save(self, state: TrainState, meta: Meta) -> None:
    """Starts writing; returns once the arrays are copied. A full disk raises WorkdirError."""
    step = int(state.step)
    if step == self.latest():
      return
    content = {
      "config": configs.to_json(meta.config),
      "tokenizer": meta.tokenizer.to_json(),
      "position": meta.position,
    }
    self._guard(
      lambda: self.manager.save(
        step,
        args=ocp.args.Composite(
          params=ocp.args.StandardSave({"trainable": state.trainable, "frozen": state.frozen}),
          ema=ocp.args.StandardSave(state.ema),
          opt=ocp.args.StandardSave({"opt": state.opt, "running": state.running}),
          meta=ocp.args.JsonSave(content),
        ),
      )
    )

  def _guard(self, action) -> None:
    try:
      action()
    except (OSError, ValueError) as error:
      raise WorkdirError(
        f"saving to {self.root} failed: {error}. Step {self.on_disk()} is still there and usable."
      ) from error

  def meta(self, step: int) -> Meta:
    """Config, tokenizer and position of a step."""
    saved = self._restore(step, meta=ocp.args.JsonRestore())["meta"]
    return Meta(
      configs.from_json(saved["config"]),
      Tokenizer.from_json(saved["tokenizer"]),
      int(saved["position"]),
    )

  def restore(self, step: int, abstract: TrainState) -> TrainState:
    """The state of a step, onto the shardings of `abstract`: any mesh, any process count."""
    saved = self._restore(
      step,
      params=ocp.args.StandardRestore({"trainable": abstract.trainable, "frozen": abstract.frozen}),
      ema=ocp.args.StandardRestore(abstract.ema),
      opt=ocp.args.StandardRestore({"opt": abstract.opt, "running": abstract.running}),
    )
    count = jax.device_put(np.int32(step), abstract.step.sharding)
    params, opt = saved["params"], saved["opt"]
    return TrainState(
      count, params["trainable"], params["frozen"], opt["opt"], saved["ema"], opt["running"]
    )

  def restore_ema(self, step: int, abstract: TrainState) -> Params:
    """Only what sampling needs: averaged weights, merged with the frozen ones."""
    if not jax.tree.leaves(abstract.frozen):
      return self._restore(step, ema=ocp.args.StandardRestore(abstract.ema))["ema"]
    whole = self.restore(step, abstract)
    return merge_params(whole.ema, whole.frozen)

  def _restore(self, step: int, **items):
    try:
      return self.manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:  # Orbax raises bare Exception on a file cut short
      why = str(error.__cause__ or error)[:500]
      raise RestoreError(
        f"{self.root}/{step} cannot be restored: {why}. It is damaged or of another "
        "model; remove that folder to fall back to the step before."
      ) from error

  def wait(self) -> None:
    self._guard(self.manager.wait_until_finished)

  def close(self) -> None:
    self._guard(self.manager.close)


def read_latest(workdir: str | Path) -> tuple[Checkpoints, int, Meta]:
  """For readers: the newest complete checkpoint of a work directory. Raises RestoreError."""
  if not (Path(workdir) / "checkpoints").is_dir():
    raise RestoreError(f"--workdir={workdir} has no checkpoints. Train there first: t2i train.")
  checkpoints = Checkpoints(workdir)
  step = checkpoints.latest()
  if step is None:
    raise RestoreError(f"--workdir={workdir} has no complete checkpoint yet.")
  return checkpoints, step, checkpoints.meta(step)


def state_size(state: Any) -> int:
  """Number of elements in a tree of arrays."""
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(state))


def dump(path: Path, content: Any) -> None:
  """Writes JSON so that a kill leaves the old file or the new one."""
  part = path.with_suffix(".part")
  part.write_text(json.dumps(content, indent=2))
  part.replace(path)
