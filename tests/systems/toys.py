"""Systems that compile in a second: a linear backbone, an exact autoencoder, a checkpoint."""

import inspect
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t2i_jax.autoencoders import AUTOENCODERS
from t2i_jax.config import load_config
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.models import BACKBONES, Answer
from t2i_jax.models.params import fan_in, ones, weight
from t2i_jax.parallel import make_mesh
from t2i_jax.systems import make_system
from t2i_jax.training.checkpoint import Meta
from t2i_jax.training.checksum import fingerprint
from t2i_jax.training.optimizer import make_optimizers
from t2i_jax.training.restore import copied_parts, load_starts
from t2i_jax.training.save import Saver
from t2i_jax.training.state import abstract_params, abstract_state

CONFIGS = Path(__file__).parents[2] / "configs"
# Of configs/scenes_dit_flow.py: a DiT of two blocks under a bag of words.
TINY_DIT = {
  "data.image_size": "(16, 16)", "text.tokenizer": "bytes", "text.vocab": "264",
  "text.length": "40", "text.towers.text": "bag_of_words(width=16)", "model.width": "16",
  "model.heads": "2", "model.depth": "2", "model.patch": "4", "process.prediction": "velocity",
  "train.optimizer": "adamw",
}  # fmt: skip
TINY = {
  "data.image_size": "(8, 8)", "text.tokenizer": "bytes", "text.vocab": "264",
  "text.length": "16", "text.towers.text": "bag_of_words(width=16)",
  "model.kind": "toy", "model.width": "16", "model.heads": "1", "model.depth": "1",
  "model.patch": "1", "train.batch": "8", "train.steps": "20", "train.optimizer": "adamw",
  "train.schedule": "constant", "sampling.batch": "8", "sampling.steps": "2",
  "sampling.solver": "euler",
}  # fmt: skip


@dataclass(frozen=True)
class ToyConfig:
  """The fields that every backbone has. The loss "size" comes from inside the model."""

  width: int
  depth: int
  heads: int
  patch: int
  channels: int
  out: int
  text_width: int
  text: str = "cross"
  remat: str = "none"
  attention: str = "xla"
  layers = 1


@dataclass(frozen=True)
class SizedConfig(ToyConfig):
  """Its model returns an inner loss."""

  @property
  def inner_losses(self):
    return {"size": 0.25}


class Toy(nnx.Module):
  """x_t [B, H, W, C], a pixel at a time, and the sum of the means of all encoders' tokens."""

  def __init__(self, config, rngs):
    c = self.config = config
    self.first = weight(rngs, (c.channels, c.width), (None, "embed"), fan_in(c.channels))
    both = ((0,), (1,))
    self.middle = weight(rngs, (c.width, c.width), ("embed", "mlp"), fan_in(c.width), both)
    self.words = weight(rngs, (c.text_width, c.width), (None, "embed"), fan_in(c.text_width))
    self.last = weight(rngs, (c.width, c.out), ("embed", None), fan_in(c.width))

  def __call__(self, x_t, t, cond, control=None):
    x = jnp.tanh(x_t @ self.first[...]) @ self.middle[...]
    for tower in cond.towers.values():
      real = tower.mask[..., None]
      mean = jnp.sum(tower.tokens * real, axis=1) / jnp.sum(real, axis=1)
      x = x + (mean @ self.words[...])[:, None, None]
    out = jnp.tanh(x) @ self.last[...]
    sized = isinstance(self.config, SizedConfig)
    return Answer(out, {"size": jnp.mean(jnp.square(x), axis=(1, 2, 3))} if sized else {}, {})


@dataclass(frozen=True)
class SquaresConfig:
  """Squares of 2 x 2 pixels as 12 channels, each times a weight; exact."""

  channels: int

  def image_shape(self, height, width):
    return (height, width, 3)

  def latent_shape(self, image_shape):
    return (image_shape[0] // 2, image_shape[1] // 2, 12)

  def make(self, rngs):
    return Squares(rngs)


class Squares(nnx.Module):
  def __init__(self, rngs):
    self.scale = weight(rngs, (12,), (None,), lambda key, shape: 0.5 * ones(key, shape))

  def encode(self, image, key=None):
    b, h, w, _ = image.shape
    squares = image.reshape(b, h // 2, 2, w // 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(b, h // 2, w // 2, 12) * self.scale[...]

  def decode(self, z):
    b, h, w, _ = z.shape
    squares = (z / self.scale[...]).reshape(b, h, w, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(b, 2 * h, 2 * w, 3)


def register(monkeypatch):
  """The toys by name, as long as the monkeypatch lasts."""
  monkeypatch.setitem(BACKBONES, "toy", (Toy, ToyConfig))
  monkeypatch.setitem(BACKBONES, "sized", (Toy, SizedConfig))
  monkeypatch.setitem(AUTOENCODERS, "squares", SquaresConfig)


def config_of(changes=None, path=CONFIGS / "scenes_dit_flow.py", tiny=TINY, **sections):
  """The locked config of a toy.   sections: config.parts, text_towers, ... set whole"""
  config = load_config(path, tiny | (changes or {}))
  with config.unlocked():
    if config.model.kind in ("toy", "sized"):  # which have fewer keys than the file's model
      known = {"kind", "dtype", *inspect.signature(ToyConfig).parameters}
      for key in set(config.model) - known:
        del config.model[key]
    for name, section in sections.items():
      place, _, key = name.rpartition("__")
      (config[place] if place else config)[key] = section
  return config


def system_of(config):
  return make_system(config, Tokenizer.bytes())


def random_like(abstract, seed=0):
  """Normal numbers in the shapes and shardings of a tree; integers are 0."""
  rng = np.random.default_rng(seed)

  def fill(leaf):
    host = np.zeros(leaf.shape, leaf.dtype)
    if np.issubdtype(leaf.dtype, np.floating):
      host = 0.3 * rng.standard_normal(leaf.shape, np.float32) + 0.01
    return jax.device_put(host, leaf.sharding)

  return jax.tree.map(fill, abstract)


def saved(workdir, config, step=1, seed=0, data=""):
  """A work directory with a checkpoint of random weights, nothing compiled: (system, state).

  data  hash of the manifest of what it says that it was trained on
  """
  system = system_of(config)
  mesh = make_mesh()
  abstract = abstract_state(system, make_optimizers(config.train, system), mesh)
  state = random_like(abstract, seed)._replace(step=jnp.int32(step))
  starts = load_starts(system, abstract_params(system, mesh))
  frozen = {name: starts.get(name, tree) for name, tree in state.frozen.items()}
  state = state._replace(frozen=frozen)
  copied = copied_parts(system, config.checkpoint.frozen, frozen, starts)
  meta = Meta(config, Tokenizer.bytes(), step * 8, fingerprint(frozen), copied, data)
  saver = Saver(workdir, keep=3)
  saver.save(state, meta)
  saver.close()
  return system, state
