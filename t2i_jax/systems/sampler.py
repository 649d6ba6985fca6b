"""config.sampling, built: solver, grid and guidance, whatever the model."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.config import build
from t2i_jax.errors import ConfigError
from t2i_jax.parallel import batch_sharding, owned_rows
from t2i_jax.process import Prediction, Process, Time
from t2i_jax.sampling import GRIDS, GUIDANCE, SOLVERS, Combine, Solver, Step, make_plan
from t2i_jax.sampling.guidance import Views
from t2i_jax.sampling.solver import Linear


class Sampler(NamedTuple):
  """config.sampling, built: the solver, its time grid [steps + 1], and its method of guidance."""

  solver: Solver
  times: Time
  guidance: Combine


def make_sampler(
  c: ConfigDict, process: Process, methods: Mapping[str, Callable[..., Combine]] = GUIDANCE
) -> Sampler:
  """Raises ConfigError for a config.sampling that cannot run. methods: of guidance, by name."""
  return Sampler(
    build(SOLVERS, c.solver, "sampling.solver"),
    build(GRIDS, c.grid, "sampling.grid", process, c.steps),
    build(methods, c.guidance, "sampling.guidance"),
  )


def first_step(times: Time, strength: float) -> int | None:
  """The step from which a start at noise level t = strength is sampled; None where there is none.

  times  [S + 1] falling
  """
  t = np.asarray(times.t)
  first = int(np.argmax(t <= strength + 1e-9))
  return first if 0 < strength <= 1 and first < len(t) - 1 else None


def checked_plan(c: ConfigDict, sampler: Sampler, system: Any) -> Step:
  """The plan of a sampler, after one step of it was traced without the network.

  system  with process, x_shape and output
  Raises ConfigError where the plan is not finite, or the solver or guidance cannot take the shapes
  or the outputs of the model: before anything is trained or compiled.
  """
  chosen = (
    f"sampling.solver = {c.solver!r}, sampling.grid = {c.grid!r}, sampling.steps = {c.steps} on "
    f"process.kind = {system.process.name!r}"
  )
  try:
    plan = make_plan(sampler.solver, system.process, sampler.times)
  except ConfigError as error:
    raise ConfigError(f"{chosen}: {error}") from error
  except (ArithmeticError, ValueError) as error:
    raise ConfigError(f"{chosen} cannot be planned: {error}.") from error
  numbers = plan.numbers
  if isinstance(numbers, Linear):  # NaN at steps without correction
    numbers = numbers._replace(fix_x=None)
  if not all(np.all(np.isfinite(a)) for a in jax.tree.leaves((plan.now, plan.to, numbers))):
    raise ConfigError(f"{chosen}: the plan is not finite. Use another grid or fewer steps.")
  try:
    jax.eval_shape(lambda: _one_step(sampler, system, plan))
  except ConfigError as error:
    raise ConfigError(f"{chosen}, sampling.guidance = {c.guidance!r}: {error}") from error
  return plan


def _one_step(sampler: Sampler, system: Any, plan: Step) -> Any:
  """A step of a plan with a guided prediction of zeros."""
  x = jnp.zeros((1, *system.x_shape))
  method, output = sampler.guidance, system.output
  variance = x if output.learned_variance else None

  def call(x_t: jax.Array, time: Time) -> Prediction:
    one = Prediction(x_t, output.prediction, variance)
    memory = None if method.starts is None else method.starts(x_t)
    return method.combine(Views(one, one, (one,) * method.others, x_t, time, memory), 2.0)

  first = jax.tree.map(lambda field: field[0], plan)
  return sampler.solver.step(call, x, first, sampler.solver.init(x), x)[0]


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
