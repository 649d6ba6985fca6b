"""Timestep distributions of training, and shifts of t.

A distribution is represented by its inverse distribution function: it maps u, uniform on (0, 1),
to t in (0, 1). Independent u give independent t; stratified u give a t that covers the distribution
evenly in every batch.
"""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc, ndtri

from t2i_jax.errors import ConfigError
from t2i_jax.ranges import Count, Factor, Logit, Range

TimestepDistribution = Callable[[jax.Array], jax.Array]

# float32 uniforms include 0, where sigma = 0 and an x0 prediction has no eps.
SMALLEST = 1e-5

Std = Annotated[float, Range("(0, 20]")]  # of a logarithm
Shape = Annotated[float, Range("[0.05, 100]")]  # of the beta distribution, in float32


def uniform() -> TimestepDistribution:
  """t = u."""
  return lambda u: u


def logit_normal(mean: Logit = 0.0, std: Std = 1.0) -> TimestepDistribution:
  """logit(t) ~ N(mean, std^2)        [2403.03206 eq. 19]"""
  return lambda u: jax.nn.sigmoid(mean + std * ndtri(u))


def mode(scale: Annotated[float, Range("[-1, 1.75193]")] = 1.29) -> TimestepDistribution:
  """t = 1 - u - scale (cos^2(pi u / 2) - 1 + u), heavy in the middle for scale > 0.

  Source: [2403.03206 eq. 20]; monotone for -1 <= scale <= 2 / (pi - 2) = 1.75194.
  """
  # With 1 - u for u, so that t increases with u as in every other distribution.
  return lambda u: u - scale * (jnp.square(jnp.sin(jnp.pi / 2 * u)) - u)


def cosmap() -> TimestepDistribution:
  """t = 1 - 1 / (tan(pi u / 2) + 1): the SNR of the cosine schedule. [2403.03206 eq. 21]"""
  return lambda u: 1 - 1 / (jnp.tan(jnp.pi / 2 * u) + 1)


def edm(
  mean: Logit = -1.2, std: Std = 1.2, sigma_max: Annotated[float, Range("[0.01, 1e6]")] = 80.0
) -> TimestepDistribution:
  """ln(sigma) ~ N(mean, std^2) on the process "edm", sigma = 80 t. [2206.00364 table 1]"""
  return lambda u: jnp.exp(mean + std * ndtri(u)) / sigma_max


def beta(a: Shape = 1.0, b: Shape = 1.5) -> TimestepDistribution:
  """t ~ Beta(a, b), by bisection of the incomplete beta function."""

  def quantile(u):
    def halve(_, ends):
      low, high = ends
      middle = (low + high) / 2
      below = betainc(a, b, middle) < u
      return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(u), jnp.ones_like(u)))
    return (low + high) / 2

  return quantile


def discrete(times: Any) -> TimestepDistribution:
  """Uniform over the given times: t = times[floor(n u)]."""
  table = jnp.asarray(np.asarray(times, np.float32))
  return lambda u: table[jnp.minimum((u * len(table)).astype(jnp.int32), len(table) - 1)]


def static(factor: Factor = 1.0) -> Callable[[int], Any]:
  """The same shift for every image; 1 is none, SD3 has 3."""
  return lambda tokens: factor


def dynamic(
  base_shift: Logit = 0.5,
  max_shift: Logit = 1.15,
  base_tokens: Count = 256,
  max_tokens: Count = 4096,
) -> Callable[[int], Any]:
  """A shift by the number of image tokens: `dynamic_factor`."""
  return lambda tokens: dynamic_factor(tokens, base_shift, max_shift, base_tokens, max_tokens)


def shift(t: Any, factor: Any) -> Any:
  """t' = factor t / (1 + (factor - 1) t): sigma / alpha of flow matching times `factor`.

  The factor is `static`, or `dynamic` in the number of image tokens of the batch.
  Source: [2403.03206 eq. 23]
  """
  return factor * t / (1 + (factor - 1) * t)


def dynamic_factor(
  tokens: Any,
  base_shift: float = 0.5,
  max_shift: float = 1.15,
  base_tokens: int = 256,
  max_tokens: int = 4096,
) -> Any:
  """exp(mu), mu linear in the number of image tokens.   Source: FLUX.1's sampling code

  Raises ConfigError where base_tokens = max_tokens, or where mu of a number is far outside.
  """
  if base_tokens == max_tokens:
    raise ConfigError(f"base_tokens = max_tokens = {max_tokens}: two numbers of tokens are needed.")
  slope = (max_shift - base_shift) / (max_tokens - base_tokens)
  if not isinstance(tokens, int | float | np.ndarray):
    return jnp.exp(slope * (tokens - base_tokens) + base_shift)
  mu = slope * (tokens - base_tokens) + base_shift
  if np.any(np.abs(mu) > 20):
    raise ConfigError(
      f"a shift of exp({np.max(np.abs(mu)):g}) at {np.max(tokens)} tokens is not in exp(-20) to "
      f"exp(20): base_tokens = {base_tokens} and max_tokens = {max_tokens} are too near each other."
    )
  return np.exp(mu)


def stratified(key: jax.Array, rows: jax.Array, n: int) -> jax.Array:
  """u of the rows (global positions) of a batch of n: one in each n-th of (0, 1).   # [B]

  The strata are assigned to the rows by the same permutation in every process, so that the global
  batch is covered however it is distributed over processes.
  Source: the low-discrepancy sampler of [2107.00630 app. I], jittered within each stratum.
  """
  assign, jitter = jax.random.split(key)
  stratum = jax.random.permutation(assign, n)[rows]
  within = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(jitter, row)))(rows)
  return (stratum + within) / n


def inside(t: jax.Array) -> jax.Array:
  """t clipped away from both ends, where some predictions are undefined."""
  return jnp.clip(t, SMALLEST, 1 - SMALLEST)


TIMESTEP_DISTRIBUTIONS: dict[str, Callable[..., TimestepDistribution]] = {
  "uniform": uniform,
  "logit_normal": logit_normal,
  "mode": mode,
  "cosmap": cosmap,
  "beta": beta,
  "edm": edm,
}

SHIFTS: dict[str, Callable[..., Callable[[int], Any]]] = {"static": static, "dynamic": dynamic}
