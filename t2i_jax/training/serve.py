"""A trained model out of a work directory alone: its config, tokenizer and averaged weights."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.config import apply_overrides
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.models.params import Params
from t2i_jax.parallel import make_mesh
from t2i_jax.training.checkpoint import read_latest
from t2i_jax.training.draw import DRAWING, Classifier, Draw, make_draw
from t2i_jax.training.generate import Generator
from t2i_jax.training.make_system import make_system
from t2i_jax.training.optimizer import make_optimizer
from t2i_jax.training.sampler import make_sampler
from t2i_jax.training.state import abstract_state
from t2i_jax.training.system import NoisyClassifierSystem, System
from t2i_jax.training.transfusion import TransfusionSystem


class Loaded(NamedTuple):
  """params are the averaged ones."""

  config: ConfigDict
  system: System | NoisyClassifierSystem
  tokenizer: Tokenizer
  params: Params
  step: int
  mesh: Mesh


@dataclass(frozen=True)
class Trained:
  """params are the averaged ones; draw(prompts, seeds) gives uint8 [n, H, W, C].

  generator  of a joint model, else None
  """

  config: ConfigDict
  system: System | TransfusionSystem
  tokenizer: Tokenizer
  params: Params
  step: int
  draw: partial
  generator: Generator | None


def kept_steps(workdir: str | Path) -> list[int]:
  """The steps of a work directory's checkpoints, oldest first. Raises RestoreError."""
  checkpoints, _, _ = read_latest(workdir)
  return sorted(checkpoints.manager.all_steps())


def load(
  workdir: str | Path, overrides: dict[str, str] | None = None, step: int | None = None
) -> Loaded:
  """A checkpoint of a work directory, the newest by default, onto all devices.

  overrides  dotted keys of its config to set, as text
  Raises RestoreError, ConfigError.
  """
  checkpoints, latest, meta = read_latest(workdir)
  step = latest if step is None else step
  config = meta.config.copy_and_resolve_references()
  apply_overrides(config, overrides or {}, f"the config in {workdir}")
  system = make_system(config, meta.tokenizer)
  mesh = make_mesh(-1, 1, 1)
  optimizer = make_optimizer(config.train, system.matrices)
  abstract = abstract_state(system, optimizer, mesh, config.train.freeze)
  if isinstance(system, DRAWING):
    make_sampler(config.sampling, system.process)  # a wrong choice fails before the restore
  params = jax.block_until_ready(checkpoints.restore_ema(step, abstract))
  checkpoints.close()
  return Loaded(config, system, meta.tokenizer, params, step, mesh)


class Speaking(NamedTuple):
  """A joint model with its compiled functions."""

  system: TransfusionSystem
  tokenizer: Tokenizer
  params: Params
  generator: Generator


def open_generator(workdir: str | Path, sampling: dict[str, str] | None = None) -> Speaking:
  """A joint model that reads, writes and draws.   sampling: as for `open_workdir`

  Raises RestoreError, ConfigError.
  """
  at = load(workdir, {f"sampling.{key}": value for key, value in (sampling or {}).items()})
  if not isinstance(at.system, TransfusionSystem):
    raise ConfigError(
      f"--workdir={workdir} holds {at.config.name} (model.kind = {at.config.model.kind!r}), which "
      "has no image input and writes nothing. Train configs/transfusion_scenes.py, or draw with "
      "t2i sample."
    )
  generator = Generator(at.system, at.config.sampling, at.mesh)
  return Speaking(at.system, at.tokenizer, at.params, generator)


def open_workdir(
  workdir: str | Path,
  sampling: dict[str, str] | None = None,
  step: int | None = None,
  classifier: str | Path | None = None,
  weight: float = 1.0,
) -> Trained:
  """A model that draws.

  sampling    keys of config.sampling to set, as text: {"steps": "50", "cfg": "4"}
  classifier  the work directory of a noisy classifier that guides it, with this weight
  Raises RestoreError, ConfigError.
  """
  overrides = {f"sampling.{key}": value for key, value in (sampling or {}).items()}
  at = load(workdir, overrides, step)
  if not isinstance(at.system, DRAWING):
    raise ConfigError(
      f"--workdir={workdir} holds a classifier ({at.config.name}), which draws nothing. Give it as "
      "--guidance.classifier to a model that draws."
    )
  guiding = None
  if classifier is not None:
    other = load(classifier)
    if not isinstance(other.system, NoisyClassifierSystem):
      raise ConfigError(
        f"--guidance.classifier={classifier} holds {other.config.name}, which is no classifier. "
        "Train one with configs/scenes_classifier.py."
      )
    guiding = Classifier(other.system, other.tokenizer, other.params, weight)
  draw: Draw
  generator = None
  if isinstance(at.system, TransfusionSystem) and guiding is None:
    generator = Generator(at.system, at.config.sampling, at.mesh)
    draw = generator.drawing(at.tokenizer)
  else:
    draw = make_draw(at.system, at.tokenizer, at.config.sampling, at.mesh, guiding)
  drawn = partial(draw, at.params)
  return Trained(at.config, at.system, at.tokenizer, at.params, at.step, drawn, generator)
