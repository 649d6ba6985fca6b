"""Running averages: bins, importance sampling of t, gradient noise; against exact expectations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from t2i_jax.training.running import averaged, by_bin, gradient_noise, importance


def test_rows_fall_into_their_bins_and_unused_rows_into_none():
  values, where = jnp.array([1.0, 2.0, 3.0, 10.0, 7.0]), jnp.array([0.0, 0.1, 0.6, 1.0, 0.6])
  sums, counts = by_bin(values, where, jnp.array([1.0, 1, 1, 1, 0]))
  np.testing.assert_allclose(sums, [3, 0, 0, 0, 3, 0, 0, 10])
  np.testing.assert_allclose(counts, [2, 0, 0, 0, 1, 0, 0, 1])


def test_an_average_starts_at_the_first_batch_and_keeps_bins_that_are_not_hit():
  old = jnp.zeros(3)
  first = averaged(old, jnp.array([[6.0, 0, 1], [2, 0, 1]]))
  np.testing.assert_allclose(first, [3, 0, 1])
  second = averaged(first, jnp.array([[0.0, 5, 2], [0, 1, 1]]))
  np.testing.assert_allclose(second, [3, 5, 0.95 * 1 + 0.05 * 2])


@pytest.mark.newest
def test_importance_is_uniform_until_every_bin_is_seen():
  u = jnp.linspace(0.01, 0.99, 50)
  moved, undo = importance(u, jnp.array([1.0, 0, 4, 9]))
  np.testing.assert_allclose(moved, u, atol=1e-6)
  np.testing.assert_allclose(undo, 1, atol=1e-6)


def test_importance_draws_by_the_root_mean_square_and_stays_unbiased():
  square = jnp.array([1.0, 4.0, 9.0, 4.0])
  u = (jnp.arange(80000) + 0.5) / 80000
  moved, undo = jax.jit(importance)(u, square)
  share = np.histogram(moved, bins=4, range=(0, 1))[0] / len(u)
  np.testing.assert_allclose(share, np.array([1, 2, 3, 2]) / 8, atol=1e-3)
  # The weighted mean of any function is its mean over the uniform law.
  for f in (jnp.sin, jnp.square, jnp.exp):
    exact = jnp.mean(f(u))
    np.testing.assert_allclose(jnp.mean(undo * f(moved)), exact, rtol=2e-4)
  # Inside a bin the law is uniform.
  inside = np.asarray(moved)[(moved > 0.5) & (moved < 0.75)]
  assert stats.kstest((inside - 0.5) / 0.25, "uniform").pvalue > 0.01


@pytest.mark.parametrize("trace, square", [(8.0, 1.0), (0.5, 3.0)])
def test_gradient_noise_is_unbiased(trace, square):
  """Of |mean of n gradients|^2, whose expectation is |G|^2 + trace / n."""
  small, big = square + trace / 16, square + trace / 64
  got = gradient_noise(jnp.float32(small), jnp.float32(big), 16, 64)
  np.testing.assert_allclose(got, [square, trace], rtol=1e-5)


def test_gradient_noise_of_real_gradients():
  """Gaussian gradients of known mean and covariance, in four micro-batches of 8 rows."""
  rng, dim, trials = np.random.default_rng(0), 10, 4000
  mean = np.full(dim, 0.5)
  rows = mean + 2.0 * rng.standard_normal((trials, 4, 8, dim))
  parts = rows.mean(2)
  small = jnp.asarray(np.square(parts).sum(-1).mean(-1))
  big = jnp.asarray(np.square(parts.mean(1)).sum(-1))
  square, trace = jax.vmap(lambda s, b: gradient_noise(s, b, 8, 32))(small, big).mean(0)
  np.testing.assert_allclose(square, np.sum(mean**2), rtol=0.05)
  np.testing.assert_allclose(trace, 4.0 * dim, rtol=0.05)
