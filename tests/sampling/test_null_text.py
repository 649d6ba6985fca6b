"""Null-text inversion on a small network: what it finds, and that nothing else moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.errors import ConfigError
from t2i_jax.process import PROCESSES, Prediction
from t2i_jax.sampling import GRIDS, GUIDANCE, SOLVERS, Guided, guide, make_plan, sample
from t2i_jax.sampling.inversion import invert, rising
from t2i_jax.sampling.null_text import Search, null_at, null_text

STEPS, SCALE = 8, 3.0


def denoise(x_t, time, cond):
  """Two layers, under {"tokens": [B, 3, 6], "mask": [B, 3]}."""
  w = [0.3 * jax.random.normal(jax.random.key(i), (6, 6)) for i in range(3)]
  words = jnp.sum(cond["tokens"] * cond["mask"][..., None], 1)
  hidden = jnp.tanh(x_t @ w[0] + words @ w[1] + time.alpha)
  return Prediction(hidden @ w[2], "v")


def condition(seed):
  tokens = jax.random.normal(jax.random.key(seed), (4, 3, 6))
  return {"tokens": tokens, "mask": jnp.ones((4, 3), bool).at[:, 2].set(False)}


COND, NULL = condition(11), condition(12)
X0 = jax.random.normal(jax.random.key(7), (4, 6))
PROCESS = PROCESSES["ddpm_scaled_linear"]()
DDIM = SOLVERS["ddim"]()
GRID = GRIDS["trailing"](PROCESS, STEPS)
PLAN = make_plan(DDIM, PROCESS, GRID)
with_null = lambda tokens: NULL | {"tokens": tokens}


@jax.jit
def states_of(x):
  """From x_1 to x_0: DDIM upwards, and the image."""
  _, up = invert(denoise, DDIM, PROCESS, rising(GRID), x, COND, keep=True)
  return jnp.concatenate([up[::-1], x[None]])


@jax.jit
def find(states, search):
  return null_text(denoise, PLAN, states, COND, NULL["tokens"], SCALE, search, with_null)


@jax.jit
def reconstruct(x, nulls):
  """With the tokens of the null of each step."""
  guided, at = guide(denoise, GUIDANCE["cfg"](), SCALE), null_at(nulls, with_null)
  return sample(guided, DDIM, PLAN, x, Guided(COND, NULL), cond_at=at)[0]


every_step = lambda tokens: jnp.tile(tokens, (STEPS, 1, 1, 1))
error = lambda x: np.mean(np.square(x - X0))


@pytest.fixture(scope="module")
def states():
  return states_of(X0)


@pytest.fixture(scope="module")
def found(states):
  return find(states, Search(steps=100, rate=3e-2, fall=0.0, enough=0.0, grows=0.0))


@pytest.mark.newest
def test_the_guided_sampler_comes_back_to_the_image(states, found):
  plain = reconstruct(states[0], every_step(NULL["tokens"]))
  back = reconstruct(states[0], found.nulls)
  assert error(back) < 0.1 * error(plain), (error(back), error(plain))
  np.testing.assert_allclose(back, found.x0, atol=1e-4)
  np.testing.assert_allclose(found.errors[-1], np.mean((back - X0) ** 2, 1), rtol=1e-2, atol=1e-6)
  assert np.all(found.calls == 100)


def test_tokens_that_count_for_nothing_do_not_move(found):
  """The gradient is of the null's tokens alone, and a masked one has none."""
  moved = np.abs(found.nulls - NULL["tokens"]).max((0, 1, 3))
  assert np.all(moved[:2] > 1e-3) and moved[2] == 0


def test_a_row_does_not_depend_on_the_others(states):
  """Also where they end at other steps of the search."""
  search = Search(steps=20, enough=3e-3, grows=0.0)
  other = states.at[:, 1:].multiply(0.3)
  a, b = find(states, search), find(other, search)
  np.testing.assert_array_equal(a.nulls[:, 0], b.nulls[:, 0])
  assert np.any(a.nulls[:, 1:] != b.nulls[:, 1:])


def test_the_search_ends(states):
  """After the step at which the error was small enough, as published; without steps at once."""
  assert np.all(find(states, Search(enough=1e9)).calls == 1)
  none = find(states, Search(steps=0))
  np.testing.assert_array_equal(none.nulls, every_step(NULL["tokens"]))


def test_null_and_condition_alike_is_negative_prompt_inversion(states):
  """The reconstruction of DDIM at scale 1, whatever the scale."""
  wanted = jax.jit(lambda x: sample(denoise, DDIM, PLAN, x, COND)[0])(states[0])
  found = reconstruct(states[0], every_step(COND["tokens"]))  # both masks are the same
  np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_refusals(states):
  with pytest.raises(ConfigError, match="8 states of 8 steps"):
    null_text(denoise, PLAN, states[1:], COND, NULL, SCALE)
