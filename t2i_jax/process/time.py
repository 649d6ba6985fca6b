"""A time of the process, with all its coefficients.

A float32 t alone is not enough: ten of DDPM's thousand steps are not recovered from
(n + 1) / 1000 in float32. Grids are therefore computed on the host in float64 and include the
network's input time.
"""

from typing import Any, NamedTuple

import jax


class Time(NamedTuple):
  """t and the coefficients at t. Fields are scalars, [B], or [S] for a grid of S times.

  t           time in [0, 1]: 0 = data, 1 = noise
  alpha       coefficient of x0
  sigma       coefficient of eps
  d_alpha     d alpha / dt
  d_sigma     d sigma / dt
  model_time  the network's input time: 1000 t for flow, the step n of 0..N-1 for DDPM
  """

  t: Any
  alpha: Any
  sigma: Any
  d_alpha: Any
  d_sigma: Any
  model_time: Any


def like(coefficient: jax.Array, x: jax.Array) -> jax.Array:
  """Reshapes a per-row coefficient [B] to broadcast against x [B, ...]; scalars are unchanged."""
  if coefficient.ndim == 0:
    return coefficient
  return coefficient.reshape(coefficient.shape + (1,) * (x.ndim - coefficient.ndim))


def mix(x0: jax.Array, eps: jax.Array, time: Time) -> jax.Array:
  """x_t = alpha x0 + sigma eps; x0, eps [B, ...], time of scalars or [B]."""
  return like(time.alpha, x0) * x0 + like(time.sigma, x0) * eps
