"""Laws that every solver obeys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.proofs.closed_form import denoiser
from benchmarks.proofs.ode_orders import MIXED
from benchmarks.proofs.solver_cases import SAMPLERS
from t2i_jax.process import PROCESSES, Prediction
from t2i_jax.sampling import GRIDS, SOLVERS, make_plan, row_noise, sample
from t2i_jax.sampling.grids import at_times

FLOW, VP = PROCESSES["flow"](), PROCESSES["vp"]()
MADE = {sampler.label: sampler.solver() for sampler in SAMPLERS}
ALL = pytest.mark.parametrize("name", MADE)
B, STEPS = 3, 5


def perfect(kind):
  predict = denoiser(MIXED, kind)
  return lambda x, time, cond: predict(x, time, cond)._replace(aux=0 * x)


RUNS = {}


def run(name, x, key, process=FLOW, kind="velocity"):
  """A compiled run of each solver, shared by the tests."""
  solver = MADE[name]
  if (name, kind) not in RUNS:
    RUNS[name, kind] = jax.jit(
      lambda plan, x, keys: sample(
        perfect(kind), solver, plan, x, None, row_noise(keys, x.shape[1:])
      )[0]
    )
  plan = make_plan(solver, process, GRIDS["trailing"](process, STEPS))
  keys = key if jnp.ndim(key) else jax.random.split(key, B)
  return RUNS[name, kind](plan, x, keys)


@pytest.fixture(scope="module")
def x():
  return FLOW.prior(jax.random.split(jax.random.key(2), B), (2,))


def test_every_solver_is_here():
  assert {sampler.name for sampler in SAMPLERS} == set(SOLVERS)


@pytest.mark.newest
@ALL
def test_the_same_key_gives_the_same_and_another_key_another(name, x):
  first, again, other = (run(name, x, jax.random.key(k)) for k in (0, 0, 1))
  assert np.array_equal(first, again)
  assert np.array_equal(first, other) != MADE[name].noisy
  assert np.all(np.isfinite(first)) and first.shape == x.shape and first.dtype == x.dtype


@ALL
def test_a_row_does_not_depend_on_its_batch(name, x):
  """Neither on the other rows' x nor on their keys nor on its place."""
  keys = jax.random.split(jax.random.key(0), B)
  whole = run(name, x, keys)
  assert np.array_equal(whole[0], run(name, x.at[1:].set(9.0), keys.at[1:].set(keys[0]))[0])
  turned = run(name, x[::-1], keys[::-1])[::-1]
  np.testing.assert_allclose(turned, whole, atol=1e-6)


@pytest.mark.newest
@ALL
def test_dtype_and_shape_are_kept(name):
  """Of images, and where the network answers in bfloat16. Traced only."""
  solver, shape = MADE[name], (4, 6, 3)
  plan = make_plan(solver, FLOW, GRIDS["trailing"](FLOW, STEPS))

  def network(x, time, cond):
    return Prediction(x.astype(jnp.bfloat16), "v", aux=x.astype(jnp.bfloat16))

  def whole(x, keys):
    hook = lambda i, x, prediction, state: (x, prediction.value)
    noise = row_noise(keys, shape)
    return sample(network, solver, plan, x, None, noise, hook, jnp.zeros(x.shape))

  keys = jax.random.split(jax.random.key(0), 2)
  out, state = jax.eval_shape(whole, jnp.zeros((2, *shape)), keys)
  assert (out.shape, out.dtype) == ((2, *shape), jnp.float32)
  assert (state.shape, state.dtype) == ((2, *shape), jnp.float32)


# Consistency sampling replaces all noise at every step, and churn adds some: neither stays.
STAYS = [name for name in MADE if name not in ("consistency", "edm(churn=10.0)")]


@pytest.mark.parametrize("process", [FLOW, VP], ids=["flow", "vp"])
@pytest.mark.parametrize("name", STAYS)
def test_a_step_from_t_to_t_is_the_identity(name, process, x):
  solver = MADE[name]
  plan = make_plan(solver, process, process.at(np.array([0.6, 0.6])))
  noise = lambda i: jnp.ones_like(x)
  moved = jax.jit(lambda x: sample(perfect("velocity"), solver, plan, x, None, noise)[0])(x)
  np.testing.assert_allclose(moved, x, atol=2e-6)


@pytest.mark.parametrize("name", ["dpmpp", "dpmpp(order=3)", "dpmpp_sde", "ddpm", "heun", "pndm"])
def test_a_step_from_t_to_t_with_history_is_the_identity(name, x):
  solver = MADE[name]
  times = FLOW.at(np.array([0.9, 0.7, 0.5, 0.5]))
  states = lambda i, x, prediction, state: (x, state.at[i].set(x))
  plan = make_plan(solver, FLOW, times)
  noise = row_noise(jax.random.split(jax.random.key(0), B), (2,))
  kept = jnp.zeros((3, *x.shape))
  _, path = sample(perfect("velocity"), solver, plan, x, None, noise, states, kept)
  np.testing.assert_allclose(path[2], path[1], atol=2e-6)
  assert np.max(np.abs(path[1] - path[0])) > 1e-2


@ALL
def test_no_solver_asks_where_there_is_no_noise_or_adds_some_at_the_end(name, x):
  """sigma > 0 at every call; the last step is deterministic."""
  solver = MADE[name]
  seen = []

  def network(x, time, cond):
    jax.debug.callback(lambda s: seen.append(float(s)), jnp.min(jnp.asarray(time.sigma)))
    return perfect("velocity")(x, time, cond)

  plan = make_plan(solver, FLOW, at_times(FLOW, [0.1, 0.0]))
  ends = []
  for noise in (0.0, 5.0):
    out, _ = sample(network, solver, plan, x, None, lambda i, n=noise: jnp.full(x.shape, n))
    ends.append(np.asarray(out))
  jax.effects_barrier()
  assert min(seen) > 0 and len(seen) == 2
  if name != "edm(churn=10.0)":  # which adds it before its step
    assert np.array_equal(*ends)
