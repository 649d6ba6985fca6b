"""Inversion against the exact flow map of Gaussian data, and round trips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.proofs import closed_form
from t2i_jax.errors import ConfigError
from t2i_jax.process import PROCESSES, Time
from t2i_jax.sampling import GRIDS, GUIDANCE, SOLVERS, Guided, guide, make_plan, sample
from t2i_jax.sampling.inversion import (
  before_last_step,
  ddim_inverse,
  invert,
  midpoint,
  rising,
)

GAUSSIAN = closed_form.gaussian([0.4, -0.2], [[0.5, 0.3], [0.3, 0.8]])
MIXTURE = closed_form.mixture([1, 2, 1], [[-1.0, 0.5], [0.8, 0.2], [0.2, -1.0]], 0.1)
COUNTS = (20, 40, 80, 160)


def _interior(process, steps):
  """Rising times between sigma / alpha = 0.05 and 5, evenly in tau = sigma / (alpha + sigma)."""
  tau = np.linspace(0.05 / 1.05, 5 / 6, steps + 1)
  return process.at(process.time_of(tau / (1 - tau)))


def _falling(times):
  return Time(*(f[::-1] for f in times))


def _slopes(errors):
  return np.log2(np.divide(errors[:-1], errors[1:]))


def _round_trip(denoise, up, down, process, times, x0):
  x_1, _ = invert(denoise, up, process, times, x0)
  back, _ = sample(denoise, down, make_plan(down, process, _falling(times)), x_1, None)
  return x_1, back


# The solver, the order of x_1, the order of the round trip. Heun's error changes sign when the
# step does, so that its leading term cancels on the way back and a third order is left.
ORDERS = [("ddim", SOLVERS["ddim"](), 1, 1), ("heun", SOLVERS["heun"](), 2, 3)]


@pytest.mark.parametrize("name, solver, order, back_order", ORDERS, ids=[o[0] for o in ORDERS])
def test_orders(name, solver, order, back_order):
  with jax.enable_x64(True):
    process = PROCESSES["flow"]()
    denoise = closed_form.denoiser(GAUSSIAN, "x0")
    x0 = jax.random.normal(jax.random.key(0), (16, 2), jnp.float64)
    forth, back = [], []
    for steps in COUNTS:
      times = _interior(process, steps)
      x_1, again = jax.jit(lambda x, t=times: _round_trip(denoise, solver, solver, process, t, x))(
        x0
      )
      first, last = (Time(*(f[i] for f in times)) for i in (0, -1))
      forth.append(jnp.abs(x_1 - closed_form.flow_map(GAUSSIAN, x0, first, last)).max())
      back.append(jnp.abs(again - x0).max())
    np.testing.assert_allclose(_slopes(forth), order, atol=0.2)
    np.testing.assert_allclose(_slopes(back), back_order, atol=0.2)


def test_midpoint_is_second_order_and_its_own_inverse():
  """Also where the field is not linear, and at every step count the way back ends at x0."""
  with jax.enable_x64(True):
    process = PROCESSES["flow"]()
    x0 = jax.random.normal(jax.random.key(0), (16, 2), jnp.float64)
    solver = midpoint(60)
    forth = []
    for data in (GAUSSIAN, MIXTURE):
      denoise = closed_form.denoiser(data, "x0")
      for steps in COUNTS[:3]:
        times = _interior(process, steps)
        x_1, again = jax.jit(
          lambda x, t=times, d=denoise: _round_trip(d, solver, solver, process, t, x)
        )(x0)
        np.testing.assert_allclose(again, x0, atol=1e-12)
        if data is GAUSSIAN:
          first, last = (Time(*(f[i] for f in times)) for i in (0, -1))
          forth.append(jnp.abs(x_1 - closed_form.flow_map(GAUSSIAN, x0, first, last)).max())
    np.testing.assert_allclose(_slopes(forth), 2, atol=0.2)


@pytest.mark.newest
@pytest.mark.parametrize("name", PROCESSES)
def test_ddim_inverse_undoes_ddim(name):
  """On a published grid of 50 steps of every process, also with zero terminal SNR.

  DDIM itself run up misses by 0.12 to 0.32; the solved steps are undone to rounding, 1e-6.
  """
  process = PROCESSES[name]()
  grid = GRIDS["karras" if name == "edm" else "trailing"](process, 50)
  times = rising(grid)
  denoise = closed_form.denoiser(MIXTURE, "v")
  x0, _ = closed_form.draw(MIXTURE, jax.random.key(0), 32)
  ddim = SOLVERS["ddim"]()
  errors = []
  for up in (ddim_inverse(40), ddim):
    _, back = jax.jit(lambda x, up=up: _round_trip(denoise, up, ddim, process, times, x))(x0)
    errors.append(float(jnp.abs(back - x0).max()))
  assert errors[0] < 5e-6, errors
  assert errors[1] > 0.1, errors


@pytest.mark.parametrize("name, most", [("flow", 1e-5), ("ddpm_linear", 2e-3)])
def test_the_round_trip_has_its_last_interval(name, most):
  """From an image up and down the whole grid, to sigma = 0: at most 2e-3 off, without the step
  before the last one 0.03 and more.
  """
  process = PROCESSES[name]()
  grid = GRIDS["trailing"](process, 50)
  times = rising(grid)
  first = Time(*(jnp.float32(field[0]) for field in times))
  denoise = closed_form.denoiser(MIXTURE, "v")
  x0, _ = closed_form.draw(MIXTURE, jax.random.key(0), 32)
  ddim = SOLVERS["ddim"]()

  def miss(x_t):
    x_1, _ = invert(denoise, ddim_inverse(20), process, times, x_t)
    back, _ = sample(denoise, ddim, make_plan(ddim, process, grid), x_1, None)
    return jnp.abs(back - x0).max()

  assert jax.jit(miss)(before_last_step(denoise, first, x0)) < most
  assert jax.jit(miss)(x0) > 0.03


def test_scale_one_is_the_conditional_ode():
  """Guidance at scale 1 inverts as the conditional network alone."""
  process = PROCESSES["ddpm_linear"]()
  times = rising(GRIDS["trailing"](process, 20))
  denoise = closed_form.denoiser(MIXTURE, "eps")
  x0, label = closed_form.draw(MIXTURE, jax.random.key(0), 32)
  guided = guide(denoise, GUIDANCE["cfg"](), 1.0)
  solver = SOLVERS["heun"]()
  alone, _ = jax.jit(lambda x: invert(denoise, solver, process, times, x, label))(x0)
  pair = Guided(label, jnp.full_like(label, -1))
  both, _ = jax.jit(lambda x: invert(guided, solver, process, times, x, pair))(x0)
  np.testing.assert_allclose(both, alone, atol=1e-4)


def test_trajectory_is_every_state():
  process = PROCESSES["flow"]()
  times = rising(GRIDS["trailing"](process, 8))
  denoise = closed_form.denoiser(GAUSSIAN, "velocity")
  x0 = jnp.ones((3, 2))
  x_1, states = jax.jit(lambda x: invert(denoise, SOLVERS["ddim"](), process, times, x, keep=True))(
    x0
  )
  assert states.shape == (8, 3, 2)  # 8 of the 9 times have noise
  np.testing.assert_array_equal(states[0], x0)
  np.testing.assert_array_equal(states[-1], x_1)
  assert jnp.all(jnp.any(states[1:] != states[:-1], (1, 2)))


def test_rising_leaves_out_what_has_no_noise():
  process = PROCESSES["flow"]()
  times = rising(GRIDS["trailing"](process, 4))
  np.testing.assert_allclose(times.t, [0.25, 0.5, 0.75, 1.0])


def test_refusals():
  process = PROCESSES["flow"]()
  denoise = closed_form.denoiser(GAUSSIAN)
  grid, x0 = GRIDS["trailing"](process, 4), jnp.ones((1, 2))
  with pytest.raises(ConfigError, match=r"t = 1 \.\. 0"):
    invert(denoise, SOLVERS["ddim"](), process, grid, x0)
  with pytest.raises(ConfigError, match="sigma = 0"):
    invert(denoise, SOLVERS["ddim"](), process, _falling(grid), x0)
  with pytest.raises(ConfigError, match="adds noise"):
    invert(denoise, SOLVERS["ddpm"](), process, rising(grid), x0)
