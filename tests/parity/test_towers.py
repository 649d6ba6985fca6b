"""CLIP's, T5's, BERT's encoders beside transformers': outputs, gradients, folders both ways."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from cases import here
from safetensors.numpy import load_file, save_file

from t2i_jax.errors import RestoreError
from t2i_jax.pretrained import SPECS, load
from t2i_jax.pretrained.known import spec_of
from t2i_jax.pretrained.names import stored_shapes
from t2i_jax.pretrained.spec import abstract_params, read_config, shapes_of
from t2i_jax.towers.t5 import relative_buckets

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from benchmarks.published_towers import LANGUAGE_MODELS, PUBLISHED  # noqa: E402
from benchmarks.tower_cases import (  # noqa: E402
  CASES,
  END,
  FORWARD,
  GRADIENT,
  RATIO,
  Case,
  captions,
  distance,
)
from benchmarks.tower_parity import (  # noqa: E402
  ENCODERS,
  OTHERS,
  bfloat16_errors,
  build,
  model_of,
  ours,
  slopes,
  theirs,
  trip,
)

# CLIP of SD 3 is that of SD 1 with the projection of SDXL.
CASES_HERE = here(CASES, CASES.keys() - {"CLIP of SD 3"})
# Cheap enough for every run; the others are left to `make proof`.
MOST = here(CASES, CASES.keys() - {"CLIP of SD 2", "CLIP of SD 3", "T5"})
CLIPS = [name for name in CASES if name.startswith("CLIP")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """folder(name) -> the folder that transformers writes. Do not change it."""
  root = tmp_path_factory.mktemp("towers")

  @functools.cache
  def written(name):
    build(name).save_pretrained(root / name)
    return root / name

  return written


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", CASES_HERE)
def test_tokens_and_pooled_are_theirs(name, masked, folder):
  with torch.no_grad():
    tokens, pooled, _ = theirs(build(name), captions(), masked)
  tower = ours(folder(name), captions(), masked=masked)
  assert distance(tower.tokens, tokens) < FORWARD
  assert (tower.pooled is None) == (pooled is None)
  assert pooled is None or distance(tower.pooled, pooled) < FORWARD
  np.testing.assert_array_equal(tower.mask, captions()[1])


@pytest.mark.parametrize("layer", [-1, -2, pytest.param(-3, marks=pytest.mark.proof)])
def test_hidden_states_are_theirs(layer, folder):
  """As they are, and with the final norm, as clip_skip has them; the pooled vectors of both."""
  model, where = build("CLIP of SDXL"), folder("CLIP of SDXL")
  with torch.no_grad():
    _, projected, states = theirs(model, captions())
    normed = model.text_model.final_layer_norm(states[layer])
    last = model.text_model.final_layer_norm(states[-1])
  ids, _ = captions()
  plain = ours(where, captions(), layer=layer, normed=False)
  assert distance(plain.tokens, states[layer]) < FORWARD
  assert distance(plain.pooled, projected) < FORWARD
  skipped = ours(where, captions(), layer=layer, normed=True, pooled="eos")
  assert distance(skipped.tokens, normed) < FORWARD
  ends = np.argmax(ids == END, axis=1)
  assert distance(skipped.pooled, last[np.arange(len(ids)), ends]) < FORWARD


@pytest.mark.parametrize("name", MOST)
def test_gradients_are_theirs(name, folder):
  """Of a scalar of tokens and pooled, by every weight."""
  found = slopes(name, folder(name))
  assert max(found.values()) < GRADIENT, found


@pytest.mark.parametrize("name", MOST)
def test_bfloat16_loses_no_more_than_theirs(name, folder):
  found = bfloat16_errors(name, folder(name))
  assert len(found) == 1 + (not name.startswith("T5"))
  assert all(0 < off.ours <= RATIO * off.theirs for off in found), found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES_HERE)
def test_folders_come_back(name, dtype, tmp_path):
  """theirs -> ours -> theirs -> ours: weights bit for bit, and what config.json says of them."""
  found = trip(name, tmp_path, dtype)
  assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
  assert not any(found.problems.values()), found.problems
  assert found.equal
  before, after = found.model.config.to_diff_dict(), found.back.config.to_diff_dict()
  unused = {"bos_token_id"} | ({"projection_dim"} if CASES[name].kind == "CLIPTextModel" else set())
  unused |= {"pad_token_id"} if name == "BERT" else set()
  assert {key for key in before if before[key] != after[key]} <= unused
  assert after.keys() - before.keys() <= {"use_attention_mask"}
  found.back.save_pretrained(tmp_path / "again")
  again = load(tmp_path / "again")
  assert again[1] == found.config
  jax.tree.map(np.testing.assert_array_equal, found.params, again[2])


@pytest.mark.parametrize("name", CASES_HERE)
def test_names_of_older_files(name, folder, tmp_path):
  """With the prefix, with position ids, with the other name of an embedding, with a decoder; norms
  as TensorFlow names them, with a head."""
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
  elif name == "BERT":
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, before in old.items():
      tensors = {key.replace(new, before): leaf for key, leaf in tensors.items()}
    positions = {"embeddings.position_ids": np.arange(16, dtype=np.int64)[None]}
    headed = {f"bert.{key}": leaf for key, leaf in (tensors | positions).items()}
    files = [tensors | positions, headed | {"cls.predictions.bias": np.zeros(3, np.float32)}]
  else:
    table = tensors.pop("shared.weight")
    other = tensors | {"encoder.embed_tokens.weight": table}
    more = ("shared.weight", "decoder.block.0.x", "lm_head.weight")
    files = [other, other | dict.fromkeys(more, table)]
  for stored in files:
    save_file(stored, tmp_path / file)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path)[2], want)
  if name.startswith("T5"):
    save_file(files[1] | {"shared.weight": table + 1}, tmp_path / file)
    with pytest.raises(RestoreError, match=r"embed_tokens\.weight and shared\.weight differ"):
      load(tmp_path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_these_tensors(name):
  """Without a weight: names and shapes of the whole model on both sides."""
  content, parameters = PUBLISHED[name]
  spec = spec_of(content, name)
  with torch.device("meta"):
    model = model_of(Case(spec.hf_class, content))
  assert sum(parameter.numel() for parameter in model.parameters()) == parameters
  theirs = {spec.renamed(key): tuple(leaf.shape) for key, leaf in model.state_dict().items()}
  config = read_config(spec, content, name)
  assert read_config(spec, model.config.to_diff_dict(), name) == config
  shapes = shapes_of(abstract_params(spec.module, config))
  assert stored_shapes(spec.entries(config), shapes) == theirs


@pytest.mark.parametrize("kind", ["CLIPText", "T5", "Bert"])
def test_every_key_of_the_config_is_known_with_its_default(kind):
  name = {"T5": "T5EncoderModel"}.get(kind, f"{kind}Model")
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


def test_page_has_every_row():
  page = (Path(__file__).parents[2] / "docs" / "parity_towers.md").read_text()
  assert {row.of for row in ENCODERS} == PUBLISHED.keys() | LANGUAGE_MODELS.keys()
  for start in (*(f"{row.name} | {row.used}" for row in ENCODERS), *OTHERS):
    assert f"| {start} |" in page
