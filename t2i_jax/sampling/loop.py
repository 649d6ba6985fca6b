"""The sampling loop: one `lax.scan` over a plan, with pure hooks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.process import Prediction, Process, Time
from t2i_jax.sampling.solver import Denoiser, Solver, Step

OnStep = Callable[[jax.Array, jax.Array, Prediction, Any], tuple[jax.Array, Any]]
CondAt = Callable[[jax.Array, Any, Any], Any]
Noise = Callable[[jax.Array], jax.Array]  # step index -> unit Gaussian shaped like x


def make_plan(solver: Solver, process: Process, times: Time) -> Step:
  """The solver's steps over a grid, with leading axis [S]; computed in float64 on the host.

  times  [S + 1], concrete, as from sampling.grids
  A plan is an argument of a compiled sampler: a grid with as many steps does not recompile it.
  """
  times = Time(*(np.asarray(field, np.float64) for field in times))
  with np.errstate(divide="ignore", invalid="ignore"):
    numbers = solver.plan(process, times)
  now, to = (Time(*(f[part] for f in times)) for part in (slice(None, -1), slice(1, None)))
  dtype = jnp.result_type(float)  # float32, or float64 where that is enabled
  floats = jax.tree.map(lambda a: jnp.asarray(a, dtype), (now, to, numbers))
  return Step(jnp.arange(len(times.t) - 1), *floats)


def row_noise(keys: jax.Array, shape: tuple[int, ...]) -> Noise:
  """Noise of a step that depends only on the row's key.   keys [B] -> [B, *shape]"""

  def noise(index: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), shape))(keys)

  return noise


def sample(
  denoise: Denoiser,
  solver: Solver,
  plan: Step,
  x: jax.Array,
  cond: Any,
  noise: Noise | None = None,
  on_step: OnStep | None = None,
  state: Any = None,
  cond_at: CondAt | None = None,
) -> tuple[jax.Array, Any]:
  """Runs the solver over its plan, from x at the first time to the last.

  x        [B, ...] float32, at the plan's first time
  cond     the condition of the denoiser, any pytree
  noise    for stochastic solvers: row_noise(keys, shape)
  on_step  (i, x_s, prediction of x0, state) -> (x_s, state): edits, masks, previews, caches.
           The prediction is the step's first, with the denoiser's aux.
  cond_at  (i, cond, state) -> the condition of step i: prompt schedules, memory of a guidance
  Returns (x at the last time, state). The compiled program depends on S, not on the grid.
  Raises ValueError for a stochastic solver without noise.
  """
  if solver.noisy and noise is None:
    raise ValueError("noise = None for a stochastic solver: use noise=row_noise(keys, shape).")

  def body(carry, step: Step):
    x, memory, state = carry
    given = cond if cond_at is None else cond_at(step.index, cond, state)
    call = lambda x_t, time: denoise(x_t, time, given)
    drawn = noise(step.index).astype(x.dtype) if solver.noisy and noise is not None else None
    x, prediction, memory = solver.step(call, x, step, memory, drawn)
    if on_step is not None:
      x, state = on_step(step.index, x, prediction, state)
    return (x, memory, state), None

  (x, _, state), _ = jax.lax.scan(body, (x, solver.init(x), state), plan)
  return x, state


def previews(every: int) -> OnStep:
  """A hook that stores x0_hat of each `every`-th step in the state, [S // every, B, ...].

  Initial state: `jnp.zeros((steps // every, *x.shape))`.
  """

  def on_step(i, x, prediction, state):
    row = jax.lax.dynamic_update_index_in_dim(state, prediction.value, i // every, 0)
    return x, jnp.where(i % every == every - 1, row, state)

  return on_step
