"""Conversions between all pairs of predictions, and the loss in each space."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_jax.errors import ConfigError
from t2i_jax.process import (
  KINDS,
  PROCESSES,
  Prediction,
  convert,
  denoising_loss,
  like,
  make_process,
)
from t2i_jax.process.prediction import check_prediction, target, to_velocity, to_x0_eps


def mixture(name, t):
  """x0, eps, x_t and Time in float64-like precision on a small batch."""
  rng = np.random.default_rng(0)
  x0, eps = (jnp.asarray(rng.normal(size=(len(t), 2, 2, 3)), jnp.float32) for _ in range(2))
  time = make_process(name).at(jnp.asarray(t, jnp.float32))
  return x0, eps, like(time.alpha, x0) * x0 + like(time.sigma, x0) * eps, time


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_perfect_prediction_gives_back_both_halves(name, kind):
  x0, eps, x_t, time = mixture(name, [0.1, 0.5, 0.9])
  perfect = Prediction(target(kind, x0, eps, time), kind)
  x0_hat, eps_hat = to_x0_eps(perfect, x_t, time)
  scale = 1 / float(jnp.min(time.alpha))  # how far a rounding of x_t moves x0
  np.testing.assert_allclose(x0_hat, x0, atol=2e-5 * scale)
  np.testing.assert_allclose(eps_hat, eps, atol=2e-5 * scale)


@pytest.mark.parametrize("name", PROCESSES)
def test_velocity_is_the_derivative_of_the_path(name):
  with jax.enable_x64(True):
    process = make_process(name)
    x0, eps, t = 0.7, -1.3, jnp.float64(0.4567)
    path = lambda t: process.at(t).alpha * x0 + process.at(t).sigma * eps
    time = process.at(t)
    got = to_velocity(Prediction(jnp.array([[x0]]), "x0"), jnp.array([[path(t)]]), time)
    np.testing.assert_allclose(got[0, 0], jax.grad(path)(t), rtol=1e-9)


@given(
  name=st.sampled_from(list(PROCESSES)),
  pair=st.sampled_from(list(itertools.permutations(KINDS, 2))),
  t=st.floats(0.05, 0.95),
)
@settings(max_examples=40, deadline=None)
def test_round_trip_of_every_pair(name, pair, t):
  x0, eps, x_t, time = mixture(name, [t])
  there = Prediction(target(pair[0], x0, eps, time) + 0.1, pair[0], aux="kept")
  back = convert(convert(there, pair[1], x_t, time), pair[0], x_t, time)
  assert back.kind == pair[0] and back.aux == "kept"
  limit = 1e-4 * float(1 + jnp.abs(there.value).max()) / float(time.alpha[0] * time.sigma[0])
  np.testing.assert_allclose(back.value, there.value, atol=limit)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("kind, space", itertools.product(KINDS, KINDS))
def test_loss_in_a_space_is_the_error_of_the_converted_prediction(name, kind, space):
  x0, eps, x_t, time = mixture(name, [0.2, 0.5, 0.8])
  guess = Prediction(target(kind, x0, eps, time) + 0.3, kind)
  converted = convert(guess, space, x_t, time).value
  expected = jnp.mean(jnp.square(converted - target(space, x0, eps, time)), axis=(1, 2, 3))
  got = denoising_loss(guess, x0, eps, time, space)
  np.testing.assert_allclose(got, expected, rtol=2e-3)


def test_loss_is_finite_at_both_ends():
  for name, kind, space in itertools.product(PROCESSES, KINDS, KINDS):
    x0, eps, _, time = mixture(name, [0.0, 1.0])
    if kind == "eps" and make_process(name).zero_terminal_snr:
      continue  # refused
    loss = denoising_loss(Prediction(jnp.zeros_like(x0), kind), x0, eps, time, space)
    assert np.all(np.isfinite(loss[1:])), (name, kind, space)


def test_eps_is_refused_where_it_has_no_x0():
  with pytest.raises(ConfigError, match="alpha = 0"):
    check_prediction(make_process("flow"), "eps")
  check_prediction(make_process("ddpm_cosine"), "eps")
  with pytest.raises(ConfigError, match="not one of eps, x0, velocity"):
    check_prediction(make_process("flow"), "noise")


def test_prediction_keeps_its_kind_through_jit():
  out = jax.jit(lambda p: jax.tree.map(lambda x: 2 * x, p))(Prediction(jnp.ones(3), "x0"))
  assert out.kind == "x0" and out.value[0] == 2
