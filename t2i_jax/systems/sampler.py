"""config.sampling, built: solver, grid and guidance, whatever the model."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.config import build
from t2i_jax.errors import ConfigError
from t2i_jax.parallel import batch_sharding, owned_rows
from t2i_jax.process import Process, Time
from t2i_jax.sampling import GRIDS, GUIDANCE, SOLVERS, Combine, Solver


class Sampler(NamedTuple):
  """config.sampling, built: the solver, its time grid [steps + 1], and its method of guidance."""

  solver: Solver
  times: Time
  guidance: Combine


def make_sampler(
  c: ConfigDict, process: Process, methods: Mapping[str, Callable[..., Combine]] = GUIDANCE
) -> Sampler:
  """Raises ConfigError for a config.sampling that cannot run. methods: of guidance, by name."""
  if c.batch < 1:
    raise ConfigError(f"sampling.batch = {c.batch}: at least 1 is needed.")
  return Sampler(
    build(SOLVERS, c.solver, "sampling.solver"),
    build(GRIDS, c.grid, "sampling.grid", process, c.steps),
    build(methods, c.guidance, "sampling.guidance"),
  )


class Batches:
  """Arrays of any length, laid on a mesh a fixed number of rows at a time.

  rows  the number given, rounded up so that data x fsdp divides it
  """

  def __init__(self, mesh: Mesh, rows: int):
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    self.rows = -(-rows // parts) * parts
    self._owned, self._put = owned_rows(mesh, self.rows), batch_sharding(mesh)

  def __call__(self, tree: Any) -> Iterator[Any]:
    """A tree of arrays [n, ...] in parts of `rows`, the last one filled up by its first row."""
    for start in range(0, len(jax.tree.leaves(tree)[0]), self.rows):
      yield jax.tree.map(lambda a, start=start: self._laid(self._part(a, start)), tree)

  def _part(self, array: Any, start: int) -> np.ndarray:
    part = np.asarray(array)[start : start + self.rows]
    return np.concatenate([part, np.repeat(part[:1], self.rows - len(part), 0)])

  def _laid(self, host: np.ndarray) -> jax.Array:
    return jax.make_array_from_process_local_data(self._put, host[self._owned], host.shape)
