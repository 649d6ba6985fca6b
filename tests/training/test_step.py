"""The step's arithmetic: accumulation, weights, dropout, EMA, freezing, optimisers, schedules."""

import functools
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from batches import make_batch

from t2i_jax.config import build, load_config
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.models.conditioning import drop_towers
from t2i_jax.systems import Part, make_system, merge_params, split_params
from t2i_jax.systems.system import row_keys
from t2i_jax.training.optimizer import SCHEDULES, make_optimizers
from t2i_jax.training.running import new_running
from t2i_jax.training.state import TrainState
from t2i_jax.training.step import draw_drops, make_train_step, make_validation_step

CONFIG = Path(__file__).parents[2] / "configs/scenes_dit_flow.py"
TINY = {
  "text.tokenizer": "bytes", "text.vocab": "300", "text.length": "8",
  "text.towers.text": "bag_of_words(width=16)",
  "model.width": "32", "model.heads": "2",
  "model.depth": "2", "train.batch": "16", "train.steps": "20",
  "train.schedule": "cosine(warmup=2)", "train.optimizer": "adamw",
}  # fmt: skip
TRANSFORMER = "transformer(width=16, depth=1, heads=2)"


@functools.cache
def initial(tower):
  """Weights of the model of these tests, which differ in how it is trained."""
  config = load_config(CONFIG, TINY | {"text.towers.text": tower})
  return jax.jit(make_system(config, Tokenizer.bytes()).init)(jax.random.key(1))


def setup(**overrides):
  named = {key.replace("__", "."): str(value) for key, value in overrides.items()}
  config = load_config(CONFIG, TINY | named)
  system = make_system(config, Tokenizer.bytes())
  optimizer = make_optimizers(config.train, system)
  trainable, frozen = split_params(initial(config.text.towers.text), system.parts)
  # Away from the initial zeros, so that every gradient is alive.
  trainable = jax.tree.map(lambda x: x + 0.02, trainable)
  state = TrainState(
    jnp.zeros((), jnp.int32),
    trainable,
    frozen,
    jax.jit(optimizer.init)(trainable),
    trainable,
    new_running(),
  )
  return config, system, optimizer, state


@functools.cache
def stepping(accumulate=1, optimizer="adamw"):
  """The compiled step, and a state; nothing is clipped."""
  config, system, tx, state = setup(
    train__accumulate=accumulate,
    train__optimizer=optimizer,
    train__clip=1e9,
    train__ema=0.999,
    train__lr=4e-3,
    train__steps=60,
  )
  return jax.jit(make_train_step(system, tx, config)), state


def gradient_norms(accumulate, data):
  step, state = stepping(accumulate)
  _, metrics = step(state, data)
  return [float(metrics[name]) for name in ("loss", "grad_norm")]


def test_accumulation_is_the_mean_over_the_rows_used():
  """Rows of weight 0 lie unevenly over the parts; a mean of the parts' means would differ."""
  weight = np.ones(16)
  weight[[0, 4, 8, 12, 1]] = 0
  data = make_batch(weight=weight)
  whole, parts = gradient_norms(1, data), gradient_norms(4, data)
  np.testing.assert_allclose(whole, parts, rtol=1e-4)
  junk = make_batch(weight=weight)
  junk.images[weight == 0] = 255  # what an unused row holds does not matter
  np.testing.assert_allclose(gradient_norms(4, junk), parts, rtol=1e-6)


def test_same_step_same_numbers_other_step_others():
  step, state = stepping()
  first, again = step(state, make_batch())[1]["loss"], step(state, make_batch())[1]["loss"]
  assert first == again
  assert first != step(state._replace(step=jnp.int32(5)), make_batch())[1]["loss"]


def test_row_keys_do_not_depend_on_the_make_batch():
  key = jax.random.key(0)
  many, few = row_keys(key, jnp.arange(10), 1), row_keys(key, jnp.array([7]), 1)
  assert jnp.array_equal(jax.random.key_data(many)[7], jax.random.key_data(few)[0])
  assert len(np.unique(jax.random.key_data(many), axis=0)) == 10
  assert not jnp.array_equal(
    jax.random.key_data(many), jax.random.key_data(row_keys(key, jnp.arange(10), 2))
  )


def test_captions_are_dropped_at_their_towers_rate():
  rates = {"clip": 0.1, "t5": 0.5, "kept": 0.0}
  drop = draw_drops(jax.random.key(2), jnp.arange(4000), rates)
  assert set(drop) == {"clip", "t5"}
  clip, t5 = np.asarray(drop["clip"]), np.asarray(drop["t5"])
  assert 0.08 < clip.mean() < 0.12 and 0.46 < t5.mean() < 0.54
  assert 0.035 < (clip & t5).mean() < 0.065  # independent
  again = draw_drops(jax.random.key(2), jnp.arange(7, 9), rates)
  np.testing.assert_array_equal(again["t5"], t5[7:9])


def test_a_dropped_caption_is_the_null():
  _, system, _, state = setup(text__towers__text=TRANSFORMER)
  params, data = state.trainable, make_batch(4)
  towers, nulls = system.towers(params, data.text), system.null(params).towers
  drop = jnp.array([True, False, True, False])
  mixed = drop_towers(towers, nulls, {"text": drop})["text"]
  null_ids, null_mask = system.text["text"].null
  assert null_mask.sum() == 2  # the encoding of "": begin and end
  ids, mask = data.text["text"]
  null = (jnp.where(drop[:, None], null_ids, ids), jnp.where(drop[:, None], null_mask, mask))
  expected = system.encode_text(params, {"text": null}).towers["text"]
  for got, want in zip(mixed, expected, strict=True):
    np.testing.assert_allclose(got, want, atol=1e-5)
  assert drop_towers(towers, nulls, {"t5": drop})["text"] is towers["text"]


@pytest.mark.newest
def test_ema_warms_up():
  step, state = stepping()
  new, _ = step(state, make_batch())
  decay = 2 / 11  # min(0.999, (1 + n) / (10 + n)) with n = 1
  expected = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, new.trainable)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.ema, expected)


def test_freezing():
  config, system, optimizer, state = setup(
    parts__text__train="none",
    parts__backbone__train="only(pattern='?[!a]*')",
    train__schedule="cosine",
  )
  assert list(state.frozen) == ["backbone", "text"] and list(state.frozen["backbone"]) == [
    "patch_in"
  ]
  new, _ = jax.jit(make_train_step(system, optimizer, config))(state, make_batch())
  jax.tree.map(np.testing.assert_array_equal, new.frozen, state.frozen)
  assert not jnp.array_equal(
    new.trainable["backbone"]["head"]["kernel"], state.trainable["backbone"]["head"]["kernel"]
  )
  whole = system.abstract
  merged = merge_params(state.trainable, state.frozen)
  assert jax.tree.structure(merged) == jax.tree.structure(whole)
  of = lambda backbone: {
    "backbone": system.parts["backbone"]._replace(train=backbone),
    "text": system.parts["text"],
  }
  with pytest.raises(ConfigError, match=r"parts.backbone.train = .*'blcks/\*'.* fits no weight"):
    split_params(whole, of("only(pattern='blcks/*')"))
  with pytest.raises(ConfigError, match="nothing is trained"):
    split_params(whole, of("none"))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_loss_falls_on_one_batch(optimizer):
  step, state = stepping(optimizer=optimizer)
  data, losses = make_batch(), []
  data.images[:] = data.images[:, :, :1, :1]  # plain images: white noise has nothing to learn
  for _ in range(60):
    state, metrics = step(state, data)
    losses.append(float(metrics["loss"]))
  assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


@pytest.mark.newest
@pytest.mark.parametrize(
  "optimizer, low, high",
  [("muon", 0.45, 1.2), ("muon(iteration='polar')", 0.73, 1.27)],
  ids=["keller", "polar"],
)
def test_muon_orthogonalises_the_matrices_and_only_them(optimizer, low, high):
  _, _, optimizer, state = setup(
    train__schedule="cosine", train__lr=1.0, train__vector_lr=1.0, train__optimizer=optimizer
  )
  grads = jax.tree.map(
    lambda x: jax.random.normal(jax.random.key(x.size), x.shape), state.trainable
  )
  updates, _ = jax.jit(optimizer.update)(grads, state.opt, state.trainable)
  up = updates["backbone"]["blocks"]["mlp"]["up"]["kernel"]  # [layers, D, F]
  singular = jnp.linalg.svd(up, compute_uv=False)
  assert float(singular.max() / singular.min()) < 2.5  # Newton-Schulz brings all near one value
  scaled = singular / (up.shape[2] / up.shape[1]) ** 0.5
  assert low < float(scaled.min()) and float(scaled.max()) < high
  gains = updates["backbone"]["blocks"]["attn"]["q_gain"]
  size = jnp.abs(gains)  # Adam's first step moves all alike
  np.testing.assert_allclose(size, jnp.full_like(gains, size.max()), rtol=1e-3)


def test_validation_is_the_same_number_in_any_batches():
  config, system, _, state = setup()
  of_terms = jax.jit(make_validation_step(system, config))
  step = lambda *args: of_terms(*args)["image"]
  params, data = merge_params(state.trainable, state.frozen), make_batch(16)
  whole = step(params, data, jnp.arange(16))
  halves = [
    step(params, jax.tree.map(lambda v, i=i: v[i : i + 8], data), jnp.arange(i, i + 8))
    for i in (0, 8)
  ]
  np.testing.assert_allclose(whole, halves[0] + halves[1], rtol=1e-4)
  np.testing.assert_array_equal(whole[1], [2] * 8)
  nothing = data._replace(image_weight=np.zeros((16, 1), np.float32))
  unused = step(params, nothing, jnp.arange(16))
  assert not np.any(unused)


def test_schedules():
  scheduled = lambda text, peak=1.0: build(SCHEDULES, text, "train.schedule", peak, 100)
  cosine = scheduled("cosine(warmup=10)")
  np.testing.assert_allclose([cosine(0), cosine(5), cosine(10), cosine(55)], [0, 0.5, 1, 0.5])
  assert float(cosine(100)) == pytest.approx(0, abs=1e-6)
  flat = scheduled("constant(warmup=10)", 2.0)
  np.testing.assert_allclose([flat(n) for n in (5, 50)], [1, 2])
  for text, words in (("linear", "constant, cosine"), ("cosine(warmup=100)", "leaves nothing")):
    with pytest.raises(ConfigError, match=words):
      scheduled(text)
  for text, words in (("sgd", "adamw, muon"), ("muon(iteration='qr')", "keller, polar")):
    with pytest.raises(ConfigError, match=words):
      setup(train__optimizer=text)


def test_clip_limits_what_the_optimiser_sees():
  config = load_config(CONFIG, TINY | {"train.clip": "0.5", "train.optimizer": "adamw"})
  part = Part(make=None)
  vector = SimpleNamespace(parts={"p": part}, matrices={"p": {"w": None}}, players={"m": ("p",)})
  tx = make_optimizers(config.train, vector)
  grads = {"p": {"w": jnp.full((4,), 10.0)}}
  state = tx.init(grads)
  clipped, _ = optax.clip_by_global_norm(0.5).update(grads, optax.EmptyState())
  _, state = tx.update(grads, state, grads)
  mu = next(x for x in jax.tree.leaves(state) if x.shape == (4,))
  np.testing.assert_allclose(mu, 0.1 * clipped["p"]["w"], rtol=1e-5)
