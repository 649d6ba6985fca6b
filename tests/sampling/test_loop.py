"""The sampling loop: one scan, its hooks, its calls of the network, and what it compiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.proofs.closed_form import denoiser
from benchmarks.proofs.ode_orders import MIXED, take
from t2i_jax.process import PROCESSES, Prediction
from t2i_jax.sampling import GRIDS, SOLVERS, make_plan, row_noise, sample
from t2i_jax.sampling.loop import previews

FLOW = PROCESSES["flow"]()
X = jnp.linspace(-1, 1, 6).reshape(3, 2)
PERFECT = denoiser(MIXED, "x0")


def planned(solver, steps, grid="trailing", **args):
  return make_plan(solver, FLOW, GRIDS[grid](FLOW, steps, **args))


@pytest.mark.parametrize("name", ["euler", "ddpm", "dpmpp", "unipc", "heun", "pndm"])
def test_the_scan_is_the_steps_one_after_the_other(name):
  solver = SOLVERS[name]()
  plan = planned(solver, 4)
  noise = row_noise(jax.random.split(jax.random.key(0), 3), (2,))
  x, memory = X, solver.init(X)
  for i in range(4):
    step = jax.tree.map(lambda a, i=i: a[i], plan)
    x, memory = take(solver, PERFECT, x, step, memory, noise(i))
  np.testing.assert_allclose(sample(PERFECT, solver, plan, X, None, noise)[0], x, atol=1e-6)


CALLS = {
  "euler": (lambda s: s, {}),
  "ddim": (lambda s: s, {}),
  "dpmpp": (lambda s: s, {}),
  "unipc": (lambda s: s, {}),
  "heun": (lambda s: 2 * s - 1, {}),
  "edm": (lambda s: 2 * s - 2, {}),  # from noise alone its first step is Euler's, as is its last
  "pndm": (lambda s: s + 1, {}),
  "pndm, runge_kutta": (lambda s: s + 9, {"runge_kutta": True}),
}


@pytest.mark.parametrize("name", CALLS)
def test_network_calls(name):
  """As counted at run time; a branch that is not taken asks nothing."""
  count, args = CALLS[name]
  solver, seen = SOLVERS[name.split(",")[0]](**args), []

  def network(x, time, cond):
    jax.debug.callback(lambda t: seen.append(float(t)), jnp.asarray(time.model_time))
    return PERFECT(x, time, cond)

  jax.block_until_ready(sample(network, solver, planned(solver, 6), X, None))
  jax.effects_barrier()
  assert len(seen) == count(6)
  assert set(seen) >= {float(n) for n in np.float32(GRIDS["trailing"](FLOW, 6).model_time[:-1])}


@pytest.mark.newest
def test_hook_sees_every_step_and_may_edit():
  def on_step(i, x, prediction, state):
    assert prediction.kind == "x0"
    return x.at[..., 0].set(i.astype(x.dtype)), state.at[i].set(prediction.aux)

  network = lambda x, time, cond: Prediction(0 * x, "x0", aux=jnp.asarray(time.model_time))
  solver = SOLVERS["euler"]()
  x, state = sample(
    network, solver, planned(solver, 4), X, None, on_step=on_step, state=jnp.zeros(4)
  )
  assert np.array_equal(x[:, 0], [3, 3, 3]) and np.all(x[:, 1] == 0)
  assert np.array_equal(state, [1000, 750, 500, 250])


def test_previews_are_the_guesses_of_every_nth_step():
  solver = SOLVERS["ddim"]()
  every = lambda i, x, prediction, state: (x, state.at[i].set(prediction.value))
  run = lambda hook, n: sample(
    PERFECT, solver, planned(solver, 7), X, None, on_step=hook, state=jnp.zeros((n, 3, 2))
  )
  (end, some), (_, all_of_them) = run(previews(3), 2), run(every, 7)
  np.testing.assert_array_equal(some, all_of_them[jnp.array([2, 5])])
  np.testing.assert_allclose(end, all_of_them[-1], atol=1e-6)  # the last step is x0_hat


def test_condition_of_a_step():
  """A condition may change from step to step, and see the hook's state."""
  network = lambda x, time, cond: Prediction(0 * x + cond, "x0")
  solver = SOLVERS["euler"]()
  keep = lambda i, x, prediction, state: (x, state + prediction.value[0, 0])
  at = lambda i, cond, state: cond * i + 100 * state
  _, total = sample(
    network, solver, planned(solver, 3), X, 1.0, on_step=keep, state=0.0, cond_at=at
  )
  # steps: 0; 1 + 0; 2 + 100
  assert total == 0 + 1 + 102


def test_another_grid_of_as_many_steps_compiles_nothing():
  solver = SOLVERS["dpmpp"]()
  run = jax.jit(lambda plan, x: sample(PERFECT, solver, plan, x, None)[0])
  outs = [run(planned(solver, 5, grid), X) for grid in ("trailing", "karras", "shifted", "beta")]
  assert run._cache_size() == 1
  assert all(np.max(np.abs(outs[0] - other)) > 1e-4 for other in outs[1:])
  run(planned(solver, 6), X)
  assert run._cache_size() == 2


def test_plan_is_float32_from_float64_numbers():
  """Differences of lambda at 1000 steps keep their digits: numbers are rounded once, at the end."""
  solver = SOLVERS["dpmpp"](order=3)
  process = PROCESSES["ddpm_cosine"]()
  plan = make_plan(solver, process, GRIDS["trailing"](process, 1000))
  with jax.enable_x64(True):
    exact = make_plan(solver, process, GRIDS["trailing"](process, 1000))
  for single, double in zip(jax.tree.leaves(plan), jax.tree.leaves(exact), strict=True):
    assert single.dtype in (jnp.float32, jnp.int32)
    assert np.all(np.isfinite(double))
    np.testing.assert_allclose(single, np.asarray(double), rtol=1e-7)


def test_noise_of_a_row_is_its_own():
  keys = jax.random.split(jax.random.key(0), 4)
  noise = row_noise(keys, (5, 2))
  assert noise(0).shape == (4, 5, 2)
  np.testing.assert_array_equal(noise(3)[2:3], row_noise(keys[2:3], (5, 2))(3))
  assert np.max(np.abs(np.asarray(noise(0)) - np.asarray(noise(1)))) > 0.1


def test_a_stochastic_solver_needs_noise():
  solver = SOLVERS["ddpm"]()
  with pytest.raises(ValueError, match="use noise=row_noise"):
    sample(PERFECT, solver, planned(solver, 2), X, None)
