"""Losses between predictions and between sets of images, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from t2i_jax.process import PROCESSES, WEIGHTINGS, Prediction, denoising_loss, from_x0_eps, mix
from t2i_jax.process.matching import (
  cosines,
  denoised,
  matching,
  similarity_consistency,
  textual_distance,
  visual_distance,
)

normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
T = jnp.array([0.2, 0.5, 0.9])


@pytest.mark.newest
@pytest.mark.parametrize("process, kind", [("flow", "velocity"), ("ddpm_linear", "eps")])
def test_a_true_target_gives_the_denoising_loss(process, kind):
  """Whatever kind it is given as; and it has no gradient."""
  x0, eps, found = (normal(i, 3, 4, 4, 2) for i in range(3))
  time = PROCESSES[process]().at(T)
  x_t, weighting = mix(x0, eps, time), WEIGHTINGS[kind]()
  mine = Prediction(found, kind)
  loss = lambda target: matching(mine, Prediction(target, "v"), x_t, time, weighting)
  target = from_x0_eps("v", x0, eps, time)
  expected = denoising_loss(mine, x0, eps, time, weighting)
  np.testing.assert_allclose(loss(target), expected, rtol=2e-4)
  np.testing.assert_allclose(expected, jnp.mean((found - from_x0_eps(kind, x0, eps, time)) ** 2,
                                                (1, 2, 3)), rtol=1e-4)  # fmt: skip
  assert not np.any(jax.grad(lambda target: jnp.sum(loss(target)))(target))


@pytest.mark.parametrize("name", ["flow", "ddpm_linear"])
def test_gaussian_data_is_denoised_along_its_ode(name):
  """x0 ~ N(0, s^2): the ODE leads to x_t s / sqrt(alpha^2 s^2 + sigma^2); one step is x0_hat."""
  process, s, x_t = PROCESSES[name](), 0.7, normal(0, 3, 5)
  denoise = lambda x, now: Prediction(
    x * (now.alpha * s**2 / (now.alpha**2 * s**2 + now.sigma**2))[:, None], "x0"
  )
  time = process.at(T)
  var = (time.alpha**2 * s**2 + time.sigma**2)[:, None]
  one = denoised(denoise, process, x_t, T, 1)
  np.testing.assert_allclose(one, denoise(x_t, time).value, rtol=1e-5)
  many = denoised(denoise, process, x_t, T, 100)
  np.testing.assert_allclose(many, x_t * s / jnp.sqrt(var), rtol=0.03)
  slope = jax.grad(lambda x: jnp.sum(denoised(denoise, process, x, T, 100)))(x_t)
  np.testing.assert_allclose(slope, many / x_t, rtol=1e-3)  # linear: through all steps


def test_similarities_of_a_row_to_the_others_are_compared():
  a, b = normal(0, 4, 3, 2), normal(1, 4, 3, 2)
  rows = []
  for i in range(4):
    others = [j for j in range(4) if j != i]
    angle = lambda x, i, j: (
      np.dot(x[i].ravel(), x[j].ravel()) / (np.linalg.norm(x[i]) * np.linalg.norm(x[j]))
    )
    q, p = (softmax([angle(np.asarray(x), i, j) for j in others]) for x in (a, b))
    rows.append(np.sum(rel_entr(p, q)) / 3)
  found = similarity_consistency(cosines(a), cosines(b))
  np.testing.assert_allclose(found, rows, rtol=1e-3, atol=1e-7)
  np.testing.assert_allclose(similarity_consistency(cosines(a), cosines(a)), 0, atol=1e-7)
  np.testing.assert_allclose(similarity_consistency(cosines(a[:2]), cosines(b[:2])), 0, atol=1e-7)
  loss = lambda a, b: jnp.sum(similarity_consistency(cosines(a), cosines(b)))
  of_found, of_wanted = jax.grad(loss, argnums=(0, 1))(a, b)
  assert np.any(of_found) and np.all(np.isfinite(of_found)) and not np.any(of_wanted)


def test_what_an_image_shows_is_compared_and_not_where():
  x = normal(0, 2, 3, 3, 4)
  moved = x[:, ::-1, ::-1]
  np.testing.assert_allclose(visual_distance([x, x], [moved, 2 * x]), 0, atol=1e-6)
  one, other = jnp.eye(2)[:1, None], jnp.eye(2)[1:, None]
  np.testing.assert_allclose(visual_distance([one, one], [other, -one]), 1.5, atol=1e-6)
  assert not np.any(jax.grad(lambda y: jnp.sum(visual_distance([x], [y])))(-x))


def test_a_text_is_read_by_what_it_names_alone():
  logits = jnp.array([[0.0, 3.0, -50.0], [1.0, -2.0, 50.0]])
  y = jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
  nats = (np.log(2) + np.log1p(np.exp(-3.0))) / 2
  np.testing.assert_allclose(textual_distance(logits, y), [nats, 0], rtol=1e-6)
