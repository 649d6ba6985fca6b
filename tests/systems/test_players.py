"""Several players: each learns from its own terms alone, with its own parts and optimiser."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from batches import make_batch
from flax import nnx
from toys import config_of, register, system_of

from t2i_jax.autoencoders import IdentityConfig
from t2i_jax.models.params import fan_in, weight
from t2i_jax.process import PROCESSES
from t2i_jax.systems import Draws, Part, System, Term
from t2i_jax.systems.make import make_mixing
from t2i_jax.systems.system import flat_images, image_counts, unit_range
from t2i_jax.training.optimizer import Optimizers
from t2i_jax.training.running import new_running
from t2i_jax.training.state import TrainState
from t2i_jax.training.step import make_train_step


class Linear(nnx.Module):
  def __init__(self, rngs):
    self.kernel = weight(rngs, (3,), (None,), fan_in(3))


@dataclass(frozen=True)
class Adversaries(System):
  """A generator that turns an image into another, and a discriminator that scores images."""

  @property
  def terms(self):
    return {
      "image": Term(2.0, image_counts, "generator"),
      "deceived": Term(0.5, image_counts, "generator"),
      "told": Term(1.0, image_counts, "discriminator"),
    }

  @property
  def players(self):
    return {"generator": ("generator",), "discriminator": ("discriminator",)}

  def losses(self, params, batch, draws):
    x = unit_range(flat_images(batch))
    made = x * params["generator"]["kernel"]
    score = lambda image: jnp.mean(image**2 @ params["discriminator"]["kernel"], axis=(1, 2))
    return {
      "image": jnp.mean(jnp.square(made - 0.5), axis=(1, 2, 3)),
      "deceived": -score(made),
      "told": jax.nn.softplus(score(made)) + jax.nn.softplus(-score(x)),
    }


SGD = {"generator": optax.sgd(0.1), "discriminator": optax.sgd(0.03)}


def adversaries(config):
  make = lambda rngs: Linear(rngs)
  return Adversaries(
    parts={"generator": Part(make), "discriminator": Part(make)},
    process=PROCESSES["flow"](),
    mixing=make_mixing(config.process, 1),
    text={},
    autoencoder=IdentityConfig(3),
    image_shape=(8, 8, 3),
    dtype=jnp.float32,
  )


@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_each_player_s_gradient_is_that_of_its_own_loss_by_its_own_parts(accumulate, monkeypatch):
  register(monkeypatch)
  config = config_of({"train.accumulate": accumulate})
  system = adversaries(config)
  optimizers = Optimizers(SGD, system.players)
  params = {
    "generator": {"kernel": jnp.array([0.5, -0.2, 1.0])},
    "discriminator": {"kernel": jnp.array([0.3, 0.1, -0.4])},
  }
  state = TrainState(jnp.int32(0), params, {}, optimizers.init(params), params, new_running())
  step = jax.jit(make_train_step(system, optimizers, config))
  weight = np.array([1, 1, 0, 1, 1, 1, 1, 0])

  def loss_of(own, player, params, batch):
    values = system.losses(params | own, batch, None)
    mean = lambda name: jnp.sum(values[name] * weight) / weight.sum()
    return sum(t.weight * mean(name) for name, t in system.terms.items() if t.player == player)

  for i in range(3):
    batch = make_batch(8, (8, 8, 3), weight=weight, seed=i)
    before = state.trainable
    state, metrics = step(state, batch)
    losses = []
    for player, rate in (("generator", 0.1), ("discriminator", 0.03)):
      own = {player: before[player]}
      loss, grads = jax.value_and_grad(loss_of)(own, player, before, batch)
      moved = (before[player]["kernel"] - state.trainable[player]["kernel"]) / rate
      np.testing.assert_allclose(moved, grads[player]["kernel"], rtol=2e-3, atol=1e-5)
      losses.append(loss)
    np.testing.assert_allclose(metrics["loss"], sum(losses), rtol=1e-5)
    assert {"loss_image", "loss_deceived", "loss_told"} <= set(metrics)


def test_a_loss_from_inside_the_model_counts_with_its_weight(monkeypatch):
  register(monkeypatch)
  config = config_of({"model.kind": "sized"})
  system, plain = system_of(config), system_of(config_of())
  assert system.terms["size"] == Term(0.25, image_counts)
  params = jax.jit(system.init)(jax.random.key(0))
  batch = make_batch(8, (8, 8, 3), 16)
  draws = Draws(jnp.linspace(0.1, 0.9, 8), jnp.arange(8), jax.random.key(1), {}, 0)
  found, without = system.losses(params, batch, draws), plain.losses(params, batch, draws)
  np.testing.assert_allclose(found["image"], without["image"], rtol=1e-6)
  assert found["size"].shape == (8,) and np.all(found["size"] > 0)

  optimizers = Optimizers({"model": optax.sgd(0.1)}, system.players)
  state = TrainState(jnp.int32(0), params, {}, optimizers.init(params), params, new_running())
  metrics = jax.jit(make_train_step(system, optimizers, config))(state, batch)[1]
  expected = metrics["loss_image"] + 0.25 * metrics["loss_size"]
  np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)


def test_every_text_encoder_gets_the_tokens_of_its_own_length(monkeypatch):
  register(monkeypatch)
  plain = {"start": "", "train": "all"}
  config = config_of(
    text__towers={"a": "bag_of_words(width=16)", "b": "transformer(width=16, depth=1, heads=1)"},
    parts={"backbone": plain, "a": plain, "b": plain},
    train__caption_dropout={"a": 0.5, "b": 0.0},
  )
  system = system_of(config)
  assert list(system.parts) == ["backbone", "a", "b"] and system.droppable == ("a", "b")
  assert list(system.rows(4).text) == ["a", "b"]
  params = jax.jit(system.init)(jax.random.key(0))
  batch = make_batch(4, (8, 8, 3), 16, encoders=("a", "b"))
  kept = {"a": jnp.zeros(4, bool)}
  draws = Draws(jnp.full(4, 0.5), jnp.arange(4), jax.random.key(1), kept, 0)
  losses = jax.jit(system.losses)
  whole = losses(params, batch, draws)["image"]
  for name in ("a", "b"):
    other = batch.text[name]._replace(ids=batch.text[name].ids[::-1])
    changed = losses(params, batch._replace(text=batch.text | {name: other}), draws)["image"]
    assert np.all(np.abs(changed - whole) > 1e-7)
  dropped = losses(params, batch, draws._replace(drop={"a": jnp.array([True] * 2 + [False] * 2)}))
  differs = np.abs(dropped["image"] - whole) > 1e-7
  assert differs.tolist() == [True, True, False, False]
