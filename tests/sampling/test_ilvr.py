"""ILVR: what a sample has in common with its reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.errors import ConfigError
from t2i_jax.process import PROCESSES, Prediction
from t2i_jax.sampling import GRIDS, SOLVERS, make_plan, row_noise, sample
from t2i_jax.sampling.ilvr import ilvr, low_pass

REFERENCE = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))


def test_the_filter_is_the_mean_of_blocks():
  torch = pytest.importorskip("torch")
  functional = torch.nn.functional
  x = torch.from_numpy(np.array(REFERENCE)).permute(0, 3, 1, 2)
  small = functional.avg_pool2d(x, 4)
  wanted = functional.interpolate(small, scale_factor=4, mode="nearest").permute(0, 2, 3, 1)
  found = low_pass(REFERENCE, 4)
  np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)
  np.testing.assert_allclose(low_pass(found, 4), found, atol=1e-6)  # a projection


@pytest.mark.parametrize("kind", ["box", "cubic"])
def test_filters_are_linear_and_keep_constants(kind):
  a, b = REFERENCE
  both = low_pass(jnp.stack([a, b, 2 * a - b]), 2, kind)
  np.testing.assert_allclose(both[2], 2 * both[0] - both[1], atol=1e-5)
  np.testing.assert_allclose(low_pass(jnp.ones((1, 8, 8, 3)), 2, kind), 1, atol=1e-5)


@pytest.mark.newest
def test_low_frequencies_of_the_sample_are_those_of_the_reference():
  process = PROCESSES["flow"]()
  solver = SOLVERS["ddpm"]()
  plan = make_plan(solver, process, GRIDS["trailing"](process, 6))
  denoise = lambda x_t, time, cond: Prediction(jnp.tanh(x_t) * 0.5, "x0")
  keys = jax.random.split(jax.random.key(1), 2)
  noise, own = (row_noise(jax.random.split(k, 2), (8, 8, 3)) for k in keys)
  x = jax.random.normal(keys[0], (2, 8, 8, 3))
  hook = lambda steps: ilvr(plan, REFERENCE, own, 4, steps)
  run = jax.jit(lambda x, steps: sample(denoise, solver, plan, x, None, noise, hook(steps))[0])
  last, none = run(x, 6), run(x, 0)
  np.testing.assert_allclose(low_pass(last, 4), low_pass(REFERENCE, 4), atol=1e-5)
  plain, _ = sample(denoise, solver, plan, x, None, noise)
  np.testing.assert_allclose(none, plain, atol=1e-5)
  # Away from the low frequencies the last step is the sampler's own.
  assert np.abs((last - low_pass(last, 4)) - (REFERENCE - low_pass(REFERENCE, 4))).max() > 0.1


def test_a_factor_divides_the_sides():
  with pytest.raises(ConfigError, match="factor = 3 does not divide 8 x 8"):
    low_pass(REFERENCE, 3)
  with pytest.raises(ConfigError, match="not one of box, cubic"):
    low_pass(REFERENCE, 2, "gauss")
