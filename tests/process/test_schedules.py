"""Laws that every process obeys, and the numbers of the papers."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_jax.errors import ConfigError
from t2i_jax.process import PROCESSES
from t2i_jax.process.schedules import BETWEEN
from t2i_jax.process.tables import STEPS, linspace32

MADE = {
  **{name: make() for name, make in PROCESSES.items()},
  **{f"linear, {b}": PROCESSES["ddpm_linear"](between=b) for b in BETWEEN},
  "linear, published": PROCESSES["ddpm_linear"](published=True),
  "sd, published": PROCESSES["ddpm_scaled_linear"](published=True),
  "sd, zero SNR": PROCESSES["ddpm_scaled_linear"](zero_terminal_snr=True, between="angle"),
  "cosine, zero SNR": PROCESSES["ddpm_cosine"](zero_terminal_snr=True, between="angle"),
  "cosine, shifted": PROCESSES["ddpm_cosine"](snr_shift=4.0),
  "sigmoid, shifted": PROCESSES["ddpm_sigmoid"](snr_shift=4.0, tau=0.7),
  "scaled_linear, its prior": PROCESSES["ddpm_scaled_linear"](scaled_prior=True),
  "vp, steep": PROCESSES["vp"](0.01, 30.0),
}
ALL = pytest.mark.parametrize("name", MADE)
TIMES = st.lists(st.floats(1e-4, 1.0), min_size=8, max_size=8)


@ALL
def test_snr_falls_from_data_to_noise(name):
  time = MADE[name].at(np.linspace(0, 1, 3001))
  share = time.sigma / (time.alpha + time.sigma)  # defined at both ends
  assert np.all(np.diff(share) > 0)
  assert np.all(time.alpha >= 0) and np.all(np.isfinite(np.stack(time)))


@ALL
def test_boundary_values(name):
  process = MADE[name]
  time = process.at(np.array([0.0, 1.0]))
  assert (time.alpha[0], time.sigma[0]) == (1, 0)
  assert (time.alpha[1] == 0) == process.zero_terminal_snr
  np.testing.assert_allclose(time.sigma[1], process.prior_std, rtol=0.003)


@ALL
def test_on_its_curve(name):
  time = MADE[name].at(np.linspace(0, 1, 777))
  if name == "flow":
    np.testing.assert_allclose(time.alpha + time.sigma, 1, rtol=1e-15)
  elif name == "edm":
    assert np.all(time.alpha == 1)
  else:
    np.testing.assert_allclose(time.alpha**2 + time.sigma**2, 1, rtol=1e-14)


def off_corners(t):
  """Moved from whole steps, where tables have corners (and take what is near for the step)."""
  t = np.array(t)
  near = np.abs(t * STEPS - np.round(t * STEPS)) < 2e-3
  return np.where(near, t + np.where(t < 0.5, 3e-3, -3e-3) / STEPS, t)


@pytest.mark.newest
@ALL
@given(t=TIMES)
@settings(max_examples=6, deadline=None)
def test_derivatives_agree_with_autodiff(name, t):
  with jax.enable_x64(True):
    got, slopes = slopes_of(name)(jnp.asarray(off_corners(t)))
    # 1e-11 of a slope near 1: where sigma is nearly 1, autodiff itself cancels that much.
    np.testing.assert_allclose(got.d_alpha, slopes[0], rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(got.d_sigma, slopes[1], rtol=1e-8, atol=1e-11)


@lru_cache
def slopes_of(name):
  at = MADE[name].at
  return jax.jit(lambda t: (at(t), jax.vmap(jax.jacfwd(lambda t: at(t)[1:3]))(t)))


@ALL
@given(t=TIMES)
@settings(max_examples=20, deadline=None)
def test_time_of_inverts_at(name, t):
  process = MADE[name]
  time = process.at(np.array(t))
  with np.errstate(divide="ignore"):
    back = process.time_of(time.sigma / time.alpha)
  # A table takes what is within 1e-3 of a step for the step.
  limit = 1.001e-3 / STEPS if process.steps else 1e-12
  np.testing.assert_allclose(back, t, atol=limit)
  assert process.time_of(np.array(0.0)) == 0


@ALL
def test_noise_alone_is_at_the_end(name):
  if MADE[name].zero_terminal_snr:
    assert MADE[name].time_of(np.array(np.inf)) == 1


@ALL
def test_float32_is_close_to_float64(name):
  t = np.append(np.linspace(0.001, 0.9987, 331), 1.0)
  exact, fast = MADE[name].at(t), jax.jit(MADE[name].at)(jnp.asarray(t, jnp.float32))
  assert all(field.dtype == jnp.float32 for field in fast)
  for field in ("alpha", "sigma"):
    wanted = getattr(exact, field)
    np.testing.assert_allclose(getattr(fast, field), wanted, rtol=5e-6, atol=1e-6, err_msg=field)
  # A slope at a corner may be that of either side; here no t is at one.
  inner = np.abs(t * STEPS - np.round(t * STEPS)) > 1e-2
  for field in ("d_alpha", "d_sigma"):
    wanted = getattr(exact, field)
    scale = np.max(np.abs(wanted))
    got = np.asarray(getattr(fast, field))
    np.testing.assert_allclose(got[inner], wanted[inner], rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize("name", [name for name in MADE if MADE[name].steps])
def test_every_whole_step_reaches_the_network_whole(name):
  process, n = MADE[name], np.arange(STEPS)
  assert np.array_equal(process.at((n + 1) / STEPS).model_time, n)  # float64, the grids
  t32 = jnp.asarray((n + 1) / STEPS, jnp.float32)  # float32, the train step
  assert np.array_equal(process.at(t32).model_time, n)
  assert np.array_equal(jax.jit(lambda t: process.at(process.on_grid(t)).model_time)(t32), n)


@pytest.mark.parametrize("name", ["ddpm_linear", "flow"])
def test_on_grid_rounds_up_to_a_training_step(name):
  t = jnp.array([1e-5, 0.0005, 0.5004, 1.0])
  rounded = MADE[name].on_grid(t)
  if name == "flow":
    assert rounded is t
  else:
    assert np.array_equal(MADE[name].at(rounded).model_time, [0, 0, 500, 999])


def test_tables_are_those_of_the_papers():
  whole = lambda name: MADE[name].at((np.arange(STEPS) + 1) / STEPS).alpha ** 2
  # alphas_cumprod[[0, -1]] of every DDPM and SD code; SD's largest sigma is 14.6146.
  np.testing.assert_allclose(whole("ddpm_linear")[[0, -1]], [0.9999, 4.0358e-5], rtol=2e-5)
  np.testing.assert_allclose(whole("ddpm_scaled_linear")[[0, -1]], [0.99915, 0.0046601], rtol=2e-5)
  last = MADE["sd, published"].at(np.array(1.0))
  np.testing.assert_allclose(last.sigma / last.alpha, 14.6146, atol=1e-4)
  t = np.arange(1, 990) / 1000  # beyond, beta is clipped at 0.999
  f = lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
  np.testing.assert_allclose(whole("ddpm_cosine")[:989], f(t) / f(0), rtol=1e-9)
  # 1 - t with sigmoid ends: half-way in signal at half time, by symmetry.
  np.testing.assert_allclose(whole("ddpm_sigmoid")[499], 0.5, rtol=1e-12)
  np.testing.assert_allclose(MADE["vp"].at(np.array(1.0)).alpha, np.exp(-20.1 / 4), rtol=1e-14)


def test_published_tables_are_near_the_exact_ones_and_float32():
  for published, exact in (("linear, published", "ddpm_linear"), ("sd, published", None)):
    other = MADE[exact or "ddpm_scaled_linear"]
    t = (np.arange(STEPS) + 1) / STEPS
    near, right = MADE[published].at(t).alpha ** 2, other.at(t).alpha ** 2
    np.testing.assert_allclose(near, right, rtol=2e-4)
    assert np.max(np.abs(near - right)) > 1e-8
    np.testing.assert_allclose(np.float32(near), near, rtol=1e-14)
  ends = linspace32(0.1, 0.7, STEPS)
  assert ends.dtype == np.float32 and ends[0] == np.float32(0.1) and ends[-1] == np.float32(0.7)


def test_zero_snr_keeps_the_first_step_and_moves_the_last():
  before, after = MADE["ddpm_scaled_linear"], MADE["sd, zero SNR"]
  t = np.array([1 / STEPS, 0.5, 1.0])
  np.testing.assert_allclose(after.at(t).alpha[0], before.at(t).alpha[0], rtol=1e-14)
  assert after.at(t).alpha[2] == 0 and after.at(t).alpha[1] < before.at(t).alpha[1]


def test_shifted_snr_multiplies_the_noise():
  t = np.linspace(0.01, 0.9, 50)
  plain, shifted = (MADE[name].at(t) for name in ("ddpm_cosine", "cosine, shifted"))
  steps = np.abs(t * STEPS - np.round(t * STEPS)) < 1e-9
  ratio = (shifted.sigma / shifted.alpha) / (plain.sigma / plain.alpha)
  np.testing.assert_allclose(ratio, 4, rtol=1e-9)  # also between steps, where sigma is linear
  assert steps.any()


@pytest.mark.parametrize("between, mean", [
  ("sigma", lambda a, b: (a + b) / 2),
  ("log_sigma", lambda a, b: np.sqrt(a * b)),
  ("angle", lambda a, b: np.tan((np.arctan(a) + np.arctan(b)) / 2)),
])  # fmt: skip
def test_what_lies_between_two_steps(between, mean):
  time = MADE[f"linear, {between}"].at(np.array([0.4, 0.4005, 0.401]))
  low, half, high = time.sigma / time.alpha
  np.testing.assert_allclose(half, mean(low, high), rtol=1e-12)
  assert time.model_time[1] == pytest.approx(399.5, abs=1e-9)


def test_errors_name_the_way_out():
  with pytest.raises(ConfigError, match="sigma, log_sigma, angle"):
    PROCESSES["ddpm_linear"](between="linear")
  with pytest.raises(ConfigError, match="between='angle'"):
    PROCESSES["ddpm_linear"](zero_terminal_snr=True)


def test_prior_depends_on_the_row_alone():
  keys = jax.random.split(jax.random.key(3), 5)
  for name in ("flow", "edm"):
    whole = MADE[name].prior(keys, (4, 4, 3))
    assert np.array_equal(whole[2:3], MADE[name].prior(keys[2:3], (4, 4, 3)))
    many = MADE[name].prior(jax.random.split(jax.random.key(1), 2000), (4,))
    np.testing.assert_allclose(np.std(many), MADE[name].prior_std, rtol=0.05)
