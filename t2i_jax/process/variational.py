"""The variational bound of a discrete process, and learned variances. In nats unless stated.

    q(x_s | x_t, x0) = N(mean, variance I),   s < t
    variance = sigma_{t|s}^2 sigma_s^2 / sigma_t^2
    mean     = (alpha_{t|s} sigma_s^2 x_t + alpha_s sigma_{t|s}^2 x0) / sigma_t^2

with alpha_{t|s} = alpha_t / alpha_s and sigma_{t|s}^2 = sigma_t^2 - alpha_{t|s}^2 sigma_s^2, which
for neighbouring steps of DDPM are sqrt(1 - beta) and beta. Source: [2107.00630 app. A],
[2006.11239 eq. 7].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.process.prediction import Prediction, to_x0_eps
from t2i_jax.process.schedules import Process
from t2i_jax.process.time import Time, like, mix


class Posterior(NamedTuple):
  """Per-row coefficients of q(x_s | x_t, x0), shaped like time.t.

  mean = on_x_t x_t + on_x0 x0;   variance is beta-tilde of DDPM, forward sigma_{t|s}^2, its beta
  """

  on_x_t: Any
  on_x0: Any
  variance: Any
  forward: Any


def posterior(now: Time, to: Time) -> Posterior:
  """q(x_s | x_t, x0) from t = now to s = to. Works for numpy and jax; sigma_t > 0."""
  ratio = now.alpha / to.alpha
  kept = to.sigma**2 / now.sigma**2
  forward = now.sigma**2 - ratio**2 * to.sigma**2
  return Posterior(ratio * kept, to.alpha * forward / now.sigma**2, forward * kept, forward)


def learned_log_variance(raw: jax.Array, log_low: jax.Array, log_high: jax.Array) -> jax.Array:
  """log variance between beta-tilde and beta, from the network's second half of channels.

      log variance = f log beta + (1 - f) log beta-tilde,   f = (raw + 1) / 2

  Source: [2102.09672 eq. 15]
  """
  f = (raw.astype(jnp.float32) + 1) / 2
  return f * like(log_high, raw) + (1 - f) * like(log_low, raw)


def log_bounds(now: Time, to: Time, first: Time) -> tuple[jax.Array, jax.Array]:
  """(log beta-tilde, log beta) of a step, the ends of the range of a learned variance.

  beta-tilde is 0 for the step that ends at t = 0; there the value of the step above is used, from
  `first`, the Time of training steps 0 and 1 (fields [2]), as published.
  """
  p = posterior(now, to)
  above = posterior(Time(*(f[1] for f in first)), Time(*(f[0] for f in first)))
  low = jnp.where(to.sigma > 0, p.variance, above.variance)
  return jnp.log(low), jnp.log(p.forward)


def normal_kl(mean1, log_var1, mean2, log_var2) -> jax.Array:
  """KL(N(mean1, var1) || N(mean2, var2)), elementwise, in nats."""
  shrink = jnp.exp(log_var1 - log_var2) + jnp.square(mean1 - mean2) * jnp.exp(-log_var2)
  return 0.5 * (log_var2 - log_var1 + shrink - 1)


def discretized_nll(x0: jax.Array, mean: jax.Array, log_var: jax.Array) -> jax.Array:
  """-log of the mass that N(mean, var) puts on the 8-bit bin of x0 in [-1, 1], in nats.

  Bins are 2 / 255 wide; the first and last reach to infinity. Source: [2006.11239 eq. 13]
  """
  inverse_std = jnp.exp(-0.5 * log_var)
  upper = (x0 - mean + 1 / 255) * inverse_std
  lower = (x0 - mean - 1 / 255) * inverse_std
  log_cdf, log_sf = jax.scipy.stats.norm.logcdf, jax.scipy.stats.norm.logsf
  # log(cdf(upper) - cdf(lower)) on the side where the tail is small, so that it does not cancel.
  far = x0 > mean
  big = jnp.where(far, log_sf(lower), log_cdf(upper))
  small = jnp.where(far, log_sf(upper), log_cdf(lower))
  inner = big + jnp.log1p(-jnp.exp(jnp.minimum(small - big, -1e-7)))
  return -jnp.where(x0 < -0.999, log_cdf(upper), jnp.where(x0 > 0.999, log_sf(lower), inner))


def vlb_term(
  prediction: Prediction,
  log_variance: jax.Array,
  x0: jax.Array,
  x_t: jax.Array,
  now: Time,
  to: Time,
  first: Time,
) -> jax.Array:
  """L_{t-1} per row: KL of the true and the model's step, or the decoder's term at to.t = 0.

  log_variance  [B, ...] of the model's step
  Returns nats per dimension, the mean over a row.   # [B]     Source: [2006.11239 eq. 5]
  """
  p = posterior(now, to)
  x0_hat, _ = to_x0_eps(prediction, x_t, now)
  mean_of = lambda x: like(p.on_x_t, x_t) * x_t + like(p.on_x0, x_t) * x
  log_true, _ = log_bounds(now, to, first)
  kl = normal_kl(mean_of(x0), like(log_true, x_t), mean_of(x0_hat), log_variance)
  nll = discretized_nll(x0, mean_of(x0_hat), log_variance)
  term = jnp.where(like(to.sigma, x_t) > 0, kl, nll)
  return jnp.mean(term, axis=tuple(range(1, term.ndim)))


def variance_loss(
  process: Process, prediction: Prediction, x0: jax.Array, x_t: jax.Array, now: Time
) -> jax.Array:
  """The term that L_hybrid adds to L_simple: L_vlb, which trains the variance only.   # [B]

  prediction  its aux is the raw variance, shaped like x_t; no gradient flows into its value
  now         at training steps of the process
  In bits per dimension: 0.001 of the sum over N = 1000 steps is one step. [2102.09672 eq. 16]
  """
  assert process.steps is not None
  to = process.at(now.model_time / process.steps)  # step n of 0..N-1 is at (n + 1) / N
  first = process.at(jnp.array([1.0, 2.0]) / process.steps)
  log_variance = learned_log_variance(prediction.aux, *log_bounds(now, to, first))
  held = prediction._replace(value=jax.lax.stop_gradient(prediction.value))
  return vlb_term(held, log_variance, x0, x_t, now, to, first) / jnp.log(2.0)


def prior_kl(x0: jax.Array, end: Time, prior_std: float = 1.0) -> jax.Array:
  """KL(q(x_1 | x0) || N(0, prior_std^2 I)) in nats per dimension: L_T per row.   # [B]"""
  mean, log_var = like(end.alpha, x0) * x0, 2 * jnp.log(like(end.sigma, x0))
  kl = normal_kl(mean, log_var, 0.0, 2 * np.log(prior_std))
  return jnp.mean(kl, axis=tuple(range(1, x0.ndim)))


def variational_bound(
  denoise: Callable[[jax.Array, Time, Any], Prediction],
  process: Process,
  x0: jax.Array,
  noise: Callable[[jax.Array], jax.Array],
  cond: Any = None,
  times: Time | None = None,
  variance: str = "small",
) -> jax.Array:
  """Upper bound of -log2 p(x0) by ancestral sampling in N steps, in bits per dimension.   # [B]

      L = KL(q(x_1 | x0) || p(x_1)) + sum_{i = 2..N} KL(q(x_s | x_t, x0) || p(x_s | x_t))
          - log p(x0 | x_{t_1}),   t = t_i, s = t_{i-1}

  with one x_t drawn for each i. Source: [2006.11239 eq. 5; decoder eq. 13]

  x0        [B, ...] images in [-1, 1], at 8-bit levels 2 / 255 apart
  noise     index 0..N-1 -> unit Gaussian shaped like x0
  times     [N + 1] increasing from t = 0 to 1, concrete; by default the process's steps
  variance  of the model's step: "small" (beta-tilde; for the last step that of the one above),
            "large" (beta), or "learned" (from aux)
  On grids that are uniform in t "small" keeps a gap of bits however fine they are: near t = 0 each
  step still halves the noise, and beta-tilde is far from the optimal variance.
  Raises ConfigError.
  """
  if times is None and process.steps is None:
    raise ConfigError(
      f"variational_bound: times = None, and {process.name} has no training steps. Give times."
    )
  if variance not in ("small", "large", "learned"):
    raise ConfigError(f"variational_bound: variance = {variance!r} is not small, large or learned.")
  if times is None:
    assert process.steps is not None
    times = process.at(np.arange(process.steps + 1) / process.steps)
  n = len(times.t) - 1
  if n < 2 or times.sigma[0] != 0 or np.any(np.diff(times.t) <= 0):
    raise ConfigError(
      f"variational_bound: times must be at least 3 and increase from sigma = 0; found {n + 1}, "
      f"from sigma = {times.sigma[0]:g}."
    )
  now, to, first = (
    Time(*(jnp.asarray(np.asarray(f)[part], jnp.result_type(float)) for f in times))
    for part in (slice(1, None), slice(None, -1), slice(1, 3))
  )

  def add(total: jax.Array, step: tuple[jax.Array, Time, Time]) -> tuple[jax.Array, None]:
    index, now, to = step
    x_t = mix(x0, noise(index).astype(x0.dtype), now)
    prediction = denoise(x_t, now, cond)
    low, high = log_bounds(now, to, first)
    if variance == "learned":
      log_variance = learned_log_variance(prediction.aux, low, high)
    else:
      log_variance = low if variance == "small" else high
    return total + vlb_term(prediction, log_variance, x0, x_t, now, to, first), None

  start = prior_kl(x0, Time(*(f[-1] for f in now)), process.prior_std)
  total, _ = jax.lax.scan(add, start, (jnp.arange(n), now, to))
  return total / np.log(2)
