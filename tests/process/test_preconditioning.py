"""EDM's preconditioning against what it promises of Gaussian data, for every process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.proofs.closed_form import denoiser, gaussian
from t2i_jax.process import PROCESSES, like
from t2i_jax.process.preconditioning import coefficients, preconditioned

ALL = pytest.mark.parametrize("name", PROCESSES)
T = jnp.array([0.0, 0.01, 0.3, 0.7, 1.0])


@ALL
@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_a_silent_network_is_the_best_answer_for_gaussian_data(name, sigma_data):
  """With F = 0, D is E[x0 | x_t] of N(0, sigma_data^2), at both ends too."""
  time = PROCESSES[name]().at(T)
  x_t = jnp.linspace(-2, 2, 15).reshape(5, 3)
  got = preconditioned(jnp.zeros_like, x_t, time, sigma_data)
  wanted = denoiser(gaussian(np.zeros(3), sigma_data**2))(x_t, time, None).value
  np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@ALL
def test_input_and_target_of_the_network_have_unit_variance(name):
  """Var(c_in x_t) = 1, and Var((x0 - c_skip x_t) / c_out) = 1, for x0 of variance 0.25."""
  process = PROCESSES[name]()
  with jax.enable_x64(True):
    time = process.at(jnp.asarray(T, jnp.float64))
    c_in, c_skip, c_out = coefficients(time)
    variance = time.alpha**2 * 0.25 + time.sigma**2
    np.testing.assert_allclose(c_in**2 * variance, 1, rtol=1e-12)
    left = (1 - c_skip * time.alpha) ** 2 * 0.25 + c_skip**2 * time.sigma**2
    np.testing.assert_allclose(left, c_out**2, rtol=1e-12, atol=1e-15)
    assert c_out[0] == 0  # at t = 0 the image is already there


def test_numbers_of_the_paper():
  """[2206.00364 table 1] on its own process, at sigma = 0.5 = sigma_data and at 80."""
  time = PROCESSES["edm"]().at(np.array([0.5, 80.0]) / 80)
  c_in, c_skip, c_out = coefficients(jax.tree.map(jnp.asarray, time))
  np.testing.assert_allclose(c_in, [2**0.5, 1 / np.sqrt(6400.25)], rtol=1e-6)
  np.testing.assert_allclose(c_skip, [0.5, 0.25 / 6400.25], rtol=1e-6)
  np.testing.assert_allclose(c_out, [0.5 / 2**0.5, 40 / np.sqrt(6400.25)], rtol=1e-6)
  np.testing.assert_allclose(time.model_time, np.log([0.5, 80.0]) / 4, rtol=1e-12)


@pytest.mark.newest
def test_the_network_sees_what_it_is_given_and_the_result_is_float32():
  seen = []

  def network(x):
    seen.append(x)
    return x.astype(jnp.bfloat16)

  time = PROCESSES["flow"]().at(T)
  x_t = jnp.ones((5, 2, 2, 3))
  out = preconditioned(network, x_t, time)
  c_in, c_skip, c_out = (like(c, x_t) for c in coefficients(time))
  np.testing.assert_allclose(seen[0], c_in * x_t)
  assert out.dtype == jnp.float32 and out.shape == x_t.shape
  wanted = jnp.broadcast_to(c_skip + c_out * c_in, out.shape)
  np.testing.assert_allclose(out, wanted, rtol=1e-2)
