"""Maps matched to those of a source, on maps whose gradient is known; regular noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.process import PROCESSES, Prediction
from t2i_jax.sampling import GRIDS, SOLVERS, make_plan, sample
from t2i_jax.sampling.map_guidance import Matched, match_maps, states_at
from t2i_jax.sampling.noise_regularity import Regular, correlations, irregularity, regularised

WEIGHTS = jax.random.normal(jax.random.key(0), (4, 3))


def maps(x_t, time, cond):
  return {"a": x_t @ WEIGHTS + cond, "b": (2 * x_t,)}


@pytest.mark.newest
def test_one_step_is_the_gradient_of_the_distance():
  """Of linear maps: 2 (x W + c - x' W - c') W^T + 8 (x - x')."""
  x, source = jax.random.normal(jax.random.key(1), (2, 5, 4))
  own, theirs = jax.random.normal(jax.random.key(2), (2, 5, 3))
  denoise = lambda x_t, time, cond: Prediction(3 * x_t + cond, "eps")
  time = PROCESSES["flow"]().at(jnp.float32(0.5))
  rates = jnp.array([0.0, 0.1, 0.2, 0.3, 0.4])
  found = match_maps(denoise, maps, rates)(x, time, Matched(1.0, own, theirs, source))
  step = 2 * ((x - source) @ WEIGHTS + own - theirs) @ WEIGHTS.T + 8 * (x - source)
  np.testing.assert_allclose(found.value, 3 * (x - rates[:, None] * step) + 1, rtol=1e-4, atol=1e-4)
  assert found.kind == "eps"


def test_every_step_has_its_state_of_the_source():
  """A denoiser that gives back where it was moved to: at weight 1/8 of maps 2 x, the source."""
  process, solver = PROCESSES["flow"](), SOLVERS["ddim"]()
  plan = make_plan(solver, process, GRIDS["trailing"](process, 3))
  states = jax.random.normal(jax.random.key(3), (4, 2, 5))
  denoise = lambda x_t, time, cond: Prediction(x_t, "x0")
  matched = match_maps(denoise, lambda x, time, cond: 2 * x, 1 / 8)
  keep = lambda i, x, prediction, kept: (x, kept.at[i].set(prediction.value))
  _, kept = sample(
    matched, solver, plan, jnp.ones((2, 5)), Matched(None, None, None, states),
    on_step=keep, state=jnp.zeros((3, 2, 5)), cond_at=states_at,
  )  # fmt: skip
  np.testing.assert_allclose(kept, states[:3], atol=1e-6)


EPS = jax.random.normal(jax.random.key(4), (2, 16, 16, 3))
SMOOTH = (EPS + jnp.roll(EPS, 1, 1) + jnp.roll(EPS, 1, 2)) / 2


def test_correlations_by_shifting():
  found, x = correlations(SMOOTH), np.asarray(SMOOTH)
  for axis, first in ((1, 0), (2, 8)):
    for shift in (1, 5, 8):
      wanted = np.mean(x * np.roll(x, shift, axis), (1, 2))
      np.testing.assert_allclose(found[:, first + shift - 1], wanted, atol=1e-5)


def test_noise_of_an_inversion_becomes_more_regular():
  process = PROCESSES["ddpm_scaled_linear"]()
  time = process.at(jnp.float32(0.3))
  denoise = lambda x_t, time, cond: Prediction(2 * SMOOTH + 0.5, "eps")
  wrapped = regularised(denoise, Regular(times=20, pair=2.0, kl=2.0))
  found = jax.jit(lambda x: wrapped(x, time, None).value)(EPS)
  assert np.all(irregularity(EPS) < 0.1 * irregularity(2 * SMOOTH + 0.5))
  assert np.all(irregularity(found) < 0.5 * irregularity(2 * SMOOTH + 0.5))
  np.testing.assert_allclose(regularised(denoise, Regular(times=0))(EPS, time, None).value,
                             2 * SMOOTH + 0.5, atol=1e-6)  # fmt: skip
