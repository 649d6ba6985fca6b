"""Guidance: closed-form fields, what it samples, memory from step to step, a classifier on top."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guided_toys import FLOW, SHAPE, at, conditions, normal, once, toy

from benchmarks.proofs import closed_form as exact
from t2i_jax.errors import ConfigError
from t2i_jax.process import KINDS, PROCESSES, Prediction, convert
from t2i_jax.sampling import (
  GRIDS,
  SOLVERS,
  Guided,
  Labelled,
  autoguide,
  classify,
  dual,
  guide,
  make_plan,
  remember,
  sample,
)
from t2i_jax.sampling.guidance_methods import apg, cfg, cfg_zero
from t2i_jax.sampling.loop import previews

DATA = exact.mixture(
  weights=[0.5, 0.3, 0.2],
  means=[[1.0, 0.2], [-0.8, 1.0], [0.1, -1.3]],
  covariances=[[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]], [[0.2, -0.1], [-0.1, 0.2]]],
  classes=[0, 1, 1],
)

ANY = -1  # the class that stands for no condition


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PROCESSES)
def test_guidance_is_the_tilted_field(name, kind):
  """CFG and classifier guidance both are score(x) + scale grad log p(y | x), in every kind."""
  process, rows = PROCESSES[name](), 6
  with jax.enable_x64(True):
    label, null = jnp.array([0, 1, 1, 0, 1, 0]), jnp.full(rows, ANY)
    denoise = exact.denoiser(DATA, kind)

    def log_prob(x, time, y):
      return jnp.take_along_axis(exact.log_posterior(DATA, x, time), y[:, None], 1)[:, 0]

    @jax.jit
    def fields(x, time, scale):
      by_null = guide(denoise, cfg(), scale)(x, time, Guided(label, null))
      by_classifier = classify(denoise, log_prob, scale)(x, time, Labelled(None, label))
      wanted = exact.tilted(DATA, scale, kind)(x, time, label)
      return by_null.value, by_classifier.value, wanted.value

    worst = 0.0
    for t in (0.05, 0.5, 0.93):
      time = at(process, t)
      x = (time.sigma + 0.5 * time.alpha) * normal(3, (rows, 2)).astype(jnp.float64)
      for scale in (0.0, 1.0, 3.5):
        by_null, by_classifier, wanted = map(np.asarray, fields(x, time, jnp.float64(scale)))
        size = np.abs(wanted).max()
        worst = max(worst, np.abs(by_null - wanted).max() / size)
        worst = max(worst, np.abs(by_classifier - wanted).max() / size)
  assert worst < 1e-11, worst


def test_a_classifier_has_nothing_to_say_of_noise_alone():
  """At alpha = 0 the push on x0 would be 0 / 0; there the denoiser stays as it is."""
  x, time = normal(1), at(FLOW, 1.0)
  log_prob = lambda x, time, y: jnp.sum(x, axis=(1, 2, 3)) * y
  cond = Labelled(jnp.ones((4, 1)), jnp.ones(4))
  found = classify(toy, log_prob, 2.0)(x, time, cond).value
  np.testing.assert_array_equal(found, toy(x, time, cond.cond).value)


def test_guidance_does_not_sample_the_tilted_density():
  """p(x) = N(0, 1), p(x | y) = N(0, 1/4): guided scores are right at every t, the samples are not.

  Under guidance dx/ds = s x (w / (1/4 + s^2) + (1 - w) / (1 + s^2)), s = sigma / alpha, so that
  variances end as the weighted geometric mean (1/4)^w 1^(1-w); p(x) p(y|x)^w has the harmonic one.
  """
  w, n = 2.0, 4096
  one, everything = (exact.denoiser(exact.gaussian([0.0], v)) for v in (0.25, 1.0))

  def denoise(x, time, cond):
    """cond [B]: 1 for p(x | y), 0 for p(x)."""
    pick = jnp.where(cond[:, None] > 0, one(x, time).value, everything(x, time).value)
    return Prediction(pick, "x0")

  geometric, harmonic = 0.25**w, 1 / (w / 0.25 + (1 - w) / 1.0)
  solver = SOLVERS["heun"]()
  plan = make_plan(solver, FLOW, GRIDS["trailing"](FLOW, 128))
  cond = Guided(jnp.ones(n), jnp.zeros(n))
  run = jax.jit(lambda x, w: sample(guide(denoise, cfg(), w), solver, plan, x, cond)[0])
  x = normal(7, (n, 1))
  variance = float(jnp.var(run(x, w)) / jnp.var(x))  # the map is linear: only its slope counts
  error = geometric * np.sqrt(2 / n)  # standard error of a variance
  drawn = float(jnp.var(run(x, w)))
  print(f"variance {drawn:.4f}, computed {geometric:.4f}, tilted {harmonic:.4f}, +- {error:.4f}")
  assert abs(variance - geometric) < 1e-3 * geometric
  assert harmonic - drawn > 20 * error
  # Without guidance (w = 1) both means agree, and so does the sampler.
  assert abs(float(jnp.var(run(x, 1.0)) / jnp.var(x)) - 0.25) < 1e-3


def test_guided_mixture_misses_the_tilted_mean():
  """Two classes in one dimension: p(x) p(y | x)^w, integrated, is not what guidance draws."""
  data = exact.mixture([0.5, 0.5], [[-1.0], [1.0]], 0.4)
  w, n = 3.0, 4096
  grid = jnp.linspace(-8, 8, 4001)[:, None]
  label = jnp.ones(len(grid), jnp.int32)
  density = np.exp(np.asarray(exact.tilted_log_density(data, grid, label, w), np.float64))
  x = np.asarray(grid[:, 0], np.float64)
  mean = (x * density).sum() / density.sum()
  std = np.sqrt(((x - mean) ** 2 * density).sum() / density.sum())
  solver = SOLVERS["heun"]()
  plan = make_plan(solver, FLOW, GRIDS["trailing"](FLOW, 64))
  cond = Guided(jnp.ones(n, jnp.int32), jnp.full(n, ANY))
  denoise = guide(exact.denoiser(data), cfg(), w)
  drawn = jax.jit(lambda x: sample(denoise, solver, plan, x, cond)[0])(normal(8, (n, 1)))
  misses = (float(jnp.mean(drawn)) - mean) / (std / np.sqrt(n))
  print(f"tilted mean {mean:.4f}, drawn {float(jnp.mean(drawn)):.4f}, {misses:.0f} standard errors")
  assert misses > 20  # guidance overshoots


def test_a_worse_denoiser_that_is_the_null_makes_plain_guidance():
  x, time, cond = normal(1), at(FLOW, 0.6), conditions(cfg())
  worse = lambda x_t, time, cond: convert(toy(x_t, time, 0 * cond), "v", x_t, time)
  found = autoguide(toy, worse, cfg(), 3.0)(x, time, Guided(cond.cond))
  assert found.kind == "velocity"
  np.testing.assert_allclose(found.value, once(cfg(), 3.0, x, time, cond).value, atol=1e-5)


def constant(x_t, time, cond):
  """x0 = 1 under the condition and 0 without."""
  return Prediction(jnp.ones_like(x_t) * cond[:, :, None, None], "x0")


def run(method, solver, steps, scale, x, denoise, cond, **hooks):
  solver = SOLVERS[solver]()
  plan = make_plan(solver, FLOW, GRIDS["trailing"](FLOW, steps))
  hooks = remember(method, x, **hooks)
  return jax.jit(
    lambda x, scale: sample(guide(denoise, method, scale), solver, plan, x, cond, **hooks)
  )(x, scale)


@pytest.mark.parametrize("solver", ["euler", "heun", "pndm", "unipc"])
def test_momentum_moves_once_a_step(solver):
  """cond - null is 1 at every call, so that S steps leave 1 + b + ... + b^(S-1) behind."""
  cond = Guided(jnp.ones((4, 1)), jnp.zeros((4, 1)))
  steps, b = 5, -0.5
  method = apg(momentum=b)
  _, (memory, _) = run(method, solver, steps, 3.0, normal(1), constant, cond)
  np.testing.assert_allclose(memory, (1 - b**steps) / (1 - b), rtol=1e-6)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_zero_init_leaves_x_alone_for_its_steps(solver):
  x, cond = normal(1), conditions(cfg_zero())
  kept = jnp.zeros((4, *SHAPE))
  watch = lambda i, x, prediction, state: (x, state.at[i].set(x))
  method = cfg_zero(zero_steps=2)
  _, (count, xs) = run(method, solver, 4, 3.0, x, toy, cond, on_step=watch, state=kept)
  assert int(count) == 4
  np.testing.assert_allclose(xs[1], x, atol=1e-6)
  assert float(jnp.abs(xs[2] - x).max()) > 0.1


@pytest.mark.newest
@pytest.mark.parametrize("method", [cfg(), apg()], ids=["cfg", "apg"])
def test_a_classifier_goes_on_top_of_any_method(method):
  """Its push adds to the guided prediction, and the memory passes through."""
  x, weight = normal(1), 0.3
  solver = SOLVERS["euler"]()
  plan = make_plan(solver, FLOW, GRIDS["trailing"](FLOW, 3))
  log_prob = lambda x, time, y: jnp.sum(x, axis=(1, 2, 3)) * y
  cond = Guided(jnp.ones((4, 1)), jnp.zeros((4, 1)))

  def run(denoise, cond):
    return jax.jit(lambda x: sample(denoise, solver, plan, x, cond, **remember(method, x)))(x)

  guided = guide(constant, method, 3.0)
  plain, (memory, _) = run(guided, cond)
  both, (same, _) = run(classify(guided, log_prob, weight), Labelled(cond, jnp.ones(4)))
  np.testing.assert_array_equal(jax.tree.leaves(memory), jax.tree.leaves(same))
  # The last step ends at x0_hat, which the push moved by weight sigma^2 / alpha, at t = 1/3.
  np.testing.assert_allclose(both - plain, weight * (1 / 9) / (2 / 3), rtol=1e-5)


@pytest.mark.parametrize("method", [cfg(), apg()], ids=["cfg", "apg"])
def test_own_hooks_go_beside_the_memory(method):
  """Previews and conditions by step are the same with `remember` as a caller writes them."""
  x = normal(1)
  cond = conditions(method)
  later = lambda i, cond, state: cond._replace(cond=cond.cond * (i >= 2))
  state = jnp.zeros((2, *SHAPE))
  given = {"on_step": previews(2), "state": state, "cond_at": later}
  _, (memory, seen) = run(method, "euler", 4, 3.0, x, toy, cond, **given)
  assert (memory is None) == (method.starts is None)
  assert seen.shape == state.shape and float(jnp.abs(seen[1]).max()) > 0


def test_a_missing_condition_or_memory_is_named():
  x, time = normal(1), at(FLOW, 0.6)
  with pytest.raises(ConfigError, match="needs 1 conditions beside cond and null"):
    guide(toy, dual(), 2.0)(x, time, conditions(cfg()))
  with pytest.raises(ConfigError, match="remember"):
    guide(toy, apg(), 2.0)(x, time, conditions(apg()))
  with pytest.raises(ConfigError, match="remember"):
    autoguide(toy, toy, apg(), 2.0)(x, time, conditions(apg()))
