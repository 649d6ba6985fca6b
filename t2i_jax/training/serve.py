"""A trained model out of a work directory alone: its config, tokenizer and averaged weights."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
from ml_collections import ConfigDict

from t2i_jax.config import apply_overrides
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.models.params import Params
from t2i_jax.parallel import make_mesh
from t2i_jax.training.checkpoint import read_latest
from t2i_jax.training.draw import Draw, make_draw
from t2i_jax.training.optimizer import make_optimizer
from t2i_jax.training.state import abstract_state
from t2i_jax.training.system import System, make_system


@dataclass(frozen=True)
class Trained:
  """params are the averaged ones; draw(prompts, seeds) gives uint8 [n, H, W, C]."""

  config: ConfigDict
  system: System
  tokenizer: Tokenizer
  params: Params
  step: int
  draw: partial


def kept_steps(workdir: str | Path) -> list[int]:
  """The steps of a work directory's checkpoints, oldest first. Raises RestoreError."""
  checkpoints, _, _ = read_latest(workdir)
  return sorted(checkpoints.manager.all_steps())


def open_workdir(
  workdir: str | Path, sampling: dict[str, str] | None = None, step: int | None = None
) -> Trained:
  """Loads a checkpoint of a work directory, the newest by default, onto all devices.

  sampling  keys of config.sampling to set, as text: {"steps": "50", "cfg": "4"}
  Raises RestoreError, ConfigError.
  """
  checkpoints, latest, meta = read_latest(workdir)
  step = latest if step is None else step
  config = meta.config.copy_and_resolve_references()
  overrides = {f"sampling.{key}": value for key, value in (sampling or {}).items()}
  apply_overrides(config, overrides, f"the config in {workdir}")
  system = make_system(config, meta.tokenizer)
  mesh = make_mesh(-1, 1, 1)
  draw: Draw = make_draw(system, meta.tokenizer, config.sampling, mesh)
  optimizer = make_optimizer(config.train, system.matrices)
  abstract = abstract_state(system, optimizer, mesh, config.train.freeze)
  params = checkpoints.restore_ema(step, abstract)
  checkpoints.close()
  return Trained(
    config, system, meta.tokenizer, jax.block_until_ready(params), step, partial(draw, params)
  )
