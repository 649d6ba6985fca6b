"""Stochastic solvers: weak orders without sampling, and the right limit with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.proofs.closed_form import denoiser
from benchmarks.proofs.ode_orders import NORMAL, order_of, part, plan_steps, take
from benchmarks.proofs.weak_orders import (
  EXACT,
  STOCHASTIC,
  affine,
  carried,
  moments,
  weak_errors,
  weak_orders,
)
from t2i_jax.process import PROCESSES, convert
from t2i_jax.sampling import GRIDS, SOLVERS, make_plan, row_noise, sample

FLOW, DDPM = PROCESSES["flow"](), PROCESSES["ddpm_linear"]()
ROWS = pytest.mark.parametrize("row", STOCHASTIC, ids=lambda row: row.label)


@ROWS
def test_weak_orders_of_mean_and_covariance(row):
  with jax.enable_x64(True):
    mean, covariance = weak_orders(row, FLOW)
    assert (mean == EXACT) == (row.mean == EXACT) and abs(mean - row.mean) < 0.2
    assert (covariance == EXACT) == (row.covariance == EXACT)
    assert abs(covariance - row.covariance) < 0.2


@pytest.mark.parametrize("process", [PROCESSES["vp"](), PROCESSES["edm"]()], ids=lambda p: p.name)
@pytest.mark.parametrize("label", ["ddpm(variance='small')", "dpmpp_sde(order=2)"])
def test_orders_are_those_of_every_process(label, process):
  row = next(row for row in STOCHASTIC if row.label == label)
  with jax.enable_x64(True):
    mean, covariance = weak_orders(row, process)
    assert mean == EXACT and abs(covariance - row.covariance) < 0.2


@ROWS
def test_right_limit_within_monte_carlo_error(row):
  """Real samples have the moments that the numbers of the steps give, which tend to the data's."""
  n, steps, process = 4000, 48, FLOW  # whose x_1 is N(0, I) exactly
  solver = row.solver()
  times = GRIDS["trailing"](process, steps)
  plan = make_plan(solver, process, times)

  @jax.jit
  def run(key):
    start, drawn = (jax.random.split(k, n) for k in jax.random.split(key))
    x = process.prior(start, (2,))
    return sample(row.denoise(), solver, plan, x, None, row_noise(drawn, (2,)))[0]

  got = np.asarray(run(jax.random.key(5)), np.float64)
  mean, covariance = carried(affine(solver, row.denoise()), solver, process, times)
  error = np.sqrt(np.diag(covariance) / n)
  assert np.all(np.abs(got.mean(0) - mean) < 4 * error)
  spread = np.cov(got.T)
  spread_error = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / n)
  assert np.all(np.abs(spread - covariance) < 4 * spread_error)
  limit_mean, limit = moments(part(times, -1))
  np.testing.assert_allclose(mean, limit_mean, atol=1e-5)
  assert np.max(np.abs(covariance - limit)) < 0.12  # first order at 48 steps; see docs/orders.md


def test_the_covariance_keeps_getting_closer_to_the_limit():
  with jax.enable_x64(True):
    for row in STOCHASTIC[:3]:
      counts = (50, 100, 200, 500)
      grids = [GRIDS["trailing"](DDPM, steps) for steps in counts]
      _, errors = weak_errors(row, DDPM, grids, away=0.0)
      assert np.all(np.diff(errors) < 0) and order_of(counts, errors) > 0.6


@pytest.mark.parametrize("label", ["dpmpp_sde(order=3)", "edm(churn=5.0)"])
def test_steps_are_affine(label):
  """What the moments rest on: a step at any x, memory and noise is what its numbers say."""
  row = next(row for row in STOCHASTIC if row.label == label)
  solver = row.solver()
  with jax.enable_x64(True):
    steps = plan_steps(solver, FLOW, GRIDS["trailing"](FLOW, 5))
    read = affine(solver, row.denoise())
    rng = np.random.default_rng(0)
    memory = jax.tree.map(
      lambda a: jnp.asarray(rng.normal(size=a.shape)), solver.init(jnp.zeros((1, 2)))
    )
    x, noise = (jnp.asarray(rng.normal(size=(1, 2))) for _ in range(2))
    got, _ = take(solver, row.denoise(), x, steps[2], memory, noise)
    a = read(steps[2])
    flat = np.concatenate([np.ravel(x), *(np.ravel(m) for m in jax.tree.leaves(memory))])
    wanted = a.matrix @ flat + a.shift + a.spread @ np.ravel(noise)
    np.testing.assert_allclose(got[0], wanted[:2], rtol=1e-10)


def test_ddim_with_eta_1_is_ddpm_and_with_eta_0_is_euler():
  with jax.enable_x64(True):
    for process in (FLOW, DDPM, PROCESSES["ddpm_sigmoid"]()):
      times = GRIDS["trailing"](process, 7)
      plan = lambda name, p=process, t=times, **args: make_plan(SOLVERS[name](**args), p, t).numbers
      pairs = [
        (plan("ddim", eta=1.0), plan("ddpm")),
        (plan("ddim"), plan("euler")),
        (plan("dpmpp_sde", order=1), plan("ddpm")),  # the exact step of a constant x0_hat
        (plan("euler_ancestral"), plan("ddpm")),
      ]
      for one, other in pairs:
        for field in ("on_x", "on_m", "on_noise"):
          got, wanted = getattr(one, field), getattr(other, field)
          np.testing.assert_allclose(got, wanted, atol=2e-7, err_msg=field)
      assert (
        plan("ddim", eta=0.5).on_noise[-1] == 0 and plan("ddpm", variance="large").on_noise[-1] == 0
      )


@pytest.mark.parametrize("raw, variance", [(-1.0, "small"), (1.0, "large")])
def test_learned_variance_at_its_ends_is_the_fixed_one(raw, variance):
  perfect = denoiser(NORMAL)
  network = lambda x, time, cond: perfect(x, time)._replace(aux=jnp.full_like(x, raw))
  x = DDPM.prior(jax.random.split(jax.random.key(0), 3), (2,))
  noise = row_noise(jax.random.split(jax.random.key(1), 3), (2,))
  times = GRIDS["trailing"](DDPM, 10)
  run = lambda solver: sample(network, solver, make_plan(solver, DDPM, times), x, None, noise)[0]
  fixed = run(SOLVERS["ddpm"](variance=variance))
  np.testing.assert_allclose(run(SOLVERS["ddpm_learned"]()), fixed, atol=2e-5)


def test_consistency_sampling_needs_a_consistency_function():
  """Exact in any number of steps with one; with a denoiser in its place it loses variance."""
  row = next(row for row in STOCHASTIC if row.name == "consistency")
  perfect = denoiser(NORMAL)
  with jax.enable_x64(True):
    for steps in (1, 2, 5):
      times = GRIDS["trailing"](FLOW, steps)
      exact_mean, exact = moments(part(times, -1))
      mean, covariance = carried(affine(row.solver(), row.denoise()), row.solver(), FLOW, times)
      np.testing.assert_allclose(covariance, exact, rtol=1e-10)
      np.testing.assert_allclose(mean, exact_mean, rtol=1e-10)
      blurred = affine(row.solver(), lambda x, time, cond: perfect(x, time))
      _, less = carried(blurred, row.solver(), FLOW, times)
      assert np.all(np.linalg.eigvalsh(exact - less) > 0.05)


def test_solvers_take_any_prediction():
  """The same noise gives the same sample, whatever the network predicts."""
  x = FLOW.prior(jax.random.split(jax.random.key(0), 3), (2,))
  noise = row_noise(jax.random.split(jax.random.key(1), 3), (2,))
  perfect = denoiser(NORMAL)
  for name in ("ddpm", "euler_ancestral", "dpmpp_sde", "flow_sde"):
    solver = SOLVERS[name]()
    plan = make_plan(solver, DDPM, GRIDS["karras"](DDPM, 8))
    outs = []
    for kind in ("x0", "eps", "v", "velocity"):
      network = lambda x, time, cond, k=kind: convert(perfect(x, time), k, x, time)
      outs.append(sample(network, solver, plan, x, None, noise)[0])
    for out in outs[1:]:
      np.testing.assert_allclose(out, outs[0], atol=1e-3, err_msg=name)
