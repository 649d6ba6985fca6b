"""A config made into the parts of a run, every mistake found before anything is compiled."""

from typing import NamedTuple

import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.data.source import ShardSource
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.parallel import make_mesh, owned_rows
from t2i_jax.training.draw import DRAWING, Draw, make_draw
from t2i_jax.training.make_system import make_system
from t2i_jax.training.optimizer import make_optimizer
from t2i_jax.training.state import TrainState, abstract_state
from t2i_jax.training.system import Trainable


class Run(NamedTuple):
  """rows are those of a global batch that this process reads; abstract is the state's shapes.

  draw  None for a model that draws nothing
  """

  mesh: Mesh
  rows: np.ndarray
  source: ShardSource
  val_source: ShardSource
  tokenizer: Tokenizer
  system: Trainable
  optimizer: optax.GradientTransformation
  abstract: TrainState
  draw: Draw | None


def set_up(c: ConfigDict) -> Run:
  """Builds and checks the parts of a training run; allocates no parameter.

  Raises ConfigError, MeshError, DataError, PromptError.
  """
  mesh = make_mesh(c.mesh.data, c.mesh.fsdp, c.mesh.tensor)
  rows = owned_rows(mesh, c.train.batch)
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  if c.train.batch % (c.train.accumulate * parts):
    raise ConfigError(
      f"train.batch = {c.train.batch} does not divide into train.accumulate = "
      f"{c.train.accumulate} parts over data x fsdp = {parts} devices. Use a train.batch that "
      f"{c.train.accumulate * parts} divides, or train.accumulate=1."
    )
  source = ShardSource(c.data.dir, c.data.train_split)
  val_source = ShardSource(c.data.dir, c.data.val_split)
  tokenizer = Tokenizer.load(c.data.dir, c.text.tokenizer)
  system = make_system(c, tokenizer)
  if set(c.train.caption_dropout) != set(system.towers):
    raise ConfigError(
      f"train.caption_dropout names {sorted(c.train.caption_dropout)}; the towers are "
      f"{sorted(system.towers)}."
    )
  draw = None
  if isinstance(system, DRAWING):
    draw = make_draw(system, tokenizer, c.sampling, mesh)
    tokenizer.encode([*c.sampling.prompts, c.sampling.negative], c.text.length)  # or too long
  optimizer = make_optimizer(c.train, system.matrices)
  abstract = abstract_state(system, optimizer, mesh, c.train.freeze)
  return Run(mesh, rows, source, val_source, tokenizer, system, optimizer, abstract, draw)
