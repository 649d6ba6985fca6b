"""The sampling loop: one `lax.scan` over a time grid, with one pure hook."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from t2i_jax.process import Prediction, Time
from t2i_jax.sampling.solvers import Denoiser, Solver

OnStep = Callable[[jax.Array, jax.Array, Prediction, Any], tuple[jax.Array, Any]]


def sample(
  denoise: Denoiser,
  solver: Solver,
  times: Time,
  x: jax.Array,
  cond: Any,
  on_step: OnStep | None = None,
  state: Any = None,
) -> tuple[jax.Array, Any]:
  """Runs the solver over the grid from x at times[0] to times[-1].

  times    Time of [S + 1] fields (Process.times)
  x        [B, ...] float32, at times[0]
  cond     whatever the denoiser takes, the same at every step
  on_step  (i, x_s, prediction, state) -> (x_s, state): edits, masks, previews, caches
  Returns (x at times[-1], state). The compiled program depends on S, not on its values.
  """
  times = Time(*(jnp.asarray(field, jnp.float32) for field in times))
  now = Time(*(field[:-1] for field in times))
  to = Time(*(field[1:] for field in times))

  def body(carry, step):
    x, memory, state = carry
    i, now, to = step
    x, prediction, memory = solver.step(denoise, x, now, to, cond, memory)
    if on_step is not None:
      x, state = on_step(i, x, prediction, state)
    return (x, memory, state), None

  index = jnp.arange(now.t.shape[0])
  (x, _, state), _ = jax.lax.scan(body, (x, solver.init(x), state), (index, now, to))
  return x, state
