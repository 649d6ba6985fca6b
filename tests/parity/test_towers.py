"""CLIP's and T5's encoders beside those of transformers: outputs, gradients, folders both ways."""

import copy
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_towers import PUBLISHED
from safetensors.numpy import load_file, save_file

from t2i_jax.errors import RestoreError
from t2i_jax.models.params import with_params
from t2i_jax.pretrained import SPECS, load, save
from t2i_jax.pretrained.known import spec_of
from t2i_jax.pretrained.names import stored_shapes
from t2i_jax.pretrained.spec import abstract_params, make_of, read_config, shapes_of
from t2i_jax.towers.t5 import relative_buckets

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FORWARD, GRADIENT, RATIO = 1e-4, 1e-3, 1.5  # the bounds
VOCAB, END, LENGTH = 99, 98, 14
CLIP = {
  "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 3,
  "num_attention_heads": 4, "max_position_embeddings": 16, "bos_token_id": 0, "projection_dim": 12,
}  # fmt: skip
T5 = {
  "vocab_size": VOCAB, "d_model": 32, "d_kv": 12, "d_ff": 44, "num_layers": 3, "num_heads": 4,
}  # fmt: skip
CASES = {
  "CLIP of SD 1": ("CLIPTextModel", CLIP | {"hidden_act": "quick_gelu", "eos_token_id": 2}),
  "CLIP of SD 2": ("CLIPTextModel", CLIP | {"hidden_act": "gelu", "eos_token_id": END}),
  "CLIP of SDXL": (
    "CLIPTextModelWithProjection", CLIP | {"hidden_act": "gelu", "eos_token_id": END},
  ),
  "T5 1.1": ("T5EncoderModel", T5 | {"feed_forward_proj": "gated-gelu"}),
  "T5": (
    "T5EncoderModel",
    T5 | {"feed_forward_proj": "relu", "relative_attention_num_buckets": 16,
          "relative_attention_max_distance": 10},
  ),
}  # fmt: skip
# Cheap enough for every run; the others are left to `make proof`.
LESS = {"CLIP of SD 2", "T5"}
MOST = [pytest.param(name, marks=[pytest.mark.proof] * (name in LESS)) for name in CASES]
CLIPS = [name for name in CASES if name.startswith("CLIP")]


def distance(a, b):
  a, b = (np.asarray(x, np.float64) for x in (a, b))
  return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


@functools.cache
def build(name):
  """The model of transformers, every weight off its initial value."""
  kind, keys = CASES[name]
  torch.manual_seed(0)
  config = (transformers.T5Config if kind.startswith("T5") else transformers.CLIPTextConfig)(**keys)
  model = getattr(transformers, kind)(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.2 * torch.randn_like(parameter))
  return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """folder(name) -> the folder that transformers writes. Do not change it."""
  root = tmp_path_factory.mktemp("towers")

  @functools.cache
  def written(name):
    build(name).save_pretrained(root / name)
    return root / name

  return written


def captions():
  """ids [3, 14], each with one end, and mask; padding is 0 or the end again."""
  ids = np.random.default_rng(1).integers(0, END, (3, LENGTH)).astype(np.int32)
  lengths = np.array([LENGTH, 9, 3])
  place = np.arange(LENGTH)
  ids = np.where(place < lengths[:, None], ids, np.array([[0], [END], [0]]))
  ids[np.arange(3), lengths - 1] = END
  return ids.astype(np.int32), place < lengths[:, None]


def theirs(model, masked=False, **how):
  """(tokens, pooled or None, hidden states)"""
  ids, mask = (torch.tensor(x.astype(np.int64)) for x in captions())
  given = {"attention_mask": mask} if masked else {}
  out = model(input_ids=ids, output_hidden_states=True, **given, **how)
  pooled = out.get("text_embeds", out.get("pooler_output"))
  return out.last_hidden_state, pooled, out.hidden_states


def ours(where, params=None, dtype=jnp.float32, **changes):
  module, config, stored = load(where, **changes)
  tower = with_params(make_of(module, config))
  call = jax.jit(lambda params, ids, mask: tower(params)(ids, mask, dtype))
  return call(stored if params is None else params, *captions())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_tokens_and_pooled_are_theirs(name, masked, folder):
  with torch.no_grad():
    tokens, pooled, _ = theirs(build(name), masked)
  tower = ours(folder(name), masked=masked)
  assert distance(tower.tokens, tokens) < FORWARD
  assert (tower.pooled is None) == (pooled is None)
  assert pooled is None or distance(tower.pooled, pooled) < FORWARD
  np.testing.assert_array_equal(tower.mask, captions()[1])


@pytest.mark.parametrize("layer", [-1, -2, pytest.param(-3, marks=pytest.mark.proof)])
def test_hidden_states_are_theirs(layer, folder):
  """As they are, and with the final norm, as clip_skip has them; the pooled vectors of both."""
  model, where = build("CLIP of SDXL"), folder("CLIP of SDXL")
  with torch.no_grad():
    _, projected, states = theirs(model)
    normed = model.text_model.final_layer_norm(states[layer])
    last = model.text_model.final_layer_norm(states[-1])
  ids, _ = captions()
  plain = ours(where, layer=layer, normed=False)
  assert distance(plain.tokens, states[layer]) < FORWARD
  assert distance(plain.pooled, projected) < FORWARD
  skipped = ours(where, layer=layer, normed=True, pooled="eos")
  assert distance(skipped.tokens, normed) < FORWARD
  ends = np.argmax(ids == END, axis=1)
  assert distance(skipped.pooled, last[np.arange(len(ids)), ends]) < FORWARD


@pytest.mark.parametrize("name", MOST)
def test_gradients_are_theirs(name, folder, tmp_path):
  """Of a scalar of tokens and pooled, by every weight: theirs go through a folder too."""
  model = copy.deepcopy(build(name))
  tokens, pooled, states = theirs(model)
  projected = name == "CLIP of SDXL"
  taken = states[-2] if projected else tokens
  (taken.sin().sum() + (0 if pooled is None else pooled.cos().sum())).backward()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.copy_(parameter.grad)
  model.save_pretrained(tmp_path)
  want = load(tmp_path)[2]

  module, config, params = load(folder(name), **({"layer": -2} if projected else {}))

  def scalar(params):
    tower = with_params(make_of(module, config))(params)(*captions())
    return jnp.sin(tower.tokens).sum() + (0 if pooled is None else jnp.cos(tower.pooled).sum())

  off = jax.tree.map(distance, jax.jit(jax.grad(scalar))(params), want)
  assert max(jax.tree.leaves(off)) < GRADIENT, off


@pytest.mark.parametrize("name", MOST)
def test_bfloat16_loses_no_more_than_theirs(name, folder):
  """Root mean squares of what is off the float32 outputs of transformers."""
  off = lambda found, exact: float(np.sqrt(np.mean(np.square(np.asarray(found - exact)))))
  with torch.no_grad():
    exact = [x.numpy() for x in theirs(build(name))[:2] if x is not None]
    narrow = theirs(copy.deepcopy(build(name)).to(torch.bfloat16))[:2]
    narrow = [x.float().numpy() for x in narrow if x is not None]
  tower = ours(folder(name), dtype=jnp.bfloat16)
  found = [x.astype(np.float32) for x in (tower.tokens, tower.pooled) if x is not None]
  for have, their, want in zip(found, narrow, exact, strict=True):
    assert 0 < off(have, want) <= RATIO * off(their, want)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_folders_come_back(name, dtype, tmp_path):
  """theirs -> ours -> theirs -> ours: weights bit for bit, and what config.json says of them."""
  model = copy.deepcopy(build(name)).to(getattr(torch, dtype))
  model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
  assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
  _, config, params = load(tmp_path / "theirs")
  save(tmp_path / "ours", config, params, dtype=dtype)
  back, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
  assert not any(info.values()), info
  state, new = model.state_dict(), back.state_dict()
  assert state.keys() == new.keys() and all(torch.equal(state[key], new[key]) for key in state)
  before, after = model.config.to_diff_dict(), back.config.to_diff_dict()
  unused = {"bos_token_id"} | ({"projection_dim"} if name in CLIPS[:2] else set())
  assert {key for key in before if before[key] != after[key]} <= unused
  assert after.keys() - before.keys() <= {"use_attention_mask"}
  back.save_pretrained(tmp_path / "again")
  again = load(tmp_path / "again")
  assert again[1] == config
  jax.tree.map(np.testing.assert_array_equal, params, again[2])


@pytest.mark.parametrize("name", CASES)
def test_names_of_older_files(name, folder, tmp_path):
  """With the prefix, with position ids, with the other name of an embedding, with a decoder."""
  content = json.loads((folder(name) / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(content))
  file, tensors = "model.safetensors", load_file(folder(name) / "model.safetensors")
  want = load(folder(name))[2]
  if name in CLIPS:
    tensors = {key.removeprefix("text_model."): leaf for key, leaf in tensors.items()}
    inner = {key: leaf for key, leaf in tensors.items() if key != "text_projection.weight"}
    inner["embeddings.position_ids"] = np.arange(16, dtype=np.int64)[None]
    outer = {key: leaf for key, leaf in tensors.items() if key not in inner}
    files = [outer | {to + key: leaf for key, leaf in inner.items()} for to in ("", "text_model.")]
  else:
    table = tensors.pop("shared.weight")
    other = tensors | {"encoder.embed_tokens.weight": table}
    more = ("shared.weight", "decoder.block.0.x", "lm_head.weight")
    files = [other, other | dict.fromkeys(more, table)]
  for stored in files:
    save_file(stored, tmp_path / file)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path)[2], want)
  if name not in CLIPS:
    save_file(files[1] | {"shared.weight": table + 1}, tmp_path / file)
    with pytest.raises(RestoreError, match=r"embed_tokens\.weight and shared\.weight differ"):
      load(tmp_path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_these_tensors(name):
  """Without a weight: names and shapes of the whole model on both sides."""
  content, parameters = PUBLISHED[name]
  spec = spec_of(content, name)
  kind = transformers.T5Config if spec.hf_class.startswith("T5") else transformers.CLIPTextConfig
  with torch.device("meta"):
    model = getattr(transformers, spec.hf_class)(kind(**content))
  assert sum(parameter.numel() for parameter in model.parameters()) == parameters
  theirs = {spec.renamed(key): tuple(leaf.shape) for key, leaf in model.state_dict().items()}
  config = read_config(spec, content, name)
  assert read_config(spec, model.config.to_diff_dict(), name) == config
  shapes = shapes_of(abstract_params(spec.module, config))
  assert stored_shapes(spec.entries(config), shapes) == theirs


@pytest.mark.parametrize("kind", ["CLIPText", "T5"])
def test_every_key_of_the_config_is_known_with_its_default(kind):
  name = {"CLIPText": "CLIPTextModel", "T5": "T5EncoderModel"}[kind]
  spec, defaults = SPECS[name], getattr(transformers, f"{kind}Config")().to_diff_dict()
  known = {**spec.header, **spec.keys, **spec.fixed, **spec.ignored}
  assert defaults.keys() <= known.keys() | set(spec.dropped)
  own = {"dense_act_fn", "is_gated_act", "is_encoder_decoder", "use_cache"}  # made of others
  compared = defaults.keys() & known.keys() - own
  assert {key: defaults[key] for key in compared if known[key] != defaults[key]} == {}


@pytest.mark.parametrize("buckets, max_distance", [(32, 128), (16, 10), (64, 256)])
def test_buckets_are_theirs(buckets, max_distance):
  from transformers.models.t5.modeling_t5 import T5Attention

  want = T5Attention._relative_position_bucket(
    torch.arange(1 - 512, 512), num_buckets=buckets, max_distance=max_distance
  )
  np.testing.assert_array_equal(relative_buckets(512, buckets, max_distance), want)
