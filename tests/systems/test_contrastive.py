"""The encoder of images that is trained by comparing views: its loss, its views, its tasks."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import make_batch
from weights import random_weights

from t2i_jax.config import load_config
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.parallel import make_mesh
from t2i_jax.systems import Draws, make_system
from t2i_jax.systems.contrastive import Views, nt_xent, view

CONFIG = Path(__file__).parents[2] / "configs/emoji_contrastive.py"
TINY = {
  "text.tokenizer": "bytes", "text.vocab": "300", "data.image_size": "(16, 16)",
  "model.side": "8", "model.patch": "2", "model.width": "8", "train.batch": "6",
}  # fmt: skip
SIDE = 16
make_view = jax.jit(view, static_argnums=3)
loss_of = jax.jit(nt_xent)
STILL = Views(crop=1.0, ratio=1.0, colour=0.0, grey=0.0, blur=0.0, noise=0.0)


def numpy_nt_xent(a, b, tau):
  """[2002.05709 eq. 1], written out."""
  z, n = np.concatenate([a, b]).astype(np.float64), len(a)
  loss = np.zeros(2 * n)
  for i in range(2 * n):
    j = (i + n) % (2 * n)
    others = [np.exp(z[i] @ z[k] / tau) for k in range(2 * n) if k != i]
    loss[i] = -np.log(np.exp(z[i] @ z[j] / tau) / np.sum(others))
  return (loss[:n] + loss[n:]) / 2


def test_nt_xent_is_that_of_the_paper():
  a, b = np.random.default_rng(0).standard_normal((2, 5, 7))
  a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
  for tau in (0.1, 1.0):
    found = loss_of(jnp.float32(a), jnp.float32(b), tau, jnp.ones(5))
    np.testing.assert_allclose(found, numpy_nt_xent(a, b, tau), rtol=1e-5)
  weight = jnp.array([1, 0, 1, 1, 0.0])  # the loss of the others is that without these two
  kept = np.array([0, 2, 3])
  found = loss_of(jnp.float32(a), jnp.float32(b), 0.5, weight)
  np.testing.assert_allclose(found[kept], numpy_nt_xent(a[kept], b[kept], 0.5), rtol=1e-5)
  assert np.isfinite(found).all()


def test_a_view_without_changes_is_the_image():
  image = np.random.default_rng(1).uniform(-1, 1, (SIDE, SIDE, 3)).astype(np.float32)
  np.testing.assert_allclose(make_view(jax.random.key(0), image, STILL, SIDE), image, atol=1e-5)
  grey = np.asarray(make_view(jax.random.key(0), image, STILL._replace(grey=1.0), SIDE))
  np.testing.assert_allclose(grey, np.repeat(grey[..., :1], 3, axis=2), atol=1e-5)


def test_views_are_within_the_image_and_differ():
  """A ramp stays a ramp of values of the image; a flat image stays flat when it is blurred."""
  ramp = np.broadcast_to(np.linspace(-0.5, 0.5, SIDE, dtype=np.float32)[:, None, None], (16, 16, 3))
  how = STILL._replace(crop=0.3, ratio=1.5)
  rows = np.stack([make_view(jax.random.key(i), ramp, how, SIDE)[:, 0, 0] for i in range(20)])
  assert (np.diff(rows, axis=1) >= 0).all() and np.abs(rows).max() <= 0.5 + 1e-5
  heights = rows[:, -1] - rows[:, 0]
  assert heights.min() < 0.6 * heights.max() and np.unique(rows[:, 0].round(4)).size > 15
  even = np.full((SIDE, SIDE, 3), 0.25, np.float32)
  flat = make_view(jax.random.key(0), even, STILL._replace(blur=3.0), SIDE)
  np.testing.assert_allclose(flat, 0.25, atol=1e-5)


@pytest.fixture(scope="module")
def system():
  return make_system(load_config(CONFIG, TINY), Tokenizer.bytes())


def test_a_row_draws_its_own_views_and_the_loss_is_of_the_whole_batch(system):
  params = random_weights(system.abstract, 0.1)
  batch = make_batch(6, (16, 16, 3), encoders=())
  draws = Draws(jnp.zeros(6), jnp.arange(6), jax.random.key(3), {}, 0)
  loss = jax.jit(lambda batch, draws: system.losses(params, batch, draws)["image"])
  found = loss(batch, draws)
  assert found.shape == (6,) and np.isfinite(found).all()
  turned = batch._replace(images=batch.images[::-1])
  again = loss(turned, draws._replace(rows=draws.rows[::-1]))[::-1]
  np.testing.assert_allclose(again, found, rtol=1e-4)
  other = loss(batch, draws._replace(key=jax.random.key(4)))
  assert np.abs(other - found).max() > 1e-4


def test_features_of_images_of_any_size_and_number(system):
  params, images = random_weights(system.abstract, 0.1), make_batch(3, (16, 16, 3)).images[:, 0]
  tasks = system.tasks(None, make_mesh(1, 1, 1, devices=jax.devices()[:1]))
  found = tasks.embed(params, images)
  assert found.shape == (3, 64) and found.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
  np.testing.assert_allclose(tasks.embed(params, images[1:2])[0], found[1], atol=1e-5)
  assert tasks.embed(params, images[:, ::2, :12]).shape == (3, 64)
  views = tasks.views(images, 0)
  assert views.shape == (3, 8, 8, 3) and views.dtype == np.uint8
  np.testing.assert_array_equal(tasks.views(images, 0), views)
  assert (tasks.views(images, 1) != views).any()
  with pytest.raises(ConfigError, match=r"an encoder of images .*--encoder"):
    tasks.need("draw", "--workdir=here")


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"model.side": "10"}, "model.side = 10 is not a multiple of 4"),
    ({"train.objective": "denoising"}, "'denoising' is not one of nt_xent"),
    ({"train.objective": "nt_xent(temperature=0)"}, "temperature"),
    ({"train.views": "views(crop=0.0)"}, "crop"),
    ({"autoencoder": "vae"}, "'vae' is not one of"),
  ],
)
def test_configs_that_do_not_fit(changes, words):
  with pytest.raises(ConfigError, match=words):
    make_system(load_config(CONFIG, TINY | changes), Tokenizer.bytes())
