"""RF-Inversion and FlowEdit on Gaussian data, where both have a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from benchmarks.proofs import closed_form
from t2i_jax.errors import ConfigError
from t2i_jax.process import PROCESSES, Time, mix
from t2i_jax.sampling import GRIDS, SOLVERS, make_plan, row_noise, sample
from t2i_jax.sampling.flow_editing import flow_edit, towards_image, towards_noise
from t2i_jax.sampling.inversion import invert, rising

COV = [[0.5, 0.3], [0.3, 0.8]]
GAUSSIAN = closed_form.gaussian([0.4, -0.2], COV)
MIXTURE = closed_form.mixture([1, 2, 1], [[-1.0, 0.5], [0.8, 0.2], [0.2, -1.0]], 0.1)
ALL = pytest.mark.parametrize("name", PROCESSES)


def grid_of(name, process, steps):
  return GRIDS["karras" if name == "edm" else "trailing"](process, steps)


def upside_down(times):
  return Time(*(np.asarray(field)[::-1] for field in times))


def run(solver, process, times, x, data=MIXTURE):
  denoise = closed_form.denoiser(data, "v")
  return sample(denoise, solver, make_plan(solver, process, times), x, None)[0]


@ALL
def test_full_control_ends_at_what_is_given(name):
  """gamma = 1: at eps; eta = 1: at x0. Euler's steps are exact on a straight path."""
  with jax.enable_x64(True):
    process = PROCESSES[name]()
    times = grid_of(name, process, 10)
    x0, eps = jax.random.normal(jax.random.key(0), (2, 8, 2), jnp.float64)
    up = run(towards_noise(eps, 1.0), process, upside_down(times), x0)
    first = Time(*(np.asarray(field[0]) for field in times))
    np.testing.assert_allclose(up, mix(x0, eps, first), atol=1e-9 * process.prior_std)
    down = run(towards_image(x0, 1.0, stop=1.0), process, times, process.prior_std * eps)
    np.testing.assert_allclose(down, x0, atol=1e-9)


@ALL
def test_without_control_they_are_ddim(name):
  process = PROCESSES[name]()
  times = grid_of(name, process, 10)
  x0, eps = jax.random.normal(jax.random.key(0), (2, 8, 2))
  ddim = SOLVERS["ddim"]()
  wanted, _ = invert(closed_form.denoiser(MIXTURE, "v"), ddim, process, rising(times), x0)
  found = run(towards_noise(eps, 0.0), process, rising(times), x0)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
  x = process.prior_std * eps
  wanted = run(ddim, process, times, x)
  for solver in (towards_image(x0, 0.0), towards_image(x0, 0.9, start=0.5, stop=0.5)):
    np.testing.assert_allclose(run(solver, process, times, x), wanted, atol=2e-4)


def test_control_by_halves_is_first_order():
  """Against scipy's integration of the controlled ODE in y, of the exact slope."""
  with jax.enable_x64(True):
    process, gamma = PROCESSES["flow"](), 0.4
    denoise = closed_form.denoiser(GAUSSIAN, "velocity")
    x0, eps = (np.asarray(a) for a in jax.random.normal(jax.random.key(0), (2, 3, 2), jnp.float64))
    low, high = 0.05, 0.8

    @jax.jit
    def slope(t, y):
      g = denoise(y.reshape(3, 2), process.at(t), None).value
      return ((1 - gamma) * g + gamma * (eps - y.reshape(3, 2)) / (1 - t)).reshape(-1)

    exact = solve_ivp(slope, (low, high), x0.reshape(-1), rtol=1e-8, atol=1e-8).y[:, -1]
    errors = []
    for steps in (40, 80):
      times = process.at(np.linspace(low, high, steps + 1))
      found = run(towards_noise(jnp.asarray(eps), gamma), process, times, jnp.asarray(x0), GAUSSIAN)
      errors.append(np.abs(np.asarray(found).reshape(-1) - exact).max())
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 1, atol=0.2)


@pytest.mark.newest
@ALL
def test_flow_edit_moves_between_gaussians_by_the_difference_of_their_means(name):
  """Of equal covariance, from pure noise: the state moves by (1 - tau) (m_target - m_source),
  whatever the noise, and Euler's steps are exact on it. A process that ends above sigma / alpha =
  infinity starts by tau of that way.
  """
  with jax.enable_x64(True):
    process = PROCESSES[name]()
    times = grid_of(name, process, 6)
    shift = np.array([1.5, -0.7])
    target = closed_form.gaussian([0.4 + shift[0], -0.2 + shift[1]], COV)
    call = lambda data: lambda x, t: closed_form.denoiser(data, "v")(x, t, None)
    x0 = jax.random.normal(jax.random.key(1), (8, 2), jnp.float64)
    noise = row_noise(jax.random.split(jax.random.key(2), 8), (2,))
    found = flow_edit(call(GAUSSIAN), call(target), process, times, x0, noise, draws=2)
    moved = np.asarray(found - x0)
    np.testing.assert_allclose(moved, moved[:1].repeat(8, 0), atol=1e-9)  # whatever image, noise
    if process.zero_terminal_snr or name == "flow":
      np.testing.assert_allclose(moved, shift[None].repeat(8, 0), atol=1e-9)


def test_the_same_prompt_changes_nothing():
  process = PROCESSES["flow"]()
  call = lambda x, t: closed_form.denoiser(MIXTURE, "velocity")(x, t, None)
  x0 = jax.random.normal(jax.random.key(1), (8, 2))
  noise = row_noise(jax.random.split(jax.random.key(2), 8), (2,))
  times = GRIDS["trailing"](process, 6)
  np.testing.assert_allclose(flow_edit(call, call, process, times, x0, noise), x0, atol=1e-5)


def test_plain_steps_alone_are_sampling_from_the_noised_image():
  process = PROCESSES["flow"]()
  denoise = closed_form.denoiser(MIXTURE, "velocity")
  call = lambda x, t: denoise(x, t, None)
  x0 = jax.random.normal(jax.random.key(1), (8, 2))
  noise = row_noise(jax.random.split(jax.random.key(2), 8), (2,))
  times = process.at(np.linspace(0.6, 0, 7))
  found = flow_edit(call, call, process, times, x0, noise, plain=6)
  start = Time(*(np.asarray(field[0]) for field in times))
  ddim = SOLVERS["ddim"]()
  x = mix(x0, noise(jnp.int32(0)), start)
  wanted, _ = sample(denoise, ddim, make_plan(ddim, process, times), x, None)
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_refusals():
  process = PROCESSES["flow"]()
  times, x = GRIDS["trailing"](process, 4), jnp.ones((1, 2))
  with pytest.raises(ConfigError, match="must rise"):
    run(towards_noise(x), process, times, x)
  call = lambda x, t: closed_form.denoiser(MIXTURE, "velocity")(x, t, None)
  with pytest.raises(ConfigError, match="plain = 5 of 4 steps"):
    flow_edit(call, call, process, times, x, lambda i: x, plain=5)
