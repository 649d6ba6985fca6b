"""Runs that have adapters as what another run starts from, and data that adapters cannot use."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.config import load_config
from t2i_jax.errors import ConfigError
from t2i_jax.inference import open_model
from t2i_jax.models.lora import Masks
from t2i_jax.systems.adapters import in_training, merged
from t2i_jax.systems.system import Draws
from t2i_jax.training import train
from t2i_jax.training.setup import set_up

ROOT = Path(__file__).resolve().parents[2]
FEW = {
  "train.steps": "2", "train.batch": "8", "train.lr": "3e-2", "checkpoint.every": "2",
  "eval.every": "0", "train.ema": "0.0",
}  # fmt: skip


def config_of(name, base, **changes):
  given = {key.replace("__", "."): value for key, value in changes.items()}
  return load_config(f"{ROOT}/configs/{name}.py:{base}", FEW | given)


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def adapted(base, easy_data, tmp_path_factory):
  """A run of adapters of the base."""
  to = tmp_path_factory.mktemp("adapted") / "lora"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
    train(config_of("lora", base / "base", data__dir=str(easy_data)), to)
  return to


def test_a_run_starts_from_weights_with_the_adapters_of_its_base_merged(
  base, adapted, easy_data, tmp_path, one_device
):
  """What the base draws is what the new run draws before its first step, and after it restores."""
  plain, merged = open_model(base / "base").params, open_model(adapted).params
  equal = jax.tree.map(np.array_equal, plain["backbone"], merged["backbone"])
  assert not all(jax.tree.leaves(equal))
  config = config_of("lora", adapted, data__dir=str(easy_data), train__lr="0.0", train__steps="1",
                     train__vector_lr="0.0")  # fmt: skip
  assert list(config.adapters) == ["lora"] and config.parts.backbone.start == f"run:{adapted}"
  train(config, tmp_path / "again")
  same(open_model(tmp_path / "again").params, merged)
  # On another mesh the product may differ in the last bit: the merged weights are kept.
  kept = open_model(tmp_path / "again").config
  train(config_of("lora", adapted, data__dir=str(easy_data), train__steps="2"), tmp_path / "again")
  assert kept.parts.backbone.train == "none"
  assert (tmp_path / "again/checkpoints/2/frozen").exists()
  assert not (adapted / "checkpoints/2/frozen").exists()


def test_new_words_stay_parts_of_their_own_and_are_learned_once(base, easy_data, tmp_path):
  given = {"data__dir": str(easy_data), "data__train_split": "train"}
  word = "words(of='text', tokens=('<ki>',), start='circle')"
  config = config_of("textual_inversion", base / "base", adapters__words_text=word, **given)
  train(config, tmp_path / "word")
  found = set_up(config_of("lora", tmp_path / "word", **given))
  system = found.system
  assert set(system.adapters) == {"lora", "words_text"}
  assert system.parts["words_text"].train == "none" and system.parts["lora"].train == "all"
  ids, _ = system.text["text"].encode(["a <ki>"])
  assert ids.max() == system.text["text"].tokenizer.first
  with pytest.raises(ConfigError, match=r"has adapters.words_text = .* are learned in one run"):
    config_of("textual_inversion", tmp_path / "word")


def test_a_run_of_controlnets_is_no_base(base, easy_data, tmp_path):
  config = load_config(f"{ROOT}/configs/scenes_controlnet.py:{base / 'base'}", {})
  (tmp_path / "net").mkdir()
  (tmp_path / "net/config.json").write_text(config.to_json())
  with pytest.raises(ConfigError, match=r"trains controlnet beside .*start from|that starts from"):
    config_of("lora", tmp_path / "net")


@pytest.mark.parametrize("kind", ["lora", "ablation_embedding"])
def test_what_is_drawn_in_training_has_the_adapters(base, easy_data, one_device, kind):
  given = {"train__objective": "denoising", "data__train_split": "train"}
  run = set_up(config_of(kind, base / "base", data__dir=str(easy_data), **given))
  plain = open_model(base / "base")
  own = run.system.init(jax.random.key(0))
  params = plain.params | {name: own[name] for name in run.system.adapters}
  for name in run.system.adapters:
    params[name] = jax.tree.map(lambda x: x + 0.3, params[name])
  texts = ["a red circle", "a blue square"]
  drawn = run.tasks.draw(params, texts, range(2)).astype(int)
  whole = plain.tasks.draw(merged(run.system, params), texts, range(2))
  # Of 255 levels; low-rank products are added in another order.
  assert np.abs(drawn - whole).max() <= 1
  assert np.abs(drawn - plain.draw(texts, range(2))).max() > 1


def test_dropout_is_of_training_alone(base, easy_data, one_device):
  choice = "lora(of='backbone', rank=4, dropout=0.5)"
  given = {"data__dir": str(easy_data), "adapters__lora": choice}
  system = set_up(config_of("lora", base / "base", **given)).system
  params = open_model(base / "base").params | {"lora": system.init(jax.random.key(0))["lora"]}
  params["lora"] = jax.tree.map(lambda x: x + 0.02, params["lora"])
  batch = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), system.rows(4))
  draws = Draws(jnp.full(4, 0.5), jnp.arange(4), jax.random.key(1), {}, 0)

  def run(key, rows):
    dropping = in_training(system, Masks(key, rows))
    return dropping.losses(params, batch, draws._replace(rows=rows))

  one, again, other = (
    jax.jit(run)(jax.random.key(seed), jnp.arange(4) + first)["image"]
    for seed, first in ((0, 0), (0, 1), (1, 0))
  )
  plain = system.losses(params, batch, draws)["image"]
  np.testing.assert_allclose(one[1:], again[:-1], rtol=1e-5)  # of a row's number, not its place
  assert np.all(np.abs(one - plain) > 1e-4) and np.all(np.abs(one - other) > 1e-4)
  with pytest.raises(ConfigError, match=r"dropout = 0.5: of = 'text'. Only adapters of the"):
    set_up(config_of("lora", base / "base", data__dir=str(easy_data),
                     adapters__lora="lora(of='text', dropout=0.5)"))  # fmt: skip
