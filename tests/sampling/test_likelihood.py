"""The ODE's log-likelihood against exact log-densities of mixtures, for every process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from benchmarks.proofs import closed_form
from t2i_jax.errors import ConfigError
from t2i_jax.process import PROCESSES, Time
from t2i_jax.sampling.likelihood import (
  bits_per_dimension,
  dequantised,
  exact,
  hutchinson,
  log_likelihood,
  to_noise,
)

MIXTURE = closed_form.mixture(
  [1, 2, 1], [[-1.0, 0.5], [0.8, 0.2], [0.2, -1.0]], [[0.2], [0.1], [0.3]]
)
X0, LABEL = closed_form.draw(MIXTURE, jax.random.key(0), 24)


def _rising(process, steps):
  """From t = 0 to 1, evenly in tau = sigma / (alpha + sigma)."""
  end = process.at(np.float64(1))
  tau = np.linspace(0, end.sigma / (end.alpha + end.sigma), steps + 1)
  with np.errstate(divide="ignore"):
    t = process.time_of(tau / (1 - tau))
  t[0], t[-1] = 0, 1
  return process.at(t)


def _both(name, steps, kind="v", cond=None, divergence=exact):
  process = PROCESSES[name]()
  denoise = closed_form.denoiser(MIXTURE, kind)
  x0 = X0.astype(jnp.result_type(float))
  times = _rising(process, steps)
  x_1, log_det = jax.jit(lambda x: to_noise(denoise, process, times, x, cond, divergence))(x0)
  return process, x0, x_1, log_det


@pytest.mark.parametrize("name", PROCESSES)
def test_log_likelihood_is_the_log_density(name):
  """The integrator errs by 2e-8 nats in 128 steps; all else is what the prior leaves out.

  That is log p_1(x_1) - log N(x_1; 0, prior_std^2), known here: nothing without signal at t = 1,
  0.03 nats at most with the most signal (ddpm_scaled_linear).
  """
  with jax.enable_x64(True):
    process, x0, x_1, log_det = _both(name, 128)
    end = process.at(np.float64(1))
    truth = closed_form.log_density(MIXTURE, x0)
    at_noise = closed_form.log_density(MIXTURE, x_1, end)
    np.testing.assert_allclose(log_det, truth - at_noise, atol=1e-7)
    denoise, times = closed_form.denoiser(MIXTURE, "v"), _rising(process, 128)
    log_p = jax.jit(lambda x: log_likelihood(denoise, process, times, x))(x0)
    miss = at_noise - closed_form.prior_log_density(process, x_1)
    np.testing.assert_allclose(log_p + miss, truth, atol=1e-7)
    assert jnp.abs(miss).max() < (1e-12 if process.zero_terminal_snr else 0.05)


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "velocity", "score"])
def test_every_prediction_gives_the_same(kind):
  """From a small t where x0 and the score leave eps open, in float32."""
  process = PROCESSES["ddpm_linear"]()
  times = _rising(process, 64)
  if kind in ("x0", "score"):
    times = Time(*(f[1:] for f in times))
  denoise = closed_form.denoiser(MIXTURE, kind)
  log_p = jax.jit(lambda x: log_likelihood(denoise, process, times, x))(X0)
  start = Time(*(f[0] for f in times))
  # Its x0 is the state at the first time.
  truth = closed_form.log_density(MIXTURE, X0, start)
  np.testing.assert_allclose(log_p, truth, atol=4e-3)  # the prior's miss: 3e-3


def test_fourth_order():
  with jax.enable_x64(True):
    errors = []
    for steps in (16, 32, 64, 128):
      process, x0, x_1, log_det = _both("flow", steps)
      log_p = log_det + closed_form.log_density(MIXTURE, x_1, process.at(np.float64(1)))
      errors.append(float(jnp.abs(log_p - closed_form.log_density(MIXTURE, x0)).max()))
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert slopes[-1] > 3.8, (errors, slopes)


@pytest.mark.newest
def test_conditional_likelihood():
  """Given its class, a row's density is that of the class alone."""
  with jax.enable_x64(True):
    process, x0, x_1, log_det = _both("flow", 64, cond=LABEL)
    log_p = log_det + closed_form.log_density(MIXTURE, x_1, process.at(np.float64(1)), LABEL)
    truth = closed_form.log_density(MIXTURE, x0, label=LABEL)
    np.testing.assert_allclose(log_p, truth, atol=2e-6)


def test_hutchinson_is_unbiased():
  """Its mean over keys is the exact divergence; a diagonal Jacobian has no variance at all."""
  spread = jnp.array([[1.0, 0.6, 0.0], [0.6, 2.0, -0.3], [0.0, -0.3, 0.5]])
  field = lambda y: jnp.tanh(y @ spread)
  y = jnp.broadcast_to(jnp.array([0.2, -0.4, 1.0]), (4000, 3))
  keys = jax.random.split(jax.random.key(0), 4000)
  value, truth = exact(field, y)
  np.testing.assert_allclose(value, field(y), rtol=1e-6)
  jacobian = jax.jacfwd(lambda row: field(row[None])[0])(y[0])
  np.testing.assert_allclose(truth, jnp.trace(jacobian), rtol=1e-5)
  for probes in (1, 4):
    _, estimate = hutchinson(keys, probes)(field, y)
    error = float(estimate.std()) / len(y) ** 0.5
    np.testing.assert_allclose(estimate.mean(), truth[0], atol=4 * error)
    # Var(z J z) = 2 sum over i < j of (J_ij + J_ji)^2 / 2, divided by the probes.
    both = jacobian + jacobian.T
    variance = jnp.sum(jnp.triu(both, 1) ** 2) / probes
    np.testing.assert_allclose(estimate.var(), variance, rtol=0.15)
  _, estimate = hutchinson(keys)(lambda y: y**3, y)
  np.testing.assert_allclose(estimate, jnp.sum(3 * y**2, -1), rtol=1e-5)


def test_hutchinson_rows_do_not_depend_on_the_batch():
  process, keys = PROCESSES["flow"](), jax.random.split(jax.random.key(3), 24)
  denoise = closed_form.denoiser(MIXTURE, "velocity")
  times = _rising(process, 16)
  run = lambda x, k: log_likelihood(denoise, process, times, x, None, hutchinson(k))
  whole = jax.jit(run)(X0, keys)
  np.testing.assert_allclose(jax.jit(run)(X0[5:9], keys[5:9]), whole[5:9], rtol=1e-5)
  # And their mean is the likelihood, within its own spread.
  copies = jnp.broadcast_to(X0[:1], (2000, 2))
  estimates = jax.jit(run)(copies, jax.random.split(jax.random.key(4), 2000))
  truth = closed_form.log_density(MIXTURE, X0[:1])[0]
  error = float(estimates.std()) / 2000**0.5
  np.testing.assert_allclose(estimates.mean(), truth, atol=4 * error + 1e-3)


def test_bits_of_dequantised_pictures_bound_the_entropy():
  """8-bit Gaussian data of 10 bins a standard deviation, filled evenly, under its own density."""
  std, dims = 10 * 2 / 255, 64
  levels = jnp.round(std * jax.random.normal(jax.random.key(0), (512, dims)) * 127.5 + 0.5) - 0.5
  x0 = dequantised(levels / 127.5, jax.random.split(jax.random.key(1), 512))
  assert jnp.abs(x0 - levels / 127.5).max() <= 1 / 255 + 1e-7
  assert len(np.unique(np.asarray(x0))) > 0.99 * x0.size
  data = closed_form.gaussian(np.zeros(dims), std**2)
  bits = bits_per_dimension(closed_form.log_density(data, x0), dims)
  mass = np.diff(stats.norm.cdf(np.arange(-60, 61) / 10))
  entropy = -np.sum(mass * np.log2(np.maximum(mass, 1e-300)))
  error = float(bits.std()) / 512**0.5
  np.testing.assert_allclose(bits.mean(), entropy, atol=4 * error)
  # The published offset, of [-1, 1] cut in 256.
  np.testing.assert_allclose(bits_per_dimension(jnp.zeros(1), 3, 2 / 256), 7)


def test_refusals():
  process = PROCESSES["ddpm_sigmoid"]()
  times = _rising(process, 4)
  denoise = lambda kind: closed_form.denoiser(MIXTURE, kind)
  with pytest.raises(ConfigError, match=r"x0 does not determine eps .* hold t = 0"):
    to_noise(denoise("x0"), process, times, X0)
  with pytest.raises(ConfigError, match=r"eps does not determine x0 .* hold t = 1"):
    to_noise(denoise("eps"), process, times, X0)
  with pytest.raises(ConfigError, match="must rise"):
    to_noise(denoise("v"), process, Time(*(f[::-1] for f in times)), X0)
