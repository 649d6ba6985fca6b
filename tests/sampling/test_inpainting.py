"""Inpainting a correlated Gaussian, whose exact conditional is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.proofs import closed_form
from t2i_jax.errors import ConfigError
from t2i_jax.process import PROCESSES
from t2i_jax.process.variational import normal_kl
from t2i_jax.sampling import GRIDS, SOLVERS, make_plan, row_noise, sample
from t2i_jax.sampling.inpainting import inpaint, repeated

RHO, KNOWN, ROWS = 0.9, 1.5, 6000
DATA = closed_form.gaussian([0.0, 0.0], [[1.0, RHO], [RHO, 1.0]])
MASK = jnp.array([1.0, 0.0])


def _fill(plan, process, solver, mask=MASK, rows=ROWS):
  keys, other = (jax.random.split(jax.random.key(i), rows) for i in (0, 1))
  known = jnp.full((rows, 2), KNOWN)
  hook = inpaint(plan, known, mask, row_noise(other, (2,)))
  denoise = closed_form.denoiser(DATA, "v")
  noise = row_noise(keys, (2,)) if solver.noisy else None
  start = process.prior(jax.random.split(jax.random.key(2), rows), (2,))
  return sample(denoise, solver, plan, start, None, noise, hook)[0]


@pytest.mark.parametrize(
  "name, solver",
  [("flow", "ddim"), pytest.param("ddpm_linear", "ddpm", marks=pytest.mark.proof)],
)
def test_resampling_comes_nearer_to_the_exact_conditional(name, solver):
  """x_1 given x_0 = c is N(rho c, 1 - rho^2). Replacement alone ignores much of c.

  Measured by the divergence of the two Gaussians in nats, at 1, 3, 10 repeats:
  0.66, 0.12, 0.04 (ddpm), 1.47, 0.23, 0.014 (ddim).
  """
  process, solver = PROCESSES[name](), SOLVERS[solver]()
  plan = make_plan(solver, process, GRIDS["trailing"](process, 25))
  run = jax.jit(lambda plan: _fill(plan, process, solver))
  misses = []
  for plan_of in (plan, repeated(plan, 3), repeated(plan, 10), repeated(plan, 10, block=5)):
    x = np.asarray(run(plan_of))
    np.testing.assert_array_equal(x[:, 0], KNOWN)  # noise level 0: the given value itself
    spread = np.log(x[:, 1].var()), np.log(1 - RHO**2)
    misses.append(float(normal_kl(x[:, 1].mean(), spread[0], RHO * KNOWN, spread[1])))
  alone, few, many, blocks = misses
  assert many < few / 2 < alone / 4
  # Longer blocks at the same cost: the last one, here a fifth of the way, is not done again.
  assert many < blocks < alone


def test_masks_of_ones_and_zeros():
  """All known: the given image. Nothing known: the sampler without a hook."""
  process, solver = PROCESSES["flow"](), SOLVERS["ddpm"]()
  plan = make_plan(solver, process, GRIDS["trailing"](process, 10))
  everything = _fill(plan, process, solver, jnp.ones(2), rows=50)
  np.testing.assert_array_equal(everything, KNOWN)
  nothing = _fill(plan, process, solver, jnp.zeros(2), rows=50)
  keys, start = (jax.random.split(jax.random.key(i), 50) for i in (0, 2))
  denoise, noise = closed_form.denoiser(DATA, "v"), row_noise(keys, (2,))
  plain, _ = sample(denoise, solver, plan, process.prior(start, (2,)), None, noise)
  # Two programs: the compiler may fuse a multiplication with an addition in one of them only.
  np.testing.assert_allclose(nothing, plain, rtol=0, atol=1e-6)


@pytest.mark.newest
@pytest.mark.parametrize("name", ["flow", "ddpm_linear", "ddpm_sigmoid", "edm"])
def test_going_back_has_the_law_of_the_noisier_time(name):
  """x_s of the exact law, sent back by the hook, has the exact covariance of x_t.

  The given coordinate as well as the free one: both of its draws of noise are its own.
  """
  process, solver = PROCESSES[name](), SOLVERS["ddim"]()
  plan = repeated(make_plan(solver, process, GRIDS["trailing"](process, 4)), 2)
  x0, _ = closed_form.draw(DATA, jax.random.key(0), ROWS)
  eps = jax.random.normal(jax.random.key(1), x0.shape)
  hook = inpaint(plan, x0, MASK, row_noise(jax.random.split(jax.random.key(2), ROWS), (2,)))
  hook = jax.jit(lambda i, x, hook=hook: hook(i, x, None, None)[0])
  for i in range(6):
    x_s = plan.to.alpha[i] * x0 + plan.to.sigma[i] * eps
    x = hook(i, x_s)
    if i % 2:  # the next step starts here
      np.testing.assert_allclose(x[:, 1], x_s[:, 1], rtol=1e-6)
      continue
    assert plan.now.t[i + 1] == plan.now.t[i] > plan.to.t[i]
    alpha, sigma = (np.asarray(f[i]) for f in (plan.now.alpha, plan.now.sigma))
    covariance = np.array([[1, RHO], [RHO, 1]]) * alpha**2 + np.eye(2) * sigma**2
    scale = covariance[0, 0]
    np.testing.assert_allclose(np.cov(np.asarray(x).T), covariance, atol=5 * scale / ROWS**0.5)


def test_repeats_of_a_plan():
  process, solver = PROCESSES["flow"](), SOLVERS["ddim"]()
  plan = make_plan(solver, process, GRIDS["trailing"](process, 4))
  same = repeated(plan, 1)
  jax.tree.map(np.testing.assert_array_equal, same, plan)
  # Algorithm 1: every step U times but the last, which ends at data.
  np.testing.assert_allclose(repeated(plan, 3).now.t, [*[1] * 3, *[0.75] * 3, *[0.5] * 3, 0.25])
  blocks = repeated(plan, 2, block=2)
  np.testing.assert_allclose(blocks.now.t, [1, 0.75, 1, 0.75, 0.5, 0.25])
  np.testing.assert_array_equal(
    blocks.numbers.on_x, plan.numbers.on_x[jnp.array([0, 1, 0, 1, 2, 3])]
  )
  with pytest.raises(ConfigError, match="4 steps in blocks of 3"):
    repeated(plan, 2, block=3)
