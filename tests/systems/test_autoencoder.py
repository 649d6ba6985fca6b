"""An autoencoder with weights: the part "vae" of a system, between images and what is diffused."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import make_batch
from toys import config_of, random_like, register, system_of

from t2i_jax.errors import ConfigError
from t2i_jax.parallel import make_mesh
from t2i_jax.systems.generate import Generator
from t2i_jax.systems.system import pixels, unit_range
from t2i_jax.training.optimizer import make_optimizers
from t2i_jax.training.state import abstract_params, abstract_state
from t2i_jax.training.step import make_train_step

SQUARES = {"autoencoder": "squares", "model.channels": "12"}
JOINT = {
  "data.image_size": "(16, 8)", "text.tokenizer": "bytes", "text.vocab": "261",
  "text.length": "16", "model.width": "32", "model.depth": "1", "model.heads": "2",
  "model.kv_heads": "2", "model.patch": "2", "rows.length": "64", "rows.images": "3",
  "sampling.batch": "2", "sampling.steps": "1", "sampling.solver": "euler",
}  # fmt: skip


@pytest.fixture(autouse=True)
def toys(monkeypatch):
  register(monkeypatch)


def vae(train):
  plain = {"start": "", "train": "all"}
  return {"backbone": plain, "vae": {"start": "", "train": train}}


def drawing(train="none"):
  return config_of(SQUARES, parts=vae(train) | {"text": {"start": "", "train": "all"}})


@pytest.fixture(scope="module")
def alone():
  return make_mesh(devices=jax.devices()[:1])


@pytest.mark.parametrize("train", ["none", "all"])
def test_a_step_trains_over_latents_and_leaves_a_frozen_autoencoder(train, alone):
  config = drawing(train)
  system = system_of(config)
  assert list(system.parts) == ["backbone", "text", "vae"]
  assert system.image_shape == (8, 8, 3) and system.x_shape == (4, 4, 12)
  optimizers = make_optimizers(config.train, system)
  state = random_like(abstract_state(system, optimizers, alone))
  state = state._replace(opt=optimizers.init(state.trainable))
  assert ("vae" in state.frozen) == (train == "none") != ("vae" in state.trainable)
  step = jax.jit(make_train_step(system, optimizers, config))
  after, metrics = step(state, make_batch(8, (8, 8, 3), 16))
  assert np.isfinite(float(metrics["loss"]))
  before, now = (s.trainable | s.frozen for s in (state, after))
  same = lambda part, name: np.array_equal(before[part][name], now[part][name])
  assert not same("backbone", "first") and same("vae", "scale") == (train == "none")


def test_what_is_drawn_is_decoded(alone):
  """The sampler's latents through the decoder, as pixels."""
  config = drawing()
  system = system_of(config)
  scale = jnp.linspace(0.4, 0.8, 12)
  params = random_like(abstract_params(system, alone)) | {"vae": {"scale": scale}}
  images = jnp.asarray(make_batch(2, (8, 8, 3)).images[:, 0])
  latents = system.encode(params, images)
  assert latents.shape == (2, 4, 4, 12)
  corner = unit_range(images)[:, 0, 0] * scale[:3]
  np.testing.assert_allclose(latents[:, 0, 0, :3], corner, atol=1e-6)
  np.testing.assert_array_equal(pixels(system.decode(params, latents)), images)

  drawn = system.tasks(config.sampling, alone).draw(params, ["a", "b"], [0, 1])
  assert drawn.shape == (2, 8, 8, 3) and drawn.dtype == np.uint8
  halved = params | {"vae": {"scale": 2 * scale}}
  less = system.tasks(config.sampling, alone).draw(halved, ["a", "b"], [0, 1])
  inside = (drawn > 0) & (drawn < 255)
  assert inside.mean() > 0.1
  want = (drawn.astype(float) / 127.5 - 1) / 2
  np.testing.assert_allclose(less[inside] / 127.5 - 1, want[inside], atol=0.02)


def test_channels_are_the_latents_own():
  with pytest.raises(ConfigError, match=r"model.channels = 3: latents of autoencoder = 'squares'"):
    system_of(config_of({"autoencoder": "squares"}, parts=vae("none")))
  with pytest.raises(ConfigError, match="autoencoder = 'vqgan': 'vqgan' is not one of identity"):
    system_of(config_of({"autoencoder": "vqgan"}))


def test_images_are_encoded_before_a_joint_model_reads_them(alone):
  """Those of a user, and those that it has drawn itself."""
  path = Path(__file__).parents[1] / "joint_config.py"
  config = config_of(SQUARES, path, JOINT, parts=vae("none"))
  system = system_of(config)
  assert system.image_shape == (16, 8, 3) and system.layout.patches == 8
  params = random_like(abstract_params(system, alone))
  generator = Generator(system, config.sampling, alone)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 16, 8, 3), dtype=np.uint8)
  _, cache = generator.start_with_image(params, images)

  model, ids = system.model(params), system.layout.ids
  first = np.tile(np.array([ids.bos, ids.boi], np.int32), (2, 1))
  _, before = generator.prefill(params, generator.empty(2), first, np.full(2, 2, np.int32))
  latents = system.encode(params, jnp.asarray(images))
  clean = system.process.at(system.process.on_grid(jnp.zeros(2))).model_time
  _, expected = jax.jit(lambda c: model.prefill_image(latents, clean, c, generator.places))(before)
  patches = slice(2, 2 + system.layout.patches)  # after BOS and BOI
  np.testing.assert_allclose(cache.k[:, :, patches], expected.k[:, :, patches], atol=1e-5)

  scale = {"scale": 2 * params["vae"]["scale"]}
  _, other = generator.start_with_image(params | {"vae": scale}, images)
  assert np.abs(other.k[:, :, patches] - cache.k[:, :, patches]).max() > 1e-3

  drawn = generator.draw(params, cache, None, np.array([0, 1], np.uint32), jnp.float32(1))
  assert drawn.shape == (2, 16, 8, 3)  # pixels, which are encoded again
  edited = generator.edit(params, images, ["ab", "c"], [0, 1])
  assert edited.shape == (2, 16, 8, 3) and edited.dtype == np.uint8
