"""The loss and what may be done to it, held to closed statements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.process import KINDS, PROCESSES, Prediction, denoising_loss, from_x0_eps
from t2i_jax.process.losses import PENALTIES, huber, offset_noise, perturbed_input
from t2i_jax.process.weightings import in_space

X0, EPS, GUESS = (jax.random.normal(jax.random.key(i), (5, 4, 4, 3)) for i in range(3))


def test_huber_is_squared_near_zero_and_linear_far_away():
  with jax.enable_x64(True):
    near, far = jnp.array([1e-4, -3e-4]), jnp.array([1e5, -3e5])
    penalty = huber(0.5)
    np.testing.assert_allclose(penalty(near), near**2, rtol=1e-6)  # next term: e^2 / 4 delta^2
    np.testing.assert_allclose(penalty(far), 2 * 0.5 * abs(far), rtol=1e-5)  # next: delta / e
    np.testing.assert_allclose(huber(1e5)(far / 1e4), (far / 1e4) ** 2, rtol=1e-6)
    # Its slope is bounded by 2 delta, which is what it is for.
    slope = jax.vmap(jax.grad(penalty))(jnp.linspace(-50, 50, 101))
    assert jnp.max(jnp.abs(slope)) <= 1.0
    assert np.all(np.diff(slope) >= 0)  # convex


def test_plain_losses_are_the_regressions_of_the_papers():
  """In its own space a prediction's loss is the mean squared error, whatever t."""
  time = PROCESSES["flow"]().at(jnp.linspace(0.2, 0.9, 5))
  for kind in KINDS:
    loss = denoising_loss(Prediction(GUESS, kind), X0, EPS, time, in_space(kind))
    target = {
      "x0": X0,
      "eps": EPS,
      "velocity": EPS - X0,
      "v": (1 - time.t)[:, None, None, None] * EPS - time.t[:, None, None, None] * X0,
      "score": -EPS / time.t[:, None, None, None],
    }[kind]
    np.testing.assert_allclose(loss, jnp.mean((GUESS - target) ** 2, (1, 2, 3)), rtol=1e-5)


@pytest.mark.newest
@pytest.mark.parametrize("penalty", PENALTIES)
def test_mask(penalty):
  """Ones change nothing; half an image is that half's loss; what is masked has no gradient."""
  time = PROCESSES["flow"]().at(jnp.linspace(0.2, 0.9, 5))
  weighting = in_space("velocity")

  def loss(value, mask=None, part=slice(None)):
    cut = lambda a: a[:, part]
    return denoising_loss(
      Prediction(cut(value), "velocity"),
      cut(X0),
      cut(EPS),
      time,
      weighting,
      PENALTIES[penalty](),
      mask,
    )

  np.testing.assert_allclose(loss(GUESS, jnp.ones((5, 4, 4, 1))), loss(GUESS), rtol=1e-6)
  half = jnp.ones((5, 4, 4, 1)).at[:, 2:].set(0)
  np.testing.assert_allclose(loss(GUESS, half), loss(GUESS, part=slice(2)), rtol=1e-6)
  gradient = jax.grad(lambda value: loss(value, half).sum())(GUESS)
  assert jnp.all(gradient[:, 2:] == 0)
  assert jnp.all(gradient[:, :2] != 0)
  np.testing.assert_array_equal(loss(GUESS, jnp.zeros((5, 4, 4, 1))), 0)  # a row without any


def test_offset_noise_adds_its_variance_to_the_mean_of_each_channel():
  """var(mean over H W) = 1 / (H W) + strength^2; of a pixel 1 + strength^2; channels apart."""
  rows, strength = 20000, 0.3
  eps = jax.random.normal(jax.random.key(0), (rows, 4, 4, 3))
  per_channel = jax.random.normal(jax.random.key(1), (rows, 1, 1, 3))
  noise = offset_noise(eps, per_channel, strength)
  means = np.asarray(noise.mean((1, 2)))  # [rows, 3]
  covariance = means.T @ means / rows
  expected = 1 / 16 + strength**2
  error = expected * np.sqrt(2 / rows)  # of a variance from that many draws
  np.testing.assert_allclose(covariance, expected * np.eye(3), atol=5 * error)
  np.testing.assert_allclose(np.var(noise), 1 + strength**2, atol=5 * 1.1 * np.sqrt(2 / rows))
  np.testing.assert_array_equal(offset_noise(eps, per_channel, 0.0), eps)


def test_perturbed_input_is_noisier_than_its_target_says():
  """x_t - alpha x0 has variance sigma^2 (1 + strength^2), and correlates with eps by sigma."""
  time = PROCESSES["ddpm_linear"]().at(jnp.array([0.1, 0.5]))
  shape = (2, 40000)
  x0, eps, extra = (jax.random.normal(jax.random.key(i), shape) for i in range(3))
  x_t = time.alpha[:, None] * x0 + time.sigma[:, None] * eps
  seen = perturbed_input(x_t, time, extra, 0.5)
  noise = np.asarray(seen - time.alpha[:, None] * x0)
  sigma = np.asarray(time.sigma)
  spread = 5 * np.sqrt(2 / shape[1])
  np.testing.assert_allclose(noise.var(-1), sigma**2 * 1.25, rtol=spread)
  np.testing.assert_allclose((noise * np.asarray(eps)).mean(-1), sigma, rtol=2 * spread)
  np.testing.assert_array_equal(perturbed_input(x_t, time, extra, 0.0), x_t)


def test_target_of_a_kind_is_linear_in_both_halves():
  time = PROCESSES["vp"]().at(jnp.linspace(0.2, 0.9, 5))
  for kind in KINDS:
    both = from_x0_eps(kind, X0 + GUESS, EPS + GUESS, time)
    apart = from_x0_eps(kind, X0, EPS, time) + from_x0_eps(kind, GUESS, GUESS, time)
    np.testing.assert_allclose(both, apart, rtol=1e-3, atol=1e-4)
