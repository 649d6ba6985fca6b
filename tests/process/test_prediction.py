"""Conversions between all pairs of predictions, and where they have no answer."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.proofs.closed_form import denoiser, gaussian
from t2i_jax.errors import ConfigError
from t2i_jax.process import KINDS, PROCESSES, Prediction, convert, from_x0_eps, like, to_x0_eps
from t2i_jax.process.prediction import check_prediction, undefined

MADE = {name: make() for name, make in PROCESSES.items()}
ALL = pytest.mark.parametrize("name", MADE)
PAIRS = list(itertools.permutations(KINDS, 2))


def mixture(name, t):
  """x0, eps, x_t and Time on a small batch."""
  rng = np.random.default_rng(0)
  x0, eps = (jnp.asarray(rng.normal(size=(len(t), 2, 3))) for _ in range(2))
  time = MADE[name].at(jnp.asarray(t))
  return x0, eps, like(time.alpha, x0) * x0 + like(time.sigma, x0) * eps, time


@ALL
@pytest.mark.parametrize("kind", KINDS)
def test_the_perfect_prediction_gives_back_both_halves(name, kind):
  with jax.enable_x64(True):
    x0, eps, x_t, time = mixture(name, [0.01, 0.1, 0.5, 0.9, 0.999])
    halves = to_x0_eps(Prediction(from_x0_eps(kind, x0, eps, time), kind), x_t, time)
    for got, wanted in zip(halves, (x0, eps), strict=True):
      np.testing.assert_allclose(got, wanted, atol=1e-9)


@ALL
@given(t=st.lists(st.floats(1e-3, 0.999), min_size=4, max_size=4))
@settings(max_examples=6, deadline=None)
def test_round_trip_of_every_pair(name, t):
  with jax.enable_x64(True):
    x0, eps, x_t, time = mixture(name, t)
    for kind, other in PAIRS:
      value = from_x0_eps(kind, x0, eps, time) + 0.1  # not perfect: x_t and it still fix both
      there = Prediction(value, kind, aux="kept")
      back = convert(convert(there, other, x_t, time), kind, x_t, time)
      assert back.kind == kind and back.aux == "kept"
      scale = float(jnp.max(jnp.abs(value)) + jnp.max(jnp.abs(x_t)))
      np.testing.assert_allclose(back.value / scale, value / scale, atol=1e-9)


@ALL
def test_round_trip_in_float32(name):
  x0, eps, x_t, time = mixture(name, [0.2, 0.5, 0.8])
  for kind, other in PAIRS:
    value = from_x0_eps(kind, x0, eps, time)
    back = convert(convert(Prediction(value, kind), other, x_t, time), kind, x_t, time).value
    scale = np.max(np.abs(value)) / float(jnp.min(time.alpha))
    assert back.dtype == jnp.float32
    np.testing.assert_allclose(back / scale, value / scale, atol=5e-5, err_msg=f"{kind} {other}")


@ALL
def test_velocity_is_the_derivative_of_the_path(name):
  with jax.enable_x64(True):
    at = MADE[name].at
    x0, eps, t = 0.7, -1.3, jnp.float64(0.4567)
    path = lambda t: at(t).alpha * x0 + at(t).sigma * eps
    halves = (jnp.array([[x]]) for x in (x0, eps))
    got = from_x0_eps("velocity", *halves, at(t))
    np.testing.assert_allclose(got[0, 0], jax.grad(path)(t), rtol=1e-8)


@pytest.mark.newest
@ALL
def test_score_is_the_gradient_of_the_density(name):
  """Of p(x_t | x0), a Gaussian of mean alpha x0 and deviation sigma."""
  with jax.enable_x64(True):
    x0, eps, x_t, time = mixture(name, [0.3])
    density = lambda x: jnp.sum(jax.scipy.stats.norm.logpdf(x, time.alpha[0] * x0, time.sigma[0]))
    got = from_x0_eps("score", x0, eps, time)
    np.testing.assert_allclose(got, jax.grad(density)(x_t), rtol=1e-9)


@ALL
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_undefined_says_exactly_where_a_conversion_is_not_finite(name, t):
  """At both ends, from the finite prediction that a perfect network has there."""
  time = jax.tree.map(jnp.float32, MADE[name].at(np.array(t)))
  x_t = jnp.array([[0.3, -1.1], [0.0, 2.0]])
  data = gaussian([0.2, -0.4], [0.5, 2.0])
  perfect = {kind: denoiser(data, kind)(x_t, time, None).value for kind in KINDS}
  for kind, wanted in itertools.product(KINDS, KINDS):
    assert np.all(np.isfinite(perfect[kind])), kind
    got = convert(Prediction(perfect[kind], kind), wanted, x_t, time).value
    why = undefined(kind, wanted, float(time.alpha), float(time.sigma))
    assert np.all(np.isfinite(got)) == (why is None), (kind, wanted, why)
    if why is None and float(time.alpha) in (0.0, 1.0):  # elsewhere float32 has lost x0 in eps
      np.testing.assert_allclose(
        got, perfect[wanted], rtol=1e-4, atol=1e-4, err_msg=f"{kind} {wanted}"
      )


def test_eps_is_refused_where_it_has_no_x0():
  for name, process in MADE.items():
    for kind in KINDS:
      if kind in ("eps", "score") and process.zero_terminal_snr:
        with pytest.raises(ConfigError, match=r"alpha = 0\. Use 'v', 'velocity' or 'x0'"):
          check_prediction(process, kind)
      else:
        check_prediction(process, kind)
    assert process.zero_terminal_snr == (name in ("flow", "trigonometric", "ddpm_sigmoid"))
  with pytest.raises(ConfigError, match="not one of eps, x0, v, velocity"):
    check_prediction(MADE["flow"], "noise")


def test_prediction_keeps_its_kind_through_jit():
  out = jax.jit(lambda p: jax.tree.map(lambda x: 2 * x, p))(Prediction(jnp.ones(3), "x0"))
  assert out.kind == "x0" and out.value[0] == 2
