"""Timestep distributions are the quantiles of scipy's, also after a shift."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from t2i_jax.config import build
from t2i_jax.errors import ConfigError
from t2i_jax.process import PROCESSES, SHIFTS, TIMESTEP_DISTRIBUTIONS
from t2i_jax.process.timesteps import (
  SMALLEST,
  discrete,
  dynamic_factor,
  inside,
  shift,
  stratified,
)

U = (np.arange(200) + 0.5) / 200
logit = lambda t: np.log(t) - np.log1p(-t)


def mode_cdf(scale):
  """The paper's map falls from 1 to 0 as u grows, so that P(T < t) = 1 - u(t)."""
  paper = lambda u: 1 - u - scale * (np.cos(np.pi * u / 2) ** 2 - 1 + u)
  grid = np.linspace(0, 1, 2001)
  u = [optimize.brentq(lambda u, t=t: paper(u) - t, 0, 1) for t in grid]
  return lambda t: np.interp(t, grid, 1 - np.array(u))


def density_cdf(density):
  grid = np.linspace(0, 1, 4001)
  return lambda t: np.interp(
    t, grid, integrate.cumulative_simpson(density(grid), x=grid, initial=0)
  )


DISTRIBUTIONS = {
  "uniform": (TIMESTEP_DISTRIBUTIONS["uniform"](), stats.uniform.cdf),
  "logit_normal": (TIMESTEP_DISTRIBUTIONS["logit_normal"](), lambda t: stats.norm.cdf(logit(t))),
  "logit_normal(-0.5, 0.7)": (
    TIMESTEP_DISTRIBUTIONS["logit_normal"](-0.5, 0.7),
    lambda t: stats.norm(-0.5, 0.7).cdf(logit(t)),
  ),
  "mode": (TIMESTEP_DISTRIBUTIONS["mode"](), mode_cdf(1.29)),
  "mode(-0.7)": (TIMESTEP_DISTRIBUTIONS["mode"](-0.7), mode_cdf(-0.7)),
  # The density of [2403.03206 eq. 21].
  "cosmap": (
    TIMESTEP_DISTRIBUTIONS["cosmap"](),
    density_cdf(lambda t: 2 / (np.pi - 2 * np.pi * t + 2 * np.pi * t**2)),
  ),
  "beta": (TIMESTEP_DISTRIBUTIONS["beta"](), stats.beta(1.0, 1.5).cdf),
  "beta(0.6, 3)": (TIMESTEP_DISTRIBUTIONS["beta"](0.6, 3.0), stats.beta(0.6, 3.0).cdf),
  "edm": (TIMESTEP_DISTRIBUTIONS["edm"](), stats.lognorm(s=1.2, scale=np.exp(-1.2) / 80).cdf),
}
ALL = pytest.mark.parametrize("name", DISTRIBUTIONS)
FACTORS = {
  "static": SHIFTS["static"](3.0)(4096),
  "dynamic": SHIFTS["dynamic"]()(1024),
  "below one": 0.4,
}


@functools.cache
def compiled(name):
  return jax.jit(DISTRIBUTIONS[name][0])


@functools.cache
def draw(name):
  """float64 of the float32 t of each of U, so that logits at the ends are those of the float32."""
  t = np.asarray(compiled(name)(U.astype(np.float32)))
  assert t.dtype == np.float32
  return t.astype(np.float64)


def test_every_law_is_here():
  assert {name.split("(")[0] for name in DISTRIBUTIONS} == set(TIMESTEP_DISTRIBUTIONS)


@pytest.mark.newest
@ALL
def test_distribution(name):
  """P(T < t(u)) = u."""
  np.testing.assert_allclose(DISTRIBUTIONS[name][1](draw(name)), U, atol=2e-4)


@ALL
@pytest.mark.parametrize("factor", FACTORS.values(), ids=list(FACTORS))
def test_law_after_a_shift(name, factor):
  """P(shift(T) < t) = F(the t that is shifted to this one)."""
  back = lambda t: t / (factor - (factor - 1) * t)
  shifted = np.asarray(shift(draw(name), factor))
  np.testing.assert_allclose(DISTRIBUTIONS[name][1](back(shifted)), U, atol=2e-4)


@ALL
@given(u=st.lists(st.floats(1e-6, 1 - 1e-6), min_size=16, max_size=16))
@settings(max_examples=10, deadline=None)
def test_t_grows_with_u_and_stays_inside(name, u):
  # As many values as the law is compiled for.
  t = np.asarray(compiled(name)(np.resize(np.sort(np.float32(u)), len(U))))[: len(u)]
  assert np.all(np.diff(t) >= -1e-6)
  kept = np.asarray(inside(t))
  assert np.all((kept >= np.float32(SMALLEST)) & (kept < 1))


def test_shift_multiplies_the_noise_of_the_flow():
  """sigma / alpha of the flow times the factor; both ends stay. [2403.03206 eq. 23]"""
  t = np.linspace(0.01, 0.99, 30)
  at = PROCESSES["flow"]().at
  ratio = lambda t: at(t).sigma / at(t).alpha
  for factor in (0.5, 1.0, 3.0, 6.0):
    np.testing.assert_allclose(ratio(shift(t, factor)), factor * ratio(t), rtol=1e-12)
    assert shift(0.0, factor) == 0 and shift(1.0, factor) == 1
  np.testing.assert_array_equal(shift(t, 1.0), t)


def test_shift_moves_a_logit_normal_by_the_logarithm():
  shifted = shift(draw("logit_normal"), 3.0)
  np.testing.assert_allclose(stats.norm(np.log(3.0)).cdf(logit(shifted)), U, atol=2e-4)


def test_dynamic_shift_is_that_of_flux():
  """exp(0.5) at 256 tokens, exp(1.15) at 4096, linear in the exponent; traced or not."""
  tokens = np.array([256, 1024, 4096])
  wanted = np.exp(0.5 + 0.65 * (tokens - 256) / 3840)
  np.testing.assert_allclose([dynamic_factor(int(n)) for n in tokens], wanted, rtol=1e-12)
  np.testing.assert_allclose(jax.jit(dynamic_factor)(jnp.asarray(tokens)), wanted, rtol=1e-6)
  assert SHIFTS["dynamic"](max_shift=0.9)(4096) == pytest.approx(np.exp(0.9))
  assert SHIFTS["static"](3.0)(1) == SHIFTS["static"](3.0)(9999) == 3.0


@pytest.mark.parametrize("n", [8, 64])
def test_stratified_is_one_in_each_stratum_for_any_share_of_the_batch(n):
  drawn = jax.jit(stratified, static_argnums=2)
  for seed in range(5):
    key = jax.random.key(seed)
    u = np.asarray(drawn(key, np.arange(n), n))
    assert sorted(np.floor(u * n).astype(int)) == list(range(n))
    shares = [drawn(key, np.arange(i, i + n // 4), n) for i in range(0, n, n // 4)]
    np.testing.assert_array_equal(np.concatenate(shares), u)


@pytest.mark.parametrize("name", ["uniform", "logit_normal", "edm"])
def test_stratified_keeps_the_law_of_every_row(name):
  """Pooled, and of one row over many batches; between rows of a batch it is not independent."""
  keys = jax.random.split(jax.random.key(7), 4000)
  u = jax.jit(jax.vmap(lambda key: stratified(key, jnp.arange(8), 8)))(keys)
  t = np.asarray(compiled(name)(u)).astype(np.float64)
  for row in (0, 5):
    assert stats.kstest(t[:, row], DISTRIBUTIONS[name][1]).pvalue > 0.01
  error = lambda batch: np.abs(np.mean(DISTRIBUTIONS[name][1](batch), axis=1) - 0.5)
  apart = jax.random.uniform(jax.random.key(0), (4000, 8), minval=1e-7)
  apart = np.asarray(compiled(name)(apart)).astype(np.float64)
  assert np.mean(error(t)) < 0.2 * np.mean(error(apart))


def test_discrete_gives_each_time_as_often_and_exactly():
  times = (np.arange(1000) + 1) / 1000
  distribution = discrete(times)
  u = jax.random.uniform(jax.random.key(0), (50000,))
  drawn, counts = np.unique(np.asarray(jax.jit(distribution)(u)), return_counts=True)
  assert np.array_equal(drawn, np.float32(times))
  assert stats.chisquare(counts).pvalue > 0.01
  assert distribution(jnp.float32(1.0)) == 1
  assert distribution(jnp.float32(0.0)) == np.float32(0.001)
  four = discrete([1.0, 0.938, 0.834, 0.626])
  at = PROCESSES["ddpm_linear"]().at
  assert np.array_equal(at(four(jnp.linspace(0, 0.99, 4))).model_time, [999, 937, 833, 625])


def test_mode_refuses_what_would_fold():
  with pytest.raises(ConfigError, match=r"scale = 1\.8 is not in \[-1, 1\.75193\]"):
    build(TIMESTEP_DISTRIBUTIONS, "mode(scale=1.8)", "process.timesteps")
