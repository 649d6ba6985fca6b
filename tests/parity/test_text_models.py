"""Language models as text encoders beside transformers': hidden states, folders, both paddings."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.models.params import with_params
from t2i_jax.pretrained import load, open_folder, save
from t2i_jax.pretrained.folder import load_like
from t2i_jax.pretrained.spec import make_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from benchmarks.published_towers import LANGUAGE_MODELS  # noqa: E402
from benchmarks.tower_cases import (  # noqa: E402
  FORWARD,
  RATIO,
  ROWS,
  TEXT_LENGTH,
  distance,
  text,
)
from benchmarks.tower_cases import LANGUAGE_CASES as CASES  # noqa: E402
from benchmarks.tower_parity import bfloat16_errors, build, count, states  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  @functools.cache
  def saved(name):
    path = tmp_path_factory.mktemp("text")
    build(name).save_pretrained(path)
    return path

  return saved


def encode(path, layers):
  ids, mask = text()
  module, config, params = load(path, layers=layers)
  return with_params(make_of(module, config))(params)(jnp.array(ids), jnp.array(mask)), params


@pytest.mark.parametrize("name", CASES)
def test_hidden_states_are_theirs_padding_included(name, folder):
  """Padding on both sides; at several layers, in any order."""
  want, layers = states(build(name), text()), (2, 0, -1, -2)
  tower, _ = encode(folder(name), layers)
  assert len(want) == 5 and tower.tokens.shape == (2 * ROWS, TEXT_LENGTH, 4 * 32)
  assert distance(tower.tokens, np.concatenate([want[layer] for layer in layers], -1)) < FORWARD
  assert tower.pooled is None


@pytest.mark.parametrize("layers", [(-2,), (1,)])
def test_later_layers_are_not_read(layers, folder):
  tower, params = encode(folder("qwen3"), layers)
  assert distance(tower.tokens, states(build("qwen3"), text())[layers[0]]) < FORWARD
  last = layers[0] % 5
  assert {leaf.shape[0] for leaf in jax.tree.leaves(params["blocks"])} == {last}
  assert params.keys() == {"table", "blocks"}


@pytest.mark.proof
@pytest.mark.parametrize("name", CASES)
def test_bfloat16_loses_no_more_than_theirs(name, folder):
  """Of all hidden states after the embedding."""
  (found,) = bfloat16_errors(name, folder(name))
  assert 0 < found.ours <= RATIO * found.theirs


@pytest.mark.proof
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_published_sizes_have_these_tensors(name):
  """Without a weight: names and shapes of what is read."""
  _, whole, read = LANGUAGE_MODELS[name]
  assert count(name) == (whole, read, read)


def test_names_with_and_without_their_prefix(folder, tmp_path):
  """Qwen3Model with the prefix of Qwen3ForCausalLM, as published; Qwen2.5-VL as in memory."""
  _, config, params = load(folder("qwen3, tied"))
  content = json.loads((folder("qwen3, tied") / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(content | {"architectures": ["Qwen3Model"]}))
  (tmp_path / "model.safetensors").symlink_to(folder("qwen3, tied") / "model.safetensors")
  again = load(tmp_path)
  assert again[1] == config
  jax.tree.map(np.testing.assert_array_equal, again[2], params)


def test_the_older_config_of_qwen2_5_vl(folder, tmp_path):
  """Keys of the language model at the top level, mrope in the older spelling."""
  path = folder("qwen2.5-vl")
  content = json.loads((path / "config.json").read_text())
  old = content.pop("text_config") | content
  del old["rope_parameters"], old["layer_types"]
  old |= {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
  (tmp_path / "config.json").write_text(json.dumps(old))
  assert open_folder(tmp_path)[1] == open_folder(path)[1]


def test_they_are_not_written(folder, tmp_path):
  _, config, params = load(folder("qwen3"), layers=(2,))
  with pytest.raises(ConfigError, match="cannot be written: a text encoder holds"):
    save(tmp_path / "new", config, params)
  assert not (tmp_path / "new").exists()


def test_a_part_of_a_system_is_read_by_its_config(folder):
  _, config, params = load(folder("mistral3"), layers=(1, 3))
  again = load_like(folder("mistral3"), config)
  jax.tree.map(np.testing.assert_array_equal, again, params)
  with pytest.raises(ConfigError, match="from -5 to 4"):
    load(folder("mistral3"), layers=(5,))


@pytest.mark.parametrize(
  "keys, message",
  [
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "yarn"),
    ({"vision_feature": 3}, "vision_feature = 3, which is not known"),
    ({"layer_types": ["sliding_attention"] * 4}, "full_attention"),
  ],
)
def test_keys_that_are_not_supported(keys, message, folder, tmp_path):
  content = json.loads((folder("mistral3") / "config.json").read_text())
  content["text_config"] |= keys
  (tmp_path / "config.json").write_text(json.dumps(content))
  with pytest.raises(RestoreError, match=message):
    open_folder(tmp_path)
