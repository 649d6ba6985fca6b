"""Every choice of config.process trains: the step is finite, moves, and refuses what cannot be."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import make_batch
from cases import here
from weights import random_weights

from t2i_jax.config import leaves, load_config
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.process import WEIGHTINGS
from t2i_jax.process.timesteps import dynamic_factor
from t2i_jax.systems import make_system, split_params
from t2i_jax.training.optimizer import make_optimizers
from t2i_jax.training.running import new_running
from t2i_jax.training.state import TrainState
from t2i_jax.training.step import make_train_step, make_validation_step

CONFIG = Path(__file__).parents[2] / "configs/scenes_dit_flow.py"
TINY = {
  "text.tokenizer": "bytes", "text.vocab": "300", "text.length": "8",
  "text.towers.text": "bag_of_words(width=16)",
  "model.width": "16", "model.heads": "2",
  "model.depth": "1", "train.batch": "8", "train.steps": "20",
  "train.schedule": "cosine", "data.image_size": "(16, 16)", "train.optimizer": "adamw",
}  # fmt: skip
DDPM = {"process.kind": "ddpm_cosine", "process.timesteps": "uniform"}
CLASSIFIER = {"model.kind": "classifier"}
CHOICES = {
  "edm": {
    "process.kind": "edm", "process.prediction": "edm(sigma_data=0.5)", "process.weighting": "edm",
    "process.timesteps": "edm",
  },
  "learned variance": DDPM | {
    "process.prediction": "eps(learned_variance=True)", "process.weighting": "eps",
  },
  "zero terminal SNR": {
    "process.kind": "ddpm_scaled_linear(zero_terminal_snr=True, between='angle')",
    "process.prediction": "v", "process.weighting": "min_snr(gamma=5)",
    "process.timesteps": "uniform",
  },
  "score": {"process.kind": "vp", "process.prediction": "score", "process.weighting": "eps"},
  "all at once": {
    "process.prediction": "velocity", "process.timesteps": "mode(scale=1.29)",
    "process.shift": "dynamic", "process.t_sampling": "('stratified', 'importance')",
    "process.penalty": "huber(delta=0.1)", "train.accumulate": "2",
    "process.noise": "gaussian(offset=0.1, perturbation=0.1)",
  },
  "classifier": CLASSIFIER,
}  # fmt: skip


def setup(changes):
  path = CONFIG.with_stem("scenes_classifier") if changes == CLASSIFIER else CONFIG
  has = leaves(load_config(path))
  config = load_config(path, {k: v for k, v in (TINY | changes).items() if k in has})
  system = make_system(config, Tokenizer.bytes())
  optimizer = make_optimizers(config.train, system)
  trainable, frozen = split_params(random_weights(system.abstract, 0.05), system.parts)
  opt = jax.jit(optimizer.init)(trainable)
  state = TrainState(jnp.zeros((), jnp.int32), trainable, frozen, opt, trainable, new_running())
  return config, system, optimizer, state


def batch():
  return make_batch(8, (16, 16, 3))


@pytest.mark.newest
@pytest.mark.parametrize("name", here(CHOICES, ("learned variance", "all at once", "classifier")))
def test_two_steps_are_finite_and_move_every_weight(name):
  config, system, optimizer, state = setup(CHOICES[name])
  step = jax.jit(make_train_step(system, optimizer, config))
  after = state
  for _ in range(2):
    after, metrics = step(after, batch())
  assert all(np.isfinite(float(value)) for value in metrics.values()), metrics
  moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state.trainable, after.trainable)
  assert all(jax.tree.leaves(moved)), moved
  loss = np.asarray(after.running["loss"])
  assert loss.sum() > 0 and np.all(np.isfinite(loss))
  assert ("noise_scale" in metrics) == (config.train.accumulate > 1)
  validate = jax.jit(make_validation_step(system, config))
  sums = validate(after.trainable, batch(), jnp.arange(8))["image"]
  np.testing.assert_allclose(sums[1], 1)  # eight rows, eight bins
  assert np.all(np.isfinite(sums))


def test_every_weighting_is_a_choice():
  for name in WEIGHTINGS:
    config = load_config(CONFIG, {"process.weighting": name, "text.tokenizer": "bytes"})
    assert callable(make_system(config, Tokenizer.bytes()).weighting)


def test_the_shift_is_of_the_pictures_own_tokens():
  _, system, _, _ = setup({"process.shift": "dynamic(base_tokens=1, max_tokens=9)"})
  assert system.mixing.shift == pytest.approx(dynamic_factor(4, 0.5, 1.15, 1, 9))  # 16 px / 8
  u = jnp.array([0.25, 0.5, 0.75])
  flat = setup({"process.shift": "static(factor=3)", "process.timesteps": "uniform"})[1]
  np.testing.assert_allclose(flat.mixing.t_of(u), 3 * u / (1 + 2 * u), rtol=1e-6)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"process.prediction": "edm(learned_variance=True)"}, "edm takes sigma_data=0.5, not"),
    ({"process.t_sampling": "even"}, "'even' is not one of stratified, importance"),
    (
      {"process.prediction": "x0(learned_variance=True)"},
      "needs training steps, and flow has none",
    ),
    ({"process.prediction": "eps"}, "does not determine x0 at t = 1, where flow has alpha = 0"),
    (
      {"process.kind": "ddpm_cosine(zero_terminal_snr=True)", "process.prediction": "v"},
      "requires between='angle'",
    ),
    ({"process.timesteps": "mode(scale=3)"}, "scale = 3"),
    ({"process.weighting": "min_snr(gama=5)"}, "min_snr takes gamma=5.0, not 'gama'"),
    ({"model.kind": "vit"}, "model.kind = 'vit' is not one of dit, class_dit, pixart"),
  ],
)
def test_what_does_not_go_together_is_refused(changes, message):
  with pytest.raises(ConfigError) as error:
    setup(changes)
  assert message in str(error.value)
