"""Solvers: pure functions that move x_t one step of the grid. Adding one is one line in SOLVERS.

    step(denoise, x_t, now, to, cond, memory) -> (x_s, prediction at x_t, memory)

`now` and `to` are Times of scalars with to.t <= now.t. `memory` is the solver's own pytree
(past predictions of a multistep solver), created by `init(x)`. The network is never evaluated
at t = 0, where x0 is x_t itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t2i_jax.process import Prediction, Time, like, to_velocity, to_x0_eps

Denoiser = Callable[[jax.Array, Time, Any], Prediction]


class Solver(NamedTuple):
  init: Callable[[jax.Array], Any]
  step: Callable[..., tuple[jax.Array, Prediction, Any]]
  calls: int  # network calls a step


def _euler_step(denoise: Denoiser, x_t, now: Time, to: Time, cond, memory):
  """x_s = x_t + (s - t) velocity.   Source: [2209.03003 sec. 2.1], t reversed."""
  prediction = denoise(x_t, now, cond)
  return x_t + (to.t - now.t) * to_velocity(prediction, x_t, now), prediction, memory


def _heun_step(denoise: Denoiser, x_t, now: Time, to: Time, cond, memory):
  """Euler, then the average of both ends' velocities.   Source: [2206.00364 alg. 1]

  The step that ends at t = 0 stays Euler's, as in the source.
  """
  prediction = denoise(x_t, now, cond)
  d_now = to_velocity(prediction, x_t, now)
  x_euler = x_t + (to.t - now.t) * d_now

  def corrected(x_euler):
    d_to = to_velocity(denoise(x_euler, to, cond), x_euler, to)
    return x_t + (to.t - now.t) * (d_now + d_to) / 2

  return jax.lax.cond(to.t > 0, corrected, lambda x: x, x_euler), prediction, memory


def _ddim_step(denoise: Denoiser, x_t, now: Time, to: Time, cond, memory):
  """x_s = alpha(s) x0_hat + sigma(s) eps_hat.   Source: [2010.02502 eq. 12] with its sigma = 0."""
  prediction = denoise(x_t, now, cond)
  x0_hat, eps_hat = to_x0_eps(prediction, x_t, now)
  x_s = like(jnp.asarray(to.alpha), x_t) * x0_hat + like(jnp.asarray(to.sigma), x_t) * eps_hat
  return x_s, prediction, memory


SOLVERS: dict[str, Solver] = {
  "euler": Solver(lambda x: (), _euler_step, calls=1),
  "heun": Solver(lambda x: (), _heun_step, calls=2),
  "ddim": Solver(lambda x: (), _ddim_step, calls=1),
}
