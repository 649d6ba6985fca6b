"""EDICT: exact round trips of a network, its steps against the published ones, its order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.proofs import closed_form
from t2i_jax.errors import ConfigError
from t2i_jax.process import PROCESSES, Prediction, Time
from t2i_jax.sampling import GRIDS, GUIDANCE, SOLVERS, Guided, guide, make_plan, sample
from t2i_jax.sampling.coupled import Pair, invert_coupled, sample_coupled

GAUSSIAN = closed_form.gaussian([0.4, -0.2], [[0.5, 0.3], [0.3, 0.8]])


def network(kind):
  """A nonlinear denoiser of an image under a vector."""
  w = jax.random.normal(jax.random.key(3), (2, 4, 4))

  def denoise(x_t, time, cond):
    inside = jnp.tanh(x_t @ w[0] + cond + time.alpha - time.sigma)
    return Prediction(jnp.sin(2 * inside @ w[1]), kind)

  return denoise


def grid_of(name, process, steps):
  return GRIDS["karras" if name == "edm" else "trailing"](process, steps)


@pytest.mark.newest
@pytest.mark.parametrize("name, scale", [("flow", 1.0), *((name, 3.0) for name in PROCESSES)])
def test_the_round_trip_is_exact(name, scale):
  """Over 50 steps, the last interval to sigma = 0 too. p^-2 a step: rounding, times 1,400."""
  with jax.enable_x64(True):
    process = PROCESSES[name]()
    times = grid_of(name, process, 50)
    denoise = guide(network("v"), GUIDANCE["cfg"](), scale)
    x0 = jax.random.normal(jax.random.key(0), (8, 4), jnp.float64)
    cond = Guided(jnp.ones((8, 4)), jnp.zeros((8, 4)))

    @jax.jit
    def round_trip(x0):
      pair = invert_coupled(denoise, process, times, x0, cond)
      return pair, sample_coupled(denoise, process, times, pair, cond)

    pair, back = round_trip(x0)
    np.testing.assert_allclose(back.a, x0, atol=1e-9)
    np.testing.assert_allclose(back.b, x0, atol=1e-9)
    assert np.all(np.isfinite(pair.a))


def published(eps_of, times, x, y, p):
  """The loop of the paper's own notation, a_t x + b_t eps, with its alternation of the states."""
  alpha, sigma = np.asarray(times.alpha), np.asarray(times.sigma)
  for i in range(len(alpha) - 1):
    a = alpha[i + 1] / alpha[i]
    b = sigma[i + 1] - a * sigma[i]
    x_inter = a * x + b * eps_of(y, i)
    y_inter = a * y + b * eps_of(x_inter, i)
    x = p * x_inter + (1 - p) * y_inter
    y = p * y_inter + (1 - p) * x
    x, y = y, x
  return x, y


def test_its_steps_are_the_published_ones():
  with jax.enable_x64(True):
    process = PROCESSES["ddpm_scaled_linear"]()
    times, denoise, cond = GRIDS["leading"](process, 10), network("eps"), jnp.ones((3, 4))
    x = jax.random.normal(jax.random.key(1), (3, 4), jnp.float64)
    at = lambda i: Time(*(field[i] for field in times))
    wanted = published(lambda z, i: denoise(z, at(i), cond).value, times, x, x, 0.9)
    found = sample_coupled(denoise, process, times, Pair(x, x), cond, mix=0.9, frame="sigma")
    np.testing.assert_allclose(found.a, wanted[0], atol=1e-9)
    np.testing.assert_allclose(found.b, wanted[1], atol=1e-9)


def test_without_mixing_a_slope_that_knows_no_state_is_ddim():
  """p = 1, and a network that reads time alone: two DDIMs. A single step is DDIM's for any."""
  process = PROCESSES["flow"]()
  blind = lambda x_t, time, cond: Prediction(jnp.full_like(x_t, jnp.cos(time.t)), "velocity")
  x = jax.random.normal(jax.random.key(2), (3, 4))
  ddim = SOLVERS["ddim"]()
  for denoise, steps in ((blind, 8), (network("velocity"), 1)):
    times, cond = GRIDS["trailing"](process, steps), jnp.ones((3, 4))
    wanted, _ = sample(denoise, ddim, make_plan(ddim, process, times), x, cond)
    pair = sample_coupled(denoise, process, times, Pair(x, x), cond, mix=1.0)
    np.testing.assert_allclose(pair.b, wanted, atol=1e-5)  # the first state, after an odd step
    if denoise is blind:
      np.testing.assert_allclose(pair.a, wanted, atol=1e-5)


def test_it_is_first_order():
  """Against the exact flow map of Gaussian data."""
  with jax.enable_x64(True):
    process = PROCESSES["flow"]()
    denoise = closed_form.denoiser(GAUSSIAN, "velocity")
    x = jax.random.normal(jax.random.key(0), (16, 2), jnp.float64)
    errors = []
    for steps in (40, 80):
      times = process.at(np.linspace(0.9, 0.05, steps + 1))
      first, last = (Time(*(f[i] for f in times)) for i in (0, -1))
      found = jax.jit(lambda x, t=times: sample_coupled(denoise, process, t, Pair(x, x)))(x)
      errors.append(jnp.abs(found.a - closed_form.flow_map(GAUSSIAN, x, first, last)).max())
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 1, atol=0.2)


def test_refusals():
  process = PROCESSES["flow"]()
  times, x = GRIDS["trailing"](process, 4), jnp.ones((1, 4))
  with pytest.raises(ConfigError, match="alpha = 0, at t = 1"):
    sample_coupled(network("eps"), process, times, Pair(x, x), x, frame="sigma")
  with pytest.raises(ConfigError, match="neither 'flow' nor 'sigma'"):
    sample_coupled(network("eps"), process, times, Pair(x, x), x, frame="eps")
  with pytest.raises(ConfigError, match="must fall"):
    invert_coupled(network("eps"), process, Time(*(f[::-1] for f in times)), x, x)
