"""Learned variances and the 8-bit likelihood against diffusers, torch and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from t2i_jax.process import PROCESSES, Prediction
from t2i_jax.process.variational import discretized_nll, learned_log_variance, log_bounds
from t2i_jax.sampling import GRIDS, SOLVERS, make_plan, sample

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

STEPS = 10
SHAPE = (2, 3, 4, 4)  # B, C, H, W


def _scheduler(steps=STEPS):
  scheduler = diffusers.DDPMScheduler(
    variance_type="learned_range", clip_sample=False, timestep_spacing="leading"
  )
  scheduler.set_timesteps(steps)
  return scheduler


def _first(process):
  return process.at(np.array([1.0, 2.0]) / 1000)


@pytest.mark.parametrize("steps, atol", [(1000, 1.5e-3), (10, 1e-5)])
def test_learned_variance_is_that_of_diffusers(steps, atol):
  """At every step but the last, where diffusers' lower end is log 1e-20.

  Its beta is 1 minus a ratio of float32 products: of a step of 1e-4 three digits are left.
  """
  scheduler, process = _scheduler(steps), PROCESSES["ddpm_linear"](published=True)
  n = scheduler.timesteps.numpy()
  raw = np.linspace(-1.5, 1.5, len(n), dtype=np.float32)
  now, to = process.at((n[:-1] + 1) / 1000), process.at((n[1:] + 1) / 1000)
  ours = learned_log_variance(jnp.asarray(raw)[:-1, None], *log_bounds(now, to, _first(process)))
  theirs = [
    float(scheduler._get_variance(t, predicted_variance=torch.tensor(r)))
    for t, r in zip(scheduler.timesteps[:-1], raw, strict=False)
  ]
  np.testing.assert_allclose(ours[:, 0], theirs, atol=atol)


def _network(x, t, cos):
  """A nonlinear x- and t-dependent answer: the noise, then the raw variance."""
  return 0.8 * x + 0.1 * cos(3 * x) + 1e-4 * t, cos(2 * x + 1e-2 * t)


def test_trajectory_with_a_learned_variance():
  scheduler, process = _scheduler(), PROCESSES["ddpm_linear"](published=True)
  x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
  start, noises, generator = x.numpy(), [], torch.Generator().manual_seed(1)
  twin = torch.Generator().manual_seed(1)
  for t in scheduler.timesteps:
    eps, raw = _network(x, float(t), torch.cos)
    noises.append(torch.randn(SHAPE, generator=twin).numpy() if t > 0 else np.zeros(SHAPE))
    output = torch.cat([eps, raw], 1)
    x = scheduler.step(output, t, x, generator=generator).prev_sample

  def denoise(x_t, time, cond):
    eps, raw = _network(x_t, time.model_time, jnp.cos)
    return Prediction(eps, "eps", raw)

  solver = SOLVERS["ddpm_learned"]()
  plan = make_plan(solver, process, GRIDS["leading"](process, STEPS, offset=0))
  table = jnp.asarray(np.stack(noises), jnp.float32)
  ours, _ = jax.jit(lambda x: sample(denoise, solver, plan, x, None, lambda i: table[i]))(start)
  np.testing.assert_allclose(ours, x.numpy(), atol=1e-5 * np.abs(x.numpy()).max())


def test_discretized_likelihood_is_the_difference_of_two_distribution_functions():
  """In float64 by torch and scipy, wherever that difference keeps its digits."""
  rng = np.random.default_rng(0)
  x0 = np.round(rng.uniform(0, 255, 4000)) / 127.5 - 1
  x0[:40], x0[40:80] = -1, 1
  mean = x0 + 0.1 * rng.standard_normal(4000)
  log_var = rng.uniform(-9, 1, 4000)
  std = np.exp(log_var / 2)
  upper = np.where(x0 > 0.999, np.inf, (x0 - mean + 1 / 255) / std)
  lower = np.where(x0 < -0.999, -np.inf, (x0 - mean - 1 / 255) / std)
  # On the side where both are small.
  flip = lower > 0
  upper, lower = np.where(flip, -lower, upper), np.where(flip, -upper, lower)
  mass = stats.norm.cdf(upper) - stats.norm.cdf(lower)
  normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
  torch_mass = normal.cdf(torch.tensor(upper)) - normal.cdf(torch.tensor(lower))
  np.testing.assert_allclose(torch_mass, mass, rtol=1e-8, atol=1e-16)
  keeps = mass > 1e-12
  assert keeps.mean() > 0.8
  ours = discretized_nll(*(jnp.asarray(a, jnp.float32) for a in (x0, mean, log_var)))
  np.testing.assert_allclose(ours[keeps], -np.log(mass[keeps]), rtol=2e-4, atol=2e-3)
  with jax.enable_x64(True):
    ours = discretized_nll(jnp.asarray(x0), jnp.asarray(mean), jnp.asarray(log_var))
    np.testing.assert_allclose(ours[keeps], -np.log(mass[keeps]), rtol=1e-4, atol=1e-12)
    assert np.all(np.isfinite(ours))
