"""Solvers against Gaussian data, where the exact denoiser and the exact answer are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.process import KINDS, PROCESSES, Prediction, Time, convert, make_process
from t2i_jax.sampling import SOLVERS, Guided, cfg, sample

VAR = 0.3


def gaussian(kind="x0", mean=0.0):
  """The exact denoiser of data N(mean, VAR): E[x0 | x_t]."""

  def denoise(x_t, time, cond):
    gain = time.alpha * VAR / (time.alpha**2 * VAR + time.sigma**2)
    x0_hat = mean + gain * (x_t - time.alpha * mean)
    return convert(Prediction(x0_hat, "x0"), kind, x_t, time)

  return denoise


def answer(process, x, mean=0.0):
  """Where the probability-flow ODE takes x at t = 1: it keeps the standard score of x."""
  end = process.at(np.array(1.0))
  spread = np.sqrt(end.alpha**2 * VAR + end.sigma**2)
  return mean + np.sqrt(VAR) * (x - end.alpha * mean) / spread


def solve(process, solver, steps, kind="x0", x=1.0):
  start = jnp.full((2, 1, 1, 1), x)
  return sample(gaussian(kind), SOLVERS[solver], process.times(steps), start, None)[0]


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_converges_to_the_exact_answer(name, solver, kind):
  process = make_process(name)
  if kind == "eps" and process.zero_terminal_snr:
    pytest.skip("eps is refused for this process")
  got = solve(process, solver, 250, kind)
  np.testing.assert_allclose(got, answer(process, 1.0), rtol=2e-2)


@pytest.mark.parametrize("solver, order", [("euler", 1), ("ddim", 1), ("heun", 2)])
def test_order_on_an_interior_interval(solver, order):
  """Slope of log error against log steps on [0.9, 0.2] in float64, over four step counts."""
  process, lo, hi = make_process("flow"), 0.2, 0.9
  end, start = process.at(np.array(lo)), process.at(np.array(hi))
  spread = lambda time: np.sqrt(time.alpha**2 * VAR + time.sigma**2)
  errors, counts = [], (16, 32, 64, 128)
  with jax.enable_x64(True):
    for n in counts:
      grid = process.at(np.linspace(hi, lo, n + 1))
      x = jnp.ones((1, 1), jnp.float64)
      for i in range(n):
        now, to = (Time(*(jnp.float64(f[j]) for f in grid)) for j in (i, i + 1))
        x, _, _ = SOLVERS[solver].step(gaussian(), x, now, to, None, ())
      errors.append(abs(float(x[0, 0]) - spread(end) / spread(start)))
  slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
  assert abs(slope - order) < 0.2, slope


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_step_from_t_to_t_is_the_identity(solver):
  time = Time(*(jnp.float32(f) for f in make_process("flow").at(np.array(0.4))))
  x = jnp.linspace(-1, 1, 12).reshape(2, 2, 3)
  moved, prediction, _ = SOLVERS[solver].step(gaussian(), x, time, time, None, ())
  np.testing.assert_allclose(moved, x, atol=1e-6)
  assert moved.dtype == x.dtype and prediction.value.shape == x.shape


def test_euler_and_ddim_agree_on_flow():
  process = make_process("flow")
  np.testing.assert_allclose(solve(process, "euler", 7), solve(process, "ddim", 7), rtol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", PROCESSES)
def test_one_step_is_finite(name, solver):
  assert np.all(np.isfinite(solve(make_process(name), solver, 1)))


@pytest.mark.parametrize("solver", SOLVERS)
def test_network_calls(solver):
  """Heun makes two calls a step but one at the last, as counted at run time."""
  calls = []

  def denoise(x_t, time, cond):
    jax.debug.callback(lambda t: calls.append(float(t)), time.t)
    return gaussian()(x_t, time, cond)

  x = jnp.ones((1, 1))
  jax.block_until_ready(sample(denoise, SOLVERS[solver], make_process("flow").times(5), x, None))
  jax.effects_barrier()
  assert len(calls) == SOLVERS[solver].calls * 5 - (solver == "heun")
  assert min(calls) > 0


def test_hook_sees_every_step_and_may_edit():
  def on_step(i, x, prediction, state):
    return x.at[..., 0].set(i.astype(x.dtype)), state + prediction.value.mean()

  x, state = sample(
    gaussian(), SOLVERS["euler"], make_process("flow").times(6), jnp.ones((2, 3)), None, on_step,
    jnp.zeros(()),
  )  # fmt: skip
  assert np.array_equal(x[:, 0], [5, 5]) and state != 0


def labelled(x_t, time, cond):
  return Prediction(x_t * 0 + cond, "x0")


def test_cfg_scale_is_the_usual_one():
  cond = Guided(jnp.full((2, 1), 3.0), jnp.full((2, 1), 1.0))
  time = Time(*(jnp.float32(f) for f in make_process("flow").at(np.array(0.5))))
  for scale, value in ((0, 1), (1, 3), (2, 5), (7.5, 16)):
    out = cfg(labelled, scale)(jnp.zeros((2, 4)), time, cond)
    np.testing.assert_allclose(out.value, np.full((2, 4), value))
    assert out.kind == "x0"


def test_cfg_is_one_call_and_keeps_rows_apart():
  shapes = []

  def denoise(x_t, time, cond):
    shapes.append(x_t.shape)
    return Prediction(x_t + cond, "eps")

  x, cond = jnp.arange(6.0).reshape(3, 2), jnp.arange(3.0)[:, None]
  time = Time(*(jnp.float32(f) for f in make_process("flow").at(np.array(0.5))))
  out = cfg(denoise, 2.0)(x, time, Guided(cond, cond * 0))
  assert shapes == [(6, 2)]
  np.testing.assert_allclose(out.value, x + 2 * cond)
