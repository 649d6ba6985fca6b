"""Ancestral sampling with a learned variance."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.process import Process, Time, convert, like
from t2i_jax.process.variational import Posterior, learned_log_variance, log_bounds, posterior
from t2i_jax.sampling.runge_kutta import starts_and_ends
from t2i_jax.sampling.solver import Call, Solver, Step


class Learned(NamedTuple):
  """The posterior of each step, and the bounds of its log variance."""

  posterior: Posterior
  log_low: Any
  log_high: Any


def ddpm_learned() -> Solver:
  """x_s ~ N(posterior mean at x0_hat, exp(f log beta + (1 - f) log beta-tilde)).

  The prediction's aux holds the network's raw variance channels, shaped like x. No noise at the
  last step.   Source: [2102.09672 eq. 15]
  """

  def plan(process: Process, times: Time) -> Learned:
    now, to = starts_and_ends(times)
    first = process.at(np.array([1.0, 2.0]) / (process.steps or 1000))
    return Learned(posterior(now, to), *log_bounds(now, to, first))

  def step(call: Call, x, step: Step, memory, noise):
    prediction = call(x, step.now)
    if prediction.aux is None:
      raise ConfigError(
        "ddpm_learned needs a learned variance: use ddpm, or train with process.prediction="
        "'eps(learned_variance=True)'."
      )
    n: Learned = step.numbers
    x0_hat = convert(prediction, "x0", x, step.now)
    mean = like(n.posterior.on_x_t, x) * x + like(n.posterior.on_x0, x) * x0_hat.value
    log_variance = learned_log_variance(prediction.aux, n.log_low, n.log_high)
    last = step.to.sigma == 0
    return mean + jnp.where(last, 0, jnp.exp(log_variance / 2)) * noise, x0_hat, memory

  return Solver(plan, lambda x: (), step, noisy=True)
