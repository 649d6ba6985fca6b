"""Checkpoints by Orbax: params, frozen, ema, opt, meta as separate items, written asynchronously.

Orbax writes to a temporary folder and renames it, so that a kill at any time leaves the last
complete step usable.
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
from t2i_jax.training.state import TrainState

# Keys that identify a run: a checkpoint is restored only where these are equal.
IDENTITY: tuple[str, ...] = (
  "seed",
  "text.",
  "model.",
  "process.",
  "autoencoder",
  "parts.",
  "rows.",
  "data.image_size",
  "data.train_split",
)
IDENTITY += ("train.batch", "train.objective", "train.optimizer")
FREE = ("model.remat", "model.attention", "text.too_long")
FORMAT = 2  # of the items and of the config in them


class Meta(NamedTuple):
  """The part of a checkpoint that is not arrays; with these it suffices for sampling.

  position  rows of the global order consumed
  frozen    hash of the frozen weights by part (training.restore.fingerprint)
  copied    the frozen parts that are stored as weights; the others are stored as start and hash
  """

  config: ConfigDict
  tokenizer: Tokenizer
  position: int
  frozen: dict[str, str]
  copied: tuple[str, ...]


def check_workdir(workdir: Path, state: Any, keep: int) -> None:
  """Raises WorkdirError where the folder cannot be written or has too little space."""
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
      f"and checkpoint.keep = {keep} are kept. Free some space or use another --workdir."
    )


def check_same_run(saved: ConfigDict, config: ConfigDict, step: int) -> dict[str, tuple]:
  """Raises RestoreError where the checkpoint is of another run; returns allowed differences."""
  different = configs.differences(saved, config)
  fatal = {
    key: pair
    for key, pair in different.items()
    if key.startswith(IDENTITY) and key not in FREE and not key.endswith(".start")
  }
  if fatal:
    lines = [f"{key} is {a!r} there, {b!r} here" for key, (a, b) in fatal.items()]
    raise RestoreError(
      f"the checkpoint of step {step} was written by {saved.name}, this run is {config.name}: "
      f"{'; '.join(lines)}. Use another --workdir, or the config of the checkpoint."
    )
  return {key: pair for key, pair in different.items() if key not in fatal}


class Checkpoints:
  """The checkpoints of a work directory.   keep: maximum number; None: read-only"""

  def __init__(self, workdir: str | Path, keep: int | None = None):
    # Orbax logs every save and its failures; errors of users are raised here.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    self.root = Path(workdir).resolve() / "checkpoints"
    options = ocp.CheckpointManagerOptions(read_only=True)
    if keep is not None:
      options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
      )
    self.manager = ocp.CheckpointManager(self.root, options=options)

  def latest(self) -> int | None:
    return self.manager.latest_step()

  def on_disk(self) -> int | None:
    """The newest step that is complete on disk; one may be being written."""
    return max(self.manager.all_steps(read=True), default=None)

  def save(self, state: TrainState, meta: Meta) -> None:
    """Starts writing; returns when the arrays are copied. Raises WorkdirError on a full disk."""
    step = int(state.step)
    if step == self.latest():
      return
    content = {
      "format": FORMAT,
      "config": configs.to_json(meta.config),
      "tokenizer": meta.tokenizer.to_json(),
      "position": meta.position,
      "frozen": meta.frozen,
      "copied": list(meta.copied),
    }
    items = {
      "params": ocp.args.StandardSave(state.trainable),
      "ema": ocp.args.StandardSave(state.ema),
      "opt": ocp.args.StandardSave({"opt": state.opt, "running": state.running}),
      "meta": ocp.args.JsonSave(content),
    }
    frozen = {name: tree for name, tree in state.frozen.items() if name in meta.copied}
    if frozen:
      items["frozen"] = ocp.args.StandardSave(frozen)
    self._guard(lambda: self.manager.save(step, args=ocp.args.Composite(**items)))

  def _guard(self, action) -> None:
    try:
      action()
    except (OSError, ValueError) as error:
      raise WorkdirError(
        f"saving to {self.root} failed: {error}. Step {self.on_disk()} is complete and usable."
      ) from error

  def meta(self, step: int) -> Meta:
    """Config, tokenizer, position and hashes of a step."""
    saved = self.restore(step, meta=ocp.args.JsonRestore())["meta"]
    if saved.get("format") != FORMAT:
      raise RestoreError(
        f"{self.root}/{step} was written by a version of t2i_jax before parts (format "
        f"{saved.get('format', 1)}; this one reads format {FORMAT}). Use that version, or train "
        "again in another --workdir."
      )
    return Meta(
      configs.from_json(saved["config"]),
      Tokenizer.from_json(saved["tokenizer"]),
      int(saved["position"]),
      saved["frozen"],
      tuple(saved["copied"]),
    )

  def arrays(self, step: int, **abstract: Any) -> dict[str, Any]:
    """Items of arrays, with the shardings of abstract trees, for any mesh and process count."""
    args = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
    return dict(self.restore(step, **args).items()) if args else {}

  def restore(self, step: int, **items: Any) -> Any:
    try:
      return self.manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:  # Orbax raises Exception on a truncated file
      why = str(error.__cause__ or error)[:500]
      raise RestoreError(
        f"{self.root}/{step} cannot be restored: {why}. It is damaged or of another "
        "model; remove that folder to use the previous step."
      ) from error

  def wait(self) -> None:
    self._guard(self.manager.wait_until_finished)

  def close(self) -> None:
    self._guard(self.manager.close)


def read_latest(workdir: str | Path) -> tuple[Checkpoints, int, Meta]:
  """The newest complete checkpoint of a work directory, read-only. Raises RestoreError."""
  if not (Path(workdir) / "checkpoints").is_dir():
    raise RestoreError(f"--workdir={workdir} has no checkpoints. Train first: t2i train.")
  checkpoints = Checkpoints(workdir)
  step = checkpoints.latest()
  if step is None:
    raise RestoreError(f"--workdir={workdir} has no complete checkpoint yet.")
  return checkpoints, step, checkpoints.meta(step)


def state_size(state: Any) -> int:
  """Number of elements in a tree of arrays."""
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(state))


def dump(path: Path, content: Any) -> None:
  """Writes JSON atomically."""
  part = path.with_suffix(".part")
  part.write_text(json.dumps(content, indent=2))
  part.replace(path)
