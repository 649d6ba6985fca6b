"""config.sampling, built: what a drawing needs of it, whatever the model."""

from typing import NamedTuple

from ml_collections import ConfigDict

from t2i_jax.config import build
from t2i_jax.errors import ConfigError
from t2i_jax.process import Process, Time
from t2i_jax.sampling import GRIDS, GUIDANCE, SOLVERS, Combine, Solver


class Sampler(NamedTuple):
  """config.sampling, built: the solver, its time grid [steps + 1], and its method of guidance."""

  solver: Solver
  times: Time
  guidance: Combine


def make_sampler(c: ConfigDict, process: Process) -> Sampler:
  """Raises ConfigError for a config.sampling that cannot run."""
  if c.batch < 1:
    raise ConfigError(f"sampling.batch = {c.batch}: at least 1 is needed.")
  return Sampler(
    build(SOLVERS, c.solver, "sampling.solver"),
    build(GRIDS, c.grid, "sampling.grid", process, c.steps),
    build(GUIDANCE, c.guidance, "sampling.guidance"),
  )
