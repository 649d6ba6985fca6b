"""The text encoders of published folders: their config.json, and how many parameters they have."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_published import CONFIGS, random_params

from benchmarks.published_towers import PUBLISHED
from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.models import with_params
from t2i_jax.pretrained import load, read, save
from t2i_jax.pretrained.folder import load_like
from t2i_jax.pretrained.known import spec_for, spec_of
from t2i_jax.pretrained.spec import abstract_params, read_config, write_config


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_read(name):
  content, parameters = PUBLISHED[name]
  spec = spec_of(content, name)
  config = read_config(spec, content, name)
  params = abstract_params(spec.module, config)
  assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == parameters
  ids = jax.ShapeDtypeStruct((2, 77), jnp.int32)
  mask = jax.ShapeDtypeStruct((2, 77), jnp.bool_)
  tower = jax.eval_shape(
    lambda params, *given: with_params(config.make)(params)(*given, jnp.bfloat16),
    *(params, ids, mask),
  )
  assert tower.tokens.shape == (2, 77, config.widths["text_width"])
  pooled = config.widths.get("pooled_width")
  assert (None if tower.pooled is None else tower.pooled.shape) == (pooled and (2, pooled))
  assert spec_for(config) is spec
  assert read_config(spec, spec.header | write_config(spec, config), "ours") == config


def test_what_is_taken_is_not_stored_and_may_be_changed(tmp_path):
  """A folder fits a config that takes another layer of the same network, and no other network."""
  config = CONFIGS["clip_projected"]
  params = random_params(config)
  save(tmp_path / "new", config, params, dtype="bfloat16")
  content = json.loads((tmp_path / "new" / "config.json").read_text())
  assert content["architectures"] == ["CLIPTextModelWithProjection"]
  assert content["dtype"] == content["torch_dtype"] == "bfloat16"
  assert [path.name for path in (tmp_path / "new").glob("*.safetensors")] == ["model.safetensors"]
  changes = {"layer": -2, "normed": True, "pooled": "eos", "masked": True, "eos": 7}
  other = dataclasses.replace(config, **changes)
  assert load(tmp_path / "new", **changes)[1] == other
  found = load_like(tmp_path / "new", other)
  jax.tree.map(np.testing.assert_array_equal, found, load(tmp_path / "new")[2])
  with pytest.raises(ConfigError, match=r"width cannot be changed.*eos, layer, normed, pooled"):
    load(tmp_path / "new", width=64)
  with pytest.raises(ConfigError, match=r"model\.projection = 0 is 16 there"):
    read(tmp_path / "new", dataclasses.replace(other, projection=0), None)


def test_a_folder_that_masks_padding():
  """diffusers' pipelines mask where config.json has this key."""
  content, _ = PUBLISHED["Stable Diffusion 1.5"]
  spec = spec_of(content, "here")
  config = read_config(spec, content | {"use_attention_mask": True}, "here")
  assert config.masked and write_config(spec, config)["use_attention_mask"]
  assert not read_config(spec, content, "here").masked


@pytest.mark.parametrize(
  "name, keys, words",
  [
    ("Stable Diffusion 1.5", {"hidden_act": "silu"}, "hidden_act = 'silu', of which 'quick_gelu'"),
    ("Stable Diffusion 1.5", {"layer_norm_eps": 1e-6}, "layer_norm_eps = 1e-06, of which only"),
    ("Stable Diffusion 1.5", {"eos_token_id": [2]}, r"eos_token_id = \(2,\), which is not a posi"),
    ("Stable Diffusion 1.5", {"num_attention_heads": 7}, "width = 768 is not a multiple of"),
    ("SD3 text_encoder", {"projection_dim": None}, "projection_dim = None"),
    ("T5-v1.1-XXL", {"feed_forward_proj": "gated-silu"}, "feed_forward_proj = 'gated-silu'"),
    ("T5-v1.1-XXL", {"dense_act_fn": "gelu"}, "dense_act_fn = 'gelu', which is 'gelu_new'"),
    ("T5-v1.1-XXL", {"is_decoder": True}, "is_decoder = True, of which only False"),
    ("T5-v1.1-XXL", {"d_kv": 0}, "d_kv = 0, which is not a positive integer"),
    ("T5-v1.1-XXL", {"scalable_attention": True}, "scalable_attention = True, which is not known"),
    ("T5-v1.1-XXL", {"architectures": ["UMT5EncoderModel"]}, "'UMT5EncoderModel' is not one of"),
  ],
)
def test_configs_that_are_not_supported(name, keys, words):
  content = PUBLISHED[name][0] | keys
  with pytest.raises(RestoreError, match=words):
    read_config(spec_of(content, "here"), content, "here")
