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

FORWARD = 1e-4
VOCAB, ROWS, LENGTH = 97, 3, 11
SHAPE = {
  "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 4,
  "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}


def qwen3(kind, **keys):
  config = transformers.Qwen3Config(**SHAPE, head_dim=12, **keys)
  return getattr(transformers, kind)(config)


def qwen2_5_vl():
  vision = {
    "depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2,
    "out_hidden_size": 32, "fullatt_block_indexes": [0],
  }  # fmt: skip
  text = {**SHAPE, "rope_parameters": MROPE}
  config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
  return transformers.Qwen2_5_VLForConditionalGeneration(config)


def mistral3():
  vision = {
    "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "head_dim": 8, "image_size": 28, "patch_size": 14,
  }  # fmt: skip
  text = {**SHAPE, "model_type": "mistral", "head_dim": 12, "rope_parameters": {"rope_theta": 1e9}}
  config = transformers.Mistral3Config(
    text_config=text, vision_config=vision, tie_word_embeddings=False
  )
  return transformers.Mistral3ForConditionalGeneration(config)


CASES = {
  "qwen3": functools.partial(qwen3, "Qwen3ForCausalLM"),
  "qwen3, tied": functools.partial(qwen3, "Qwen3ForCausalLM", tie_word_embeddings=True),
  "qwen3, no head": functools.partial(qwen3, "Qwen3Model"),
  "qwen2.5-vl": qwen2_5_vl,
  "mistral3": mistral3,
}


@functools.cache
def build(name):
  """The model of transformers, every weight off its initial value."""
  torch.manual_seed(0)
  model = CASES[name]().eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.2 * torch.randn_like(parameter))
  return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  @functools.cache
  def saved(name):
    path = tmp_path_factory.mktemp("text")
    build(name).save_pretrained(path)
    return path

  return saved


def text():
  """ids and mask [2 ROWS, LENGTH]: the same rows padded on the left, then on the right."""
  rng = np.random.default_rng(0)
  ids = np.tile(rng.integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32), (2, 1))
  pads, index = np.array([7, 3, 0])[:, None], np.arange(LENGTH)
  return ids, np.concatenate([index >= pads, index < LENGTH - pads])


def states(model, ids, mask):
  with torch.no_grad():
    found = model(
      input_ids=torch.tensor(ids.astype(np.int64)),
      attention_mask=torch.tensor(mask.astype(np.int64)),
      output_hidden_states=True,
      use_cache=False,
    )
  return [state.numpy() for state in found.hidden_states]


def distance(a, b):
  return float(np.max(np.abs(np.asarray(a) - b)) / np.max(np.abs(b)))


def encode(path, layers):
  ids, mask = text()
  module, config, params = load(path, layers=layers)
  return with_params(make_of(module, config))(params)(jnp.array(ids), jnp.array(mask)), params


@pytest.mark.parametrize("name", CASES)
def test_hidden_states_are_theirs_padding_included(name, folder):
  """Padding on both sides; at several layers, in any order."""
  want, layers = states(build(name), *text()), (2, 0, -1, -2)
  tower, _ = encode(folder(name), layers)
  assert len(want) == 5 and tower.tokens.shape == (2 * ROWS, LENGTH, 4 * 32)
  assert distance(tower.tokens, np.concatenate([want[layer] for layer in layers], -1)) < FORWARD
  assert tower.pooled is None


@pytest.mark.parametrize("layers", [(-2,), (1,)])
def test_later_layers_are_not_read(layers, folder):
  tower, params = encode(folder("qwen3"), layers)
  assert distance(tower.tokens, states(build("qwen3"), *text())[layers[0]]) < FORWARD
  last = layers[0] % 5
  assert {leaf.shape[0] for leaf in jax.tree.leaves(params["blocks"])} == {last}
  assert params.keys() == {"table", "blocks"}


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
  with pytest.raises(ConfigError, match="Copy the one"):
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
