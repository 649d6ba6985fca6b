"""Laws that every process obeys, and the tables of the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.errors import ConfigError
from t2i_jax.process import PROCESSES, make_process

ALL = pytest.mark.parametrize("name", PROCESSES)


@ALL
def test_snr_falls_from_data_to_noise(name):
  time = make_process(name).at(np.linspace(0.001, 0.999, 997))
  assert np.all(np.diff(time.alpha / time.sigma) < 0)


@ALL
def test_boundary_values(name):
  process = make_process(name)
  time = process.at(np.array([0.0, 1.0]))
  np.testing.assert_allclose([time.alpha[0], time.sigma[0]], [1, 0], atol=1e-12)
  assert (time.alpha[1] == 0) == process.zero_terminal_snr
  assert time.sigma[1] > 0.99


@ALL
def test_derivatives_agree_with_autodiff(name):
  # Off the thousandths, where the discrete processes have corners.
  with jax.enable_x64(True):
    process = make_process(name)
    t = jnp.asarray(np.array([0.00013, 0.1234, 0.5007, 0.93331]), jnp.float64)
    at = process.at(t)
    for field, slope in (("alpha", at.d_alpha), ("sigma", at.d_sigma)):
      auto = jax.vmap(jax.grad(lambda t, f=field: getattr(process.at(t), f)))(t)
      np.testing.assert_allclose(slope, auto, rtol=1e-9)


@ALL
@pytest.mark.parametrize("steps", [1, 4, 20, 999, 1000])
def test_grid_runs_from_noise_to_data(name, steps):
  times = make_process(name).times(steps)
  assert times.t.shape == (steps + 1,)
  assert times.t[0] == 1 and times.t[-1] == 0
  assert np.all(np.diff(times.t) < 0)
  assert times.t.dtype == np.float64


@pytest.mark.parametrize("name", ["ddpm_linear", "ddpm_cosine"])
def test_every_ddpm_step_reaches_the_network_whole(name):
  process = make_process(name)
  n = np.arange(1000)
  assert np.array_equal(process.at((n + 1) / 1000).model_time, n)  # float64, the grids
  t32 = jnp.asarray((n + 1) / 1000, jnp.float32)  # float32, the train step
  assert np.array_equal(process.at(t32).model_time, n)
  assert np.array_equal(np.float32(process.times(1000).model_time[:-1]), n[::-1])


def test_ddpm_on_grid_rounds_up_to_a_training_step():
  process = make_process("ddpm_linear")
  t = process.on_grid(jnp.array([1e-5, 0.0005, 0.5004, 1.0]))
  assert np.array_equal(process.at(t).model_time, [0, 0, 500, 999])


def test_linear_table_is_the_published_one():
  # alpha_bar_999 of betas 1e-4..0.02: 4.0358e-5, as in every DDPM code's alphas_cumprod[-1].
  time = make_process("ddpm_linear").at(np.array([0.001, 1.0]))
  np.testing.assert_allclose(time.alpha**2, [1 - 1e-4, 4.0358e-5], rtol=1e-4)


def test_cosine_table_is_the_closed_form():
  t = np.arange(1, 990) / 1000  # beyond, beta is clipped at 0.999
  f = lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
  time = make_process("ddpm_cosine").at(t)
  np.testing.assert_allclose(time.alpha**2, f(t) / f(0), rtol=1e-9)


@ALL
def test_float32_is_close_to_float64(name):
  process = make_process(name)
  t = np.linspace(0.001, 0.999, 331)
  exact, fast = process.at(t), process.at(jnp.asarray(t, jnp.float32))
  np.testing.assert_allclose(fast.alpha, exact.alpha, atol=3e-6)
  np.testing.assert_allclose(fast.sigma, exact.sigma, atol=3e-6)


def test_errors_name_the_choices():
  with pytest.raises(ConfigError, match="ddpm_linear"):
    make_process("ddpm")
  with pytest.raises(ConfigError, match="between 1 and 1000"):
    make_process("ddpm_linear").times(1001)
  with pytest.raises(ConfigError, match="at least 1"):
    make_process("flow").times(0)


def test_prior_depends_on_the_row_alone():
  process = make_process("flow")
  keys = jax.random.split(jax.random.key(3), 5)
  whole = process.prior(keys, (4, 4, 3))
  assert np.array_equal(whole[2:3], process.prior(keys[2:3], (4, 4, 3)))
