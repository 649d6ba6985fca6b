"""Loss weightings by noise level: functions of Time, as weights of |x0_hat - x0|^2.

At fixed x_t a unit error of x0 changes the prediction of each kind by `space_factor`, so a weight
on x0 determines the weight on every other prediction:

    w_kind(t) = w_x0(t) / space_factor(kind, t)^2

Where a paper weights eps, velocity or v, the weight here is converted to x0; its docstring gives
both.
"""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp

from t2i_jax.errors import ConfigError
from t2i_jax.process.prediction import KINDS
from t2i_jax.process.time import Time
from t2i_jax.ranges import Factor, Logit, Range

Weighting = Callable[[Time], jax.Array]

# Lower bound of sigma in space factors, which diverge as sigma goes to 0 (x0 converted to eps or
# velocity at t = 0) [2511.13720 sec. 4].
FLOOR = 0.05
Snr = Annotated[float, Range("(0, 1e6]")]


def space_factor(kind: str, time: Time) -> jax.Array:
  """The change of the prediction of this kind by a unit error of x0, at fixed x_t.

  x0: 1,   eps: alpha / sigma,   score: alpha / sigma^2,
  v: (alpha^2 + sigma^2) / sigma,   velocity: |alpha sigma' - sigma alpha'| / sigma
  """
  sigma = jnp.maximum(time.sigma, FLOOR)
  if kind == "x0":
    return jnp.ones_like(sigma)
  if kind == "eps":
    return time.alpha / sigma
  if kind == "score":
    return time.alpha / jnp.square(sigma)
  if kind == "v":
    return (jnp.square(time.alpha) + jnp.square(time.sigma)) / sigma
  return jnp.abs(time.alpha * time.d_sigma - time.sigma * time.d_alpha) / sigma


def snr(time: Time) -> jax.Array:
  """alpha^2 / sigma^2, with sigma at least FLOOR."""
  return jnp.square(time.alpha / jnp.maximum(time.sigma, FLOOR))


def in_space(kind: str) -> Weighting:
  """The plain squared error of this kind: eps is L_simple [2006.11239 eq. 14]."""
  if kind not in KINDS:
    raise ConfigError(f"loss weighting: {kind!r} is not one of {', '.join(KINDS)}.")
  return lambda time: jnp.square(space_factor(kind, time))


def min_snr(gamma: Snr = 5.0) -> Weighting:
  """min(SNR, gamma) on x0; min(SNR, gamma) / SNR on eps.   Source: [2303.09556 sec. 3.4]"""
  return lambda time: jnp.minimum(snr(time), gamma)


def soft_min_snr(gamma: Snr = 4.0) -> Weighting:
  """SNR gamma / (SNR + gamma) on x0, the harmonic form of min_snr.   Source: [2401.11605 sec. 3]"""
  return lambda time: snr(time) * gamma / (snr(time) + gamma)


def truncated_snr(floor: Snr = 1.0) -> Weighting:
  """max(SNR, 1) on x0.   Source: [2202.00512 sec. 4]"""
  return lambda time: jnp.maximum(snr(time), floor)


def p2(
  k: Annotated[float, Range("[0.001, 1000]")] = 1.0, gamma: Annotated[float, Range("[0, 5]")] = 1.0
) -> Weighting:
  """1 / (k + SNR)^gamma on eps; times SNR on x0.   Source: [2204.00227 eq. 8]"""
  return lambda time: snr(time) / (k + snr(time)) ** gamma


def sigmoid(bias: Logit = 2.0) -> Weighting:
  """sigmoid(bias - log SNR) on eps; times SNR on x0.   Source: [2303.00848 sec. 5; 2410.19324]

  Computed as SNR / (1 + SNR exp(-bias)), which avoids the logarithm of zero.
  """
  return lambda time: snr(time) / (1 + snr(time) * jnp.exp(-bias))


def edm(sigma_data: Factor = 0.5) -> Weighting:
  """(s^2 + sigma_data^2) / (s sigma_data)^2 on x0, s = sigma / alpha. [2206.00364 table 1]"""
  return lambda time: snr(time) + 1 / sigma_data**2


def sigma_sqrt() -> Weighting:
  """1 / sigma^2 on the velocity of flow matching.   Source: [2403.03206, its training code]"""
  velocity = in_space("velocity")
  return lambda time: velocity(time) / jnp.square(jnp.maximum(time.sigma, FLOOR))


def cosmap() -> Weighting:
  """2 / (pi (1 - 2 t + 2 t^2)) on the velocity: the density of cosmap. [2403.03206 eq. 21]"""
  velocity = in_space("velocity")
  return lambda time: velocity(time) * 2 / (jnp.pi * (1 - 2 * time.t + 2 * jnp.square(time.t)))


WEIGHTINGS: dict[str, Callable[..., Weighting]] = {
  **{kind: (lambda kind=kind: in_space(kind)) for kind in KINDS},
  "min_snr": min_snr,
  "soft_min_snr": soft_min_snr,
  "truncated_snr": truncated_snr,
  "p2": p2,
  "sigmoid": sigmoid,
  "edm": edm,
  "sigma_sqrt": sigma_sqrt,
  "cosmap": cosmap,
}
