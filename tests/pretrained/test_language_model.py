"""Folders of language models, written by hand: what is read, and every fault by its name."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t2i_jax.errors import ConfigError, MeshError, RestoreError
from t2i_jax.models.params import axes_of
from t2i_jax.models.positions import llama3_rope_scaling
from t2i_jax.models.transfusion import TransfusionConfig
from t2i_jax.parallel import make_mesh, shardings
from t2i_jax.pretrained import (
  fill,
  language_model_fields,
  load_language_model,
  save_language_model,
)
from t2i_jax.pretrained.language_specs import text_decoder
from t2i_jax.pretrained.spec import make_of

VOCAB, WIDTH, DEPTH, HEADS, KV, K, HIDDEN = 11, 16, 3, 4, 2, 6, 20
CONTENT = {
  "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": VOCAB,
  "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
  "num_key_value_heads": KV, "head_dim": K, "intermediate_size": HIDDEN, "rms_norm_eps": 1e-6,
  "rope_theta": 1000000, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
  "eos_token_id": [3, 4], "max_position_embeddings": 99,
}  # fmt: skip
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
STRETCHED = {
  "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
  "original_max_position_embeddings": 8192,
}  # fmt: skip
ONE, TABLE, HEAD = "model.safetensors", "model.embed_tokens.weight", "lm_head.weight"


def tensors():
  shapes = {TABLE: (VOCAB, WIDTH), HEAD: (VOCAB, WIDTH), "model.norm.weight": (WIDTH,)}
  for i in range(DEPTH):
    block = f"model.layers.{i}"
    shapes |= {
      f"{block}.self_attn.q_proj.weight": (HEADS * K, WIDTH),
      f"{block}.self_attn.k_proj.weight": (KV * K, WIDTH),
      f"{block}.self_attn.v_proj.weight": (KV * K, WIDTH),
      f"{block}.self_attn.o_proj.weight": (WIDTH, HEADS * K),
      f"{block}.self_attn.q_norm.weight": (K,),
      f"{block}.self_attn.k_norm.weight": (K,),
      f"{block}.mlp.gate_proj.weight": (HIDDEN, WIDTH),
      f"{block}.mlp.up_proj.weight": (HIDDEN, WIDTH),
      f"{block}.mlp.down_proj.weight": (WIDTH, HIDDEN),
      f"{block}.input_layernorm.weight": (WIDTH,),
      f"{block}.post_attention_layernorm.weight": (WIDTH,),
    }
  rng = np.random.default_rng(0)
  return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


@pytest.fixture
def write(tmp_path):
  """write(edit, key=value) -> the folder; edit(tensors) may change what is stored."""

  def make(edit=None, **keys):
    (tmp_path / "config.json").write_text(json.dumps(CONTENT | keys))
    stored = tensors()
    if edit is not None:
      edit(stored)
    save_file(stored, tmp_path / ONE)
    return tmp_path

  return make


def config_of(folder, **changes):
  fields = language_model_fields(folder) | changes
  return TransfusionConfig(**fields, patch=2, channels=3, out=3)


def fault(folder, **changes):
  with pytest.raises(RestoreError) as caught:
    load_language_model(folder, config_of(folder, **changes))
  return str(caught.value)


def test_every_tensor_lies_where_it_is_used(write):
  stored, folder = tensors(), write()
  found = load_language_model(folder, config_of(folder))
  assert found.keys() == {"table", "blocks", "gain", "head"}
  np.testing.assert_array_equal(found["table"], stored[TABLE])
  np.testing.assert_array_equal(found["head"], stored[HEAD].T)
  np.testing.assert_array_equal(found["gain"], stored["model.norm.weight"])
  for i in range(DEPTH):
    p = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), found["blocks"])
    there = lambda name, i=i: stored[f"model.layers.{i}.{name}.weight"]
    x = np.random.default_rng(i).standard_normal(WIDTH)
    same = lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    q, kv = p["attn"]["q"]["kernel"], p["attn"]["kv"]["kernel"]
    same(np.einsum("d,dnk->nk", x, q).ravel(), there("self_attn.q_proj") @ x)
    for slot, name in enumerate(("self_attn.k_proj", "self_attn.v_proj")):
      same(np.einsum("d,dnk->nk", x, kv[:, slot]).ravel(), there(name) @ x)
    for slot, name in enumerate(("mlp.gate_proj", "mlp.up_proj")):
      same(x @ p["mlp"]["up"]["kernel"][:, slot], there(name) @ x)
    y = np.random.default_rng(i).standard_normal(HIDDEN)
    same(y @ p["mlp"]["down"]["kernel"], there("mlp.down_proj") @ y)
    z, out = np.random.default_rng(i).standard_normal((HEADS, K)), p["attn"]["out"]["kernel"]
    same(np.einsum("nk,nkd->d", z, out), there("self_attn.o_proj") @ z.ravel())
    same(p["attn"]["q_gain"], there("self_attn.q_norm"))
    same(p["attn"]["k_gain"], there("self_attn.k_norm"))
    same(p["attn_gain"], there("input_layernorm"))
    same(p["mlp_gain"], there("post_attention_layernorm"))


@pytest.mark.newest
@pytest.mark.parametrize("tied", [False, True])
def test_born_sharded_with_new_tokens_as_the_mean(write, tied, monkeypatch):
  monkeypatch.setattr(fill, "ROWS", 4)  # several readings make one mean
  folder = write(lambda stored: tied and stored.pop(HEAD), tie_word_embeddings=tied)
  config = config_of(folder, vocab=16)
  mesh = make_mesh(2, 2, 2)
  found = load_language_model(folder, config, mesh)
  onto = shardings(axes_of(make_of(text_decoder, config)), mesh)
  jax.tree.map(lambda x, at: x.sharding.is_equivalent_to(at, x.ndim) or 1 / 0, found, onto)
  jax.tree.map(np.testing.assert_array_equal, found, load_language_model(folder, config))
  stored = tensors()
  rows_of = {TABLE: found["table"]} | ({} if tied else {HEAD: found["head"].T})
  for name, rows in rows_of.items():
    np.testing.assert_array_equal(rows[:VOCAB], stored[name])
    mean = stored[name].mean(axis=0, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(rows[VOCAB:], np.tile(mean, (5, 1)))
  with pytest.raises(MeshError, match="vocab = 11"):
    load_language_model(folder, config_of(folder), mesh)


def test_round_trip_from_a_mesh(write, tmp_path):
  """Into several files, of the whole tree of a Transfusion, with what the base says of tokens."""
  folder = write(rope_scaling=STRETCHED)
  config = config_of(folder, vocab=16)
  params = load_language_model(folder, config, make_mesh(2, 2, 2))
  whole = params | {"patch_in": {"kernel": np.zeros(3)}}
  save_language_model(tmp_path / "new", whole, config, base=folder, shard_bytes=2000)
  assert len(list((tmp_path / "new").glob("model-*-of-*.safetensors"))) > 3
  assert language_model_fields(tmp_path / "new") == language_model_fields(folder) | {"vocab": 16}
  again = load_language_model(tmp_path / "new", config)
  jax.tree.map(np.testing.assert_array_equal, params, again)
  content = json.loads((tmp_path / "new" / "config.json").read_text())
  assert content["eos_token_id"] == [3, 4] and content["max_position_embeddings"] == 99
  assert content["dtype"] == content["torch_dtype"] == "float32"
  assert content["rope_scaling"] == STRETCHED
  assert content["rope_parameters"] == STRETCHED | {"rope_theta": 1e6}


def test_save_refuses(write, tmp_path):
  folder = write()
  config = config_of(folder)
  params = load_language_model(folder, config)
  with pytest.raises(ConfigError, match=r"table is \(11, 16\) and should be \(12, 16\)"):
    save_language_model(tmp_path / "new", params, dataclasses.replace(config, vocab=12))
  with pytest.raises(ConfigError, match="head is missing"):
    save_language_model(tmp_path / "new", {k: v for k, v in params.items() if k != "head"}, config)
  odd = dataclasses.replace(config, qk_norm=False, heads=6, kv_heads=6)
  with pytest.raises(ConfigError, match=r"model\.width = 16 is not a multiple of model\.heads = 6"):
    save_language_model(tmp_path / "new", params, odd)
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
  "keys, words",
  [
    ({"architectures": ["GemmaForCausalLM"]}, ["GemmaForCausalLM", "LlamaForCausalLM, Qwen3For"]),
    ({"architectures": None}, ["architectures = None"]),
    ({"model_type": "mistral"}, ["model_type = 'mistral'"]),
    ({"attention_bias": True, "mlp_bias": True}, ["attention_bias = True", "mlp_bias = True"]),
    ({"hidden_act": "gelu"}, ["hidden_act = 'gelu'", "only 'silu'"]),
    ({"attention_dropout": 0.1}, ["attention_dropout = 0.1"]),
    ({"use_sliding_window": True, "sliding_window": 8}, ["use_sliding_window = True"]),
    ({"layer_types": ["full_attention", "sliding_attention"]}, ["layer_types", "sliding_att"]),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, ["rope_scaling = {'type': 'linear'"]),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, ["rope_parameters", "yarn"]),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, ["rope_scaling", "llama3"]),
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, ["partial_rot"]),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, ["full_attention"]),
    ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor = 0.5, which is not known"]),
    ({"quantization_config": {"bits": 4}}, ["quantization_config", "not known"]),
    ({"hidden_size": "x"}, ["hidden_size = 'x'"]),
    ({"num_attention_heads": 0, "head_dim": None}, ["does not make a Qwen3ForCausalLM"]),
    ({**LLAMA, "mlp_bias": True}, ["a LlamaForCausalLM with mlp_bias = True"]),
  ],
)
def test_configs_that_are_not_supported(write, keys, words):
  with pytest.raises(ConfigError) as caught:
    language_model_fields(write(**keys))
  for word in [*words, "config.json"]:
    assert word in str(caught.value)


def test_both_spellings_of_rotary_settings(write):
  read = lambda **keys: {
    name: language_model_fields(write(**keys))[name] for name in ("rope_theta", "rope_scaling")
  }
  plain = {"rope_theta": 1e6, "rope_scaling": ()}
  assert read() == read(rope_scaling={"type": "default"}) == plain
  assert read(rope_theta=5, rope_parameters={"rope_theta": 1e6}) == plain
  scaled = {"rope_theta": 1e6, "rope_scaling": (32.0, 1.0, 4.0, 8192.0)}
  assert read(rope_scaling=STRETCHED) == scaled
  assert read(rope_parameters=STRETCHED | {"rope_theta": 1e6}, rope_theta=None) == scaled


def test_places_of_llama3():
  """Against the rule, a frequency at a time."""
  frequency = 5e5 ** (-np.arange(32) / 32)
  for given, found in zip(frequency, llama3_rope_scaling(frequency, 8, 1, 4, 8192), strict=True):
    wavelength = 2 * np.pi / given
    part = (8192 / wavelength - 1) / (4 - 1)
    want = given if wavelength < 8192 / 4 else (1 - part) * given / 8 + part * given
    want = given / 8 if wavelength > 8192 else want
    assert found == pytest.approx(want, rel=1e-14)
  assert found == given / 8
  with pytest.raises(ConfigError, match=r"model\.rope_scaling = \(8\.0,\)"):
    TransfusionConfig(16, 2, 4, 2, 3, 3, 11, rope_scaling=(8.0,))


def test_a_config_of_another_model(write):
  folder = write()
  other = config_of(folder, vocab=9, depth=2, norm_eps=1e-5, kv_heads=0, tied=True)
  with pytest.raises(ConfigError) as caught:
    load_language_model(folder, other)
  for said in (
    "text.vocab = 9 is smaller than its 11 tokens", "model.depth = 2 is 3 there",
    "model.norm_eps = 1e-05 is 1e-06 there", "model.kv_heads = 4 is 2 there",
    "model.tied = True is False there",
  ):  # fmt: skip
    assert said in str(caught.value)
  assert "width" not in str(caught.value)


def test_faults_of_tensors_are_named_at_once(write):
  def edit(stored):
    del stored["model.norm.weight"]
    stored["model.layers.1.self_attn.q_proj.bias"] = np.zeros(24, np.float32)
    stored["model.layers.2.mlp.up_proj.weight"] = np.zeros((20, 15), np.float32)
    stored["model.layers.0.input_layernorm.weight"] = np.zeros(16, np.int32)

  message = fault(write(edit), vocab=16)
  assert "missing: model.norm.weight;" in message
  assert "not expected: model.layers.1.self_attn.q_proj.bias;" in message
  assert "model.layers.2.mlp.up_proj.weight is 20 x 15 and should be 20 x 16" in message
  assert "none of F32/F16/BF16: model.layers.0.input_layernorm.weight is I32" in message
  message = fault(write(lambda stored: stored.update({TABLE: np.zeros((10, 16), np.float32)})))
  assert f"{TABLE} is 10 x 16 and should be 11 x 16" in message


def test_not_finite(write):
  def edit(stored):
    stored[TABLE][4, 2] = np.nan
    stored["model.layers.1.mlp.down_proj.weight"][0, 0] = np.inf

  message = fault(write(edit), vocab=16)
  names = f"{TABLE}, model.layers.1.mlp.down_proj.weight"
  assert f"NaN or infinity, as float32, in {names}." in message


def test_what_follows_from_the_rest_is_left_out(write):
  """A tied head that is stored too, and the rotary frequencies of old folders."""

  def edit(stored):
    stored[HEAD] = stored[TABLE].copy()
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float32)

  folder = write(edit, tie_word_embeddings=True)
  assert "head" not in load_language_model(folder, config_of(folder))
  message = fault(write(tie_word_embeddings=True))
  assert f"{HEAD} differs from {TABLE}" in message and "tie_word_embeddings to false" in message


def test_folders_that_cannot_be_read(write, tmp_path):
  with pytest.raises(RestoreError, match="nothing is not a folder"):
    language_model_fields(tmp_path / "nothing")
  (tmp_path / "empty").mkdir()
  with pytest.raises(RestoreError, match=r"has no config\.json"):
    language_model_fields(tmp_path / "empty")
  folder = write()
  (folder / ONE).rename(folder / "pytorch_model.bin")
  message = fault(folder)
  assert f"has no {ONE}, but pytorch_model.bin" in message and "safetensors" in message


PUBLISHED = {
  "Llama-3.2-1B": (
    {**LLAMA, "head_dim": 64, "mlp_bias": False, "pretraining_tp": 1, "rope_scaling": STRETCHED,
     "rope_theta": 500000.0, "tie_word_embeddings": True, "hidden_size": 2048, "vocab_size": 128256,
     "intermediate_size": 8192, "num_attention_heads": 32, "num_hidden_layers": 16,
     "num_key_value_heads": 8, "rms_norm_eps": 1e-05},
    (128256, 2048, 16, 32, 8, 64, 8192, False, 500000.0, (32.0, 1.0, 4.0, 8192.0), 1e-05, True),
  ),
  "SmolLM2-135M": (
    {**LLAMA, "is_llama_config": True, "rope_interleaved": False, "rope_scaling": None,
     "rope_theta": 100000, "tie_word_embeddings": True, "hidden_size": 576, "vocab_size": 49152,
     "head_dim": None, "intermediate_size": 1536, "num_attention_heads": 9, "num_hidden_layers": 30,
     "num_key_value_heads": 3, "rms_norm_eps": 1e-05},
    (49152, 576, 30, 9, 3, 64, 1536, False, 100000.0, (), 1e-05, True),
  ),
  "Qwen3-0.6B": (
    {"head_dim": 128, "max_window_layers": 28, "use_sliding_window": False, "sliding_window": None,
     "rope_scaling": None, "rope_theta": 1000000, "tie_word_embeddings": True, "hidden_size": 1024,
     "vocab_size": 151936, "intermediate_size": 3072, "num_attention_heads": 16,
     "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06},
    (151936, 1024, 28, 16, 8, 128, 3072, True, 1e6, (), 1e-06, True),
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(write, name):
  keys, values = PUBLISHED[name]
  fields = language_model_fields(write(**keys))
  assert tuple(fields.values()) == values


def test_files_have_their_names(write, tmp_path):
  """What is written has the tensors of the folder it came from, and no others."""
  folder = write()
  config = config_of(folder)
  save_language_model(tmp_path / "new", load_language_model(folder, config), config)
  stored, new = load_file(folder / ONE), load_file(tmp_path / "new" / ONE)
  assert stored.keys() == new.keys()
  assert all((stored[name] == new[name]).all() for name in stored)
