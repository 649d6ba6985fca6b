"""Weightings: finite everywhere, one weight for every prediction, and the papers' own formulas."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.errors import ConfigError
from t2i_jax.process import (
  KINDS,
  PROCESSES,
  WEIGHTINGS,
  Prediction,
  convert,
  denoising_loss,
  from_x0_eps,
  like,
)
from t2i_jax.process.weightings import FLOOR, in_space

PROCESS = {name: make() for name, make in PROCESSES.items()}
WEIGHTING = {name: make() for name, make in WEIGHTINGS.items()}
MORE = {  # with other arguments than the defaults
  "min_snr(1)": WEIGHTINGS["min_snr"](gamma=1.0),
  "p2(0.5, 2)": WEIGHTINGS["p2"](k=0.5, gamma=2.0),
  "sigmoid(-1)": WEIGHTINGS["sigmoid"](bias=-1.0),
}
ALL = pytest.mark.parametrize("name", PROCESS)


def weight(weighting, kind, time):
  """What multiplies the squared error of a prediction of this kind: its loss at an error of 1."""
  x0 = jnp.zeros((len(time.t), 3))
  value = from_x0_eps(kind, x0, x0 + 0.5, time)
  return denoising_loss(Prediction(value + 1, kind), x0, x0 + 0.5, time, weighting)


@ALL
def test_finite_and_not_negative_over_all_t_and_both_ends(name):
  t = jnp.concatenate([jnp.linspace(0, 1, 201), jnp.array([1e-5, 1 - 1e-5])])
  time = PROCESS[name].at(t)
  x0 = jnp.ones((len(t), 2))
  for kind, (title, weighting) in itertools.product(KINDS, (WEIGHTING | MORE).items()):
    if kind in ("eps", "score") and PROCESS[name].zero_terminal_snr:
      continue  # refused
    prediction = Prediction(0.3 * x0, kind)
    # The score's target is itself infinite at sigma = 0, where no training takes place.
    part = slice(1, None) if kind == "score" else slice(None)
    loss = denoising_loss(prediction, x0, -x0, time, weighting)[part]
    assert np.all(np.isfinite(loss)) and np.all(loss >= 0), (kind, title)
  for title, weighting in (WEIGHTING | MORE).items():
    assert np.all(np.isfinite(weighting(time))) and weighting(time).shape == t.shape, title


@pytest.mark.newest
@ALL
def test_the_loss_does_not_depend_on_the_kind_of_prediction(name):
  """A guess as any kind costs what it costs as x0, above the floor of sigma."""
  rng = np.random.default_rng(1)
  with jax.enable_x64(True):
    time = PROCESS[name].at(jnp.asarray([0.15, 0.4, 0.7, 0.95]))
    assert np.all(time.sigma > FLOOR)
    x0, eps, guess = (jnp.asarray(rng.normal(size=(4, 2, 3))) for _ in range(3))
    x_t = like(time.alpha, x0) * x0 + like(time.sigma, x0) * eps
    for title, weighting in (WEIGHTING | MORE).items():
      as_x0 = denoising_loss(Prediction(guess, "x0"), x0, eps, time, weighting)
      for kind in KINDS:
        other = convert(Prediction(guess, "x0"), kind, x_t, time)
        loss = denoising_loss(other, x0, eps, time, weighting)
        # The error is taken in float32, where a weak signal in eps keeps few digits.
        np.testing.assert_allclose(loss, as_x0, rtol=2e-4, err_msg=f"{title} {kind}")


@ALL
@pytest.mark.parametrize("kind", KINDS)
def test_the_space_of_its_own_kind_is_plain_regression(name, kind):
  time = PROCESS[name].at(jnp.linspace(0.001, 0.999, 30))
  np.testing.assert_allclose(weight(in_space(kind), kind, time), 1, rtol=1e-4)


SNR = lambda time: (time.alpha / time.sigma) ** 2
FORMULAS = {
  # [2303.09556 sec. 3.4]: on eps, on x0, on v
  ("min_snr", "eps"): lambda time: np.minimum(SNR(time), 5) / SNR(time),
  ("min_snr", "x0"): lambda time: np.minimum(SNR(time), 5),
  ("min_snr", "v"): lambda time: np.minimum(SNR(time), 5) / (SNR(time) + 1),
  ("soft_min_snr", "x0"): lambda time: 1 / (1 / SNR(time) + 1 / 4),
  # [2202.00512 sec. 4]
  ("truncated_snr", "x0"): lambda time: np.maximum(SNR(time), 1),
  # [2204.00227 eq. 8]
  ("p2", "eps"): lambda time: 1 / (1 + SNR(time)),
  # [2303.00848]: sigmoid(b - log SNR) on eps
  ("sigmoid", "eps"): lambda time: 1 / (1 + np.exp(np.log(SNR(time)) - 2)),
  # SNR + 1 on x0 is plain v regression [2202.00512 sec. 4]
  ("v", "x0"): lambda time: SNR(time) + 1,
  ("eps", "x0"): SNR,
}


@pytest.mark.parametrize("case", FORMULAS, ids=" on ".join)
def test_formulas_of_the_papers_on_a_variance_preserving_process(case):
  time = PROCESS["vp"].at(jnp.linspace(0.1, 0.9, 25))
  wanted = FORMULAS[case](jax.tree.map(np.float64, time))
  np.testing.assert_allclose(weight(WEIGHTING[case[0]], case[1], time), wanted, rtol=1e-3)


def test_formulas_of_flow_matching():
  t = np.linspace(0.1, 0.95, 25)
  time = PROCESS["flow"].at(jnp.asarray(t, jnp.float32))
  on_velocity = lambda name: weight(WEIGHTING[name], "velocity", time)
  np.testing.assert_allclose(on_velocity("velocity"), 1, rtol=1e-5)
  np.testing.assert_allclose(on_velocity("sigma_sqrt"), t**-2.0, rtol=1e-4)
  # The weight that makes uniform t count as t of the cosmap law [2403.03206 eq. 21].
  density = 2 / (np.pi - 2 * np.pi * t + 2 * np.pi * t**2)
  np.testing.assert_allclose(on_velocity("cosmap"), density, rtol=1e-4)
  # x0 error is velocity error times sigma: 1 / t^2 on x0 is plain velocity regression.
  np.testing.assert_allclose(weight(WEIGHTING["velocity"], "x0", time), t**-2.0, rtol=1e-4)


def test_edm_weight_is_one_on_its_own_network():
  """lambda(sigma) c_out^2 = 1 [2206.00364 sec. 5]."""
  sigma = np.geomspace(0.1, 80, 20)
  time = PROCESS["edm"].at(jnp.asarray(sigma / 80, jnp.float32))
  c_out = sigma * 0.5 / np.sqrt(sigma**2 + 0.25)
  np.testing.assert_allclose(weight(WEIGHTING["edm"], "x0", time) * c_out**2, 1, rtol=1e-4)


def test_below_the_floor_the_weight_stays():
  time = PROCESS["flow"].at(jnp.array([0.0, 0.001, 0.049]))
  weights = weight(WEIGHTING["velocity"], "x0", time)
  assert np.all(weights <= FLOOR**-2 * 1.001) and np.all(weights > 0.9 * FLOOR**-2)


def test_unknown_space():
  with pytest.raises(ConfigError, match="eps, x0, v, velocity, score"):
    in_space("noise")
