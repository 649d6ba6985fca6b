"""The posterior against Bayes's rule, the bound against entropies known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from benchmarks.proofs import closed_form
from t2i_jax.errors import ConfigError
from t2i_jax.process import PROCESSES, Prediction, Time
from t2i_jax.process.tables import alpha_bar_of, linear_betas
from t2i_jax.process.variational import (
  discretized_nll,
  learned_log_variance,
  log_bounds,
  normal_kl,
  posterior,
  prior_kl,
  variance_loss,
  variational_bound,
)

STD = 0.25  # of the data: 32 bins of 2 / 255, and 4 standard deviations inside [-1, 1]


@pytest.mark.parametrize("name", PROCESSES)
def test_posterior_is_bayes_rule(name):
  """x_t = ratio x_s + forward noise, x_s = alpha_s x0 + sigma_s noise: condition x_s on x_t."""
  process = PROCESSES[name]()
  for t, s in ((0.9, 0.3), (0.5, 0.499), (1.0, 0.7), (0.01, 0.0)):
    now, to = (process.at(np.float64(u)) for u in (t, s))
    p = posterior(now, to)
    ratio = now.alpha / to.alpha
    # Joint of (x_s, x_t) given x0 = 1, from how they are made.
    mean = np.array([to.alpha, now.alpha])
    cov = np.array(
      [
        [to.sigma**2, ratio * to.sigma**2],
        [ratio * to.sigma**2, ratio**2 * to.sigma**2 + p.forward],
      ]
    )
    np.testing.assert_allclose(cov[1, 1], now.sigma**2, rtol=1e-12)
    gain = cov[0, 1] / cov[1, 1]
    np.testing.assert_allclose(p.on_x_t, gain, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(p.on_x0, mean[0] - gain * mean[1], rtol=1e-9)
    np.testing.assert_allclose(p.variance, cov[0, 0] - gain * cov[0, 1], rtol=1e-7, atol=1e-15)


def test_neighbouring_steps_are_ddpm():
  """beta, beta-tilde and the mean's coefficients of [2006.11239 eq. 7], from the betas."""
  process = PROCESSES["ddpm_linear"]()
  beta = linear_betas()
  bar = alpha_bar_of(beta)
  n = np.arange(1, 1000)
  p = posterior(process.at((n + 1) / 1000), process.at(n / 1000))
  tilde = (1 - bar[n - 1]) / (1 - bar[n]) * beta[n]
  np.testing.assert_allclose(p.forward, beta[n], rtol=1e-9)
  np.testing.assert_allclose(p.variance, tilde, rtol=1e-9)
  np.testing.assert_allclose(p.on_x0, np.sqrt(bar[n - 1]) * beta[n] / (1 - bar[n]), rtol=1e-9)
  on_x_t = np.sqrt(1 - beta[n]) * (1 - bar[n - 1]) / (1 - bar[n])
  np.testing.assert_allclose(p.on_x_t, on_x_t, rtol=1e-9)


def test_normal_kl_is_the_integral():
  mean1, std1, mean2, std2 = 0.3, 0.7, -0.5, 1.3
  p, q = stats.norm(mean1, std1), stats.norm(mean2, std2)
  integral = p.expect(lambda x: p.logpdf(x) - q.logpdf(x))
  kl = normal_kl(mean1, 2 * np.log(std1), mean2, 2 * np.log(std2))
  np.testing.assert_allclose(kl, integral, rtol=1e-6)
  assert normal_kl(0.3, -1.0, 0.3, -1.0) == 0


def test_discretized_likelihood_is_a_distribution():
  """Over the 256 levels the masses sum to 1, for narrow, wide and far means."""
  levels = jnp.arange(256) / 127.5 - 1
  for mean, std in ((0.0, 0.3), (0.9, 0.02), (-1.0, 0.004), (3.0, 1.0), (0.1, 20.0)):
    nll = discretized_nll(levels, jnp.float32(mean), jnp.float32(2 * np.log(std)))
    np.testing.assert_allclose(jnp.exp(-nll).sum(), 1, rtol=2e-5)


def test_discretized_likelihood_far_away_is_finite_and_has_a_gradient():
  """A bin a hundred standard deviations off: the asymptotic tail, not log 0."""
  nll, slope = jax.value_and_grad(lambda mean: discretized_nll(0.5, mean, 2 * jnp.log(0.01)))(-0.5)
  tail = stats.norm.logsf((1 - 1 / 255) / 0.01)
  np.testing.assert_allclose(nll, -tail, rtol=1e-5)
  np.testing.assert_allclose(slope, -(1 - 1 / 255) / 0.01**2, rtol=1e-3)


@pytest.mark.newest
def test_learned_variance_spans_its_range():
  process = PROCESSES["ddpm_linear"]()
  now, to = process.at(np.array([0.5, 0.001])), process.at(np.array([0.499, 0.0]))
  low, high = log_bounds(now, to, process.at(np.array([0.001, 0.002])))
  beta = linear_betas()
  np.testing.assert_allclose(jnp.exp(high), beta[[499, 0]], rtol=1e-5)
  assert jnp.all(low < high)
  one = jnp.ones((2, 3))
  np.testing.assert_array_equal(learned_log_variance(one, low, high), high[:, None] * one)
  np.testing.assert_array_equal(learned_log_variance(-one, low, high), low[:, None] * one)
  middle = learned_log_variance(0 * one, low, high)
  np.testing.assert_allclose(middle, one * (low + high)[:, None] / 2)
  # The range of the step that ends at t = 0 is that of the step above: 0 has no logarithm.
  bar = alpha_bar_of(beta)
  np.testing.assert_allclose(jnp.exp(low[1]), beta[1] * (1 - bar[0]) / (1 - bar[1]), rtol=1e-5)


def test_hybrid_loss_trains_the_variance_alone():
  """No gradient to the mean; the variance is pulled to what makes the step most likely."""
  process = PROCESSES["ddpm_linear"]()
  now = process.at(jnp.array([0.001, 0.3, 0.9]))  # the first is the decoder's
  x0, eps, wrong = (STD * jax.random.normal(jax.random.key(i), (3, 400)) for i in range(3))
  x_t = now.alpha[:, None] * x0 + now.sigma[:, None] * eps / STD
  value = eps / STD + wrong

  @jax.jit
  def loss(value, raw):
    return variance_loss(process, Prediction(value, "eps", raw), x0, x_t, now)

  of_value, of_raw = jax.grad(lambda *a: loss(*a).sum(), (0, 1))(value, jnp.zeros((3, 400)))
  assert jnp.all(of_value == 0)
  assert jnp.all(of_raw[1:] != 0)
  # beta-tilde and a little for the error of the mean: against that the loss rises both ways.
  raws = jnp.linspace(-4, 4, 41)
  curve = jnp.stack([loss(value, jnp.full((3, 400), raw)) for raw in raws])[:, 1:]  # [41, 2]
  p = posterior(*(Time(*(f[1:] for f in time)) for time in (now, process.at(now.t - 0.001))))
  error = p.on_x0 * now.sigma[1:] / now.alpha[1:]
  best = p.variance + error**2 * jnp.mean(wrong[1:] ** 2, -1)
  found = raws[jnp.argmin(curve, 0)]
  low, high = jnp.log(p.variance), jnp.log(p.forward)
  expected = 2 * (jnp.log(best) - low) / (high - low) - 1
  np.testing.assert_allclose(found, jnp.clip(expected, -4, 4), atol=0.11)


def _even(process, n):
  return process.at(np.arange(n + 1) / n)


def _even_log_snr(process, n, s_min=0.01):
  """t = 0, then log(sigma / alpha) evenly up to near the end."""
  s = np.geomspace(s_min, 1e3, n - 1)
  return process.at(np.concatenate([[0], process.time_of(s), [1.0]]))


def _bound(process, times=None, variance="small", raw=None, rows=512, dims=64):
  """Bits a dimension, mean and its error, of 8-bit Gaussian data under its exact denoiser."""
  levels = jnp.round((STD * jax.random.normal(jax.random.key(0), (rows, dims)) + 1) * 127.5)
  x0 = levels / 127.5 - 1
  exact = closed_form.denoiser(closed_form.gaussian(np.zeros(dims), STD**2), "v")

  def denoise(x_t, time, cond):
    prediction = exact(x_t, time)
    return prediction if raw is None else prediction._replace(aux=raw(time, x_t))

  noise = lambda i: jax.random.normal(jax.random.fold_in(jax.random.key(1), i), x0.shape)
  bound = jax.jit(lambda: variational_bound(denoise, process, x0, noise, None, times, variance))()
  assert bound.shape == (rows,)
  return float(bound.mean()), float(bound.std() / rows**0.5)


# Bits of 8-bit Gaussian data: its mass at each level.
MASS = np.diff(stats.norm.cdf((np.arange(257) - 0.5) / 127.5 - 1, scale=STD))
ENTROPY = -np.sum(MASS * np.log2(MASS))


def _expected(process, times, large=False):
  """The bound's expectation for continuous N(0, STD^2) data: KLs of Gaussians, term by term.

  The mean of q(x_s | x_t, x0) is off by pull (x0 - x0_hat), whose variance is known; the decoder's
  term is an integral over that one number.
  """
  a, s = (np.asarray(f)[1:] for f in (times.alpha, times.sigma))
  a0, s0 = (np.asarray(f)[:-1] for f in (times.alpha, times.sigma))
  end, var0 = s[-1] ** 2, process.prior_std**2
  total = (end / var0 - 1 - np.log(end / var0) + a[-1] ** 2 * STD**2 / var0) / 2
  forward = s**2 - (a / a0 * s0) ** 2
  tilde = forward * s0**2 / s**2
  miss = a0 * forward / s**2 * np.sqrt(STD**2 * s**2 / (a**2 * STD**2 + s**2))
  var = forward if large else np.append(tilde[1], tilde[1:])
  ratio = var[1:] / tilde[1:]
  total += np.sum(np.log(ratio) + 1 / ratio - 1 + miss[1:] ** 2 / var[1:]) / 2
  e = np.linspace(0, 7, 4001) * miss[0]
  near, far = (stats.norm.logsf((e + side / 255) / var[0] ** 0.5) for side in (-1, 1))
  nll = -near - np.log1p(-np.exp(far - near))
  total += 2 * np.trapezoid(stats.norm.pdf(e, scale=miss[0]) * nll, e)
  return total / np.log(2)


@pytest.mark.parametrize(
  "name, steps, variance",
  [
    pytest.param("ddpm_linear", None, "small", marks=pytest.mark.proof),  # its own 1000 steps
    ("ddpm_sigmoid", 50, "large"),
    ("flow", 32, "small"),
    ("vp", 100, "small"),
    ("edm", 100, "large"),
    pytest.param("edm", 400, "large", marks=pytest.mark.proof),
  ],
)
def test_bound_is_its_expectation(name, steps, variance):
  """For every family, also with zero terminal SNR and a prior of another width."""
  process = PROCESSES[name]()
  times = _even(process, steps) if steps else None
  mean, error = _bound(process, times, variance, rows=512 if steps else 256)
  expected = _expected(process, times or _even(process, 1000), variance == "large")
  assert error < 0.025
  np.testing.assert_allclose(mean, expected, atol=4 * error)
  assert mean > ENTROPY


def test_bound_tends_to_the_entropy():
  """Even in log SNR the bound of a perfect network falls to the entropy, as 1 / N."""
  process = PROCESSES["flow"]()
  gaps = [_expected(process, _even_log_snr(process, n), True) - ENTROPY for n in (25, 50, 100, 200)]
  slopes = np.log2(np.divide(gaps[:-1], gaps[1:]))
  np.testing.assert_allclose(slopes, 1, atol=0.2)
  mean, error = _bound(process, _even_log_snr(process, 200), "large")
  np.testing.assert_allclose(mean - ENTROPY, gaps[-1], atol=4 * error)
  # Even in t with the small variance it does not: the last steps still halve the noise.
  small, large = (_expected(process, _even(process, 100), large) for large in (False, True))
  assert large - ENTROPY < 0.05 < 1.5 < small - ENTROPY


def test_bound_with_the_best_variance_is_tight():
  """The reverse chain of Gaussian data is Gaussian: at its own variance five steps lose nothing.

  beta-tilde + (on_x0)^2 var(x0 | x_t), as a learned variance. [2201.06503 theorem 1]
  """
  process = PROCESSES["flow"]()

  def raw(time, x_t):
    to, first = process.at(time.t - 1 / 5), process.at(jnp.array([1.0, 2.0]) / 5)
    p = posterior(time, to)
    left = STD**2 * time.sigma**2 / (time.alpha**2 * STD**2 + time.sigma**2)
    low, high = log_bounds(time, to, first)
    log_best = jnp.log(p.variance + p.on_x0**2 * left)
    return jnp.full_like(x_t, 2 * (log_best - low) / (high - low) - 1)

  mean, error = _bound(process, _even(process, 5), "learned", raw)
  # Masses of 8-bit levels against densities: at 32 bins a standard deviation no difference.
  np.testing.assert_allclose(mean, ENTROPY, atol=4 * error)
  assert error < 0.01
  assert _bound(process, _even(process, 5))[0] > ENTROPY + 0.1


def test_prior_kl_at_the_end():
  x0 = jnp.ones((2, 3)) * jnp.array([[0.5], [-1.0]])
  np.testing.assert_allclose(prior_kl(x0, PROCESSES["flow"]().at(jnp.float32(1))), 0, atol=1e-7)
  edm = PROCESSES["edm"]()
  kl = prior_kl(x0, edm.at(jnp.float32(1)), edm.prior_std)
  np.testing.assert_allclose(kl, np.array([0.25, 1.0]) / (2 * 80**2), rtol=1e-3)


def test_bound_refuses():
  x0, noise = jnp.zeros((1, 2)), lambda i: jnp.zeros((1, 2))
  denoise = closed_form.denoiser(closed_form.gaussian(np.zeros(2), 1.0), "v")
  flow = PROCESSES["flow"]()
  with pytest.raises(ConfigError, match="flow has no training steps"):
    variational_bound(denoise, flow, x0, noise)
  with pytest.raises(ConfigError, match="'tiny'"):
    variational_bound(denoise, flow, x0, noise, times=_even(flow, 4), variance="tiny")
  with pytest.raises(ConfigError, match=r"found 2, from sigma = 0.5"):
    variational_bound(denoise, flow, x0, noise, times=flow.at(np.array([0.5, 1.0])))
