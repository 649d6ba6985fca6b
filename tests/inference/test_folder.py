"""A published model's folder: opened, drawn from, described, refused. Written without torch."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from safetensors import safe_open

from benchmarks.tiny_folder import VAE, flux_folder, weights
from t2i_jax.cli.main import main
from t2i_jax.errors import ConfigError, NotFinite, PromptError, RestoreError
from t2i_jax.inference import coder_of, folder_config, nearest_size, open_pipeline
from t2i_jax.inference.folder import prepare
from t2i_jax.pretrained import load, open_folder
from t2i_jax.systems.parts import InTurn
from t2i_jax.systems.published import text_encoder
from t2i_jax.towers import Own

FEW = {"sampling.steps": "2", "sampling.batch": "2"}
SIZE = (16, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A FLUX.1 of a few thousand weights. Do not change it."""
  return flux_folder(tmp_path_factory.mktemp("published") / "tiny")


@pytest.fixture(scope="module")
def model(folder, one_device):
  return open_pipeline(folder, FEW, SIZE)


@pytest.mark.newest
def test_it_draws_and_parts_in_turn_draw_the_same(folder, model, one_device):
  prompts, seeds = ["a cat", "a red dog", "on"], [0, 1, 2]
  images = model.draw(prompts, seeds)
  assert images.shape == (3, *SIZE, 3) and images.dtype == np.uint8 and images.std() > 5
  in_turn = open_pipeline(folder, FEW, SIZE, in_turn=True)
  assert isinstance(in_turn.params, InTurn)
  np.testing.assert_array_equal(in_turn.draw(prompts, seeds), images)


def test_parts_in_turn_are_in_memory_one_group_at_a_time():
  read = []
  params = InTurn(("backbone", "text", "t5"), lambda name: read.append(name) or {name: 0})
  assert params.hold(("text", "t5", "none")) == {"text": {"text": 0}, "t5": {"t5": 0}}
  params.hold(("text",))
  assert read == ["text", "t5"] and set(params._held) == {"text"}
  assert params["backbone"] == {"backbone": 0} and set(params._held) == {"backbone"}
  assert list(params) == ["backbone", "text", "t5"] and len(params) == 3


def test_noise_and_latents(model):
  noise = np.random.default_rng(0).standard_normal((1, 8, 8, 4)).astype(np.float32)
  one, two = (model.draw(["a cat"], [seed], noise=noise, decode=False) for seed in (0, 1))
  assert one.shape == noise.shape and one.dtype == np.float32
  np.testing.assert_array_equal(one, two)  # the seed has no effect then
  decoded = model.system.decode(model.params, one)
  levels = np.clip(np.round((np.asarray(decoded) + 1) * 127.5), 0, 255)
  drawn = model.draw(["a cat"], [0], noise=noise)
  assert np.abs(levels - drawn).max() <= 1


def test_the_config_says_all_of_it(folder):
  c = folder_config(folder, SIZE)
  assert c.sampling.grid.startswith("dynamic(tokens=16,")
  assert (c.sampling.solver, c.sampling.steps, c.sampling.cfg) == ("euler", 28, 1.0)
  assert c.text.join == "one" and set(c.text.towers) == {"text_encoder", "text_encoder_2"}
  assert c.parts.text_encoder.start == f"folder:{folder}/text_encoder"
  assert folder_config(folder).data.image_size == (256, 256)  # 128 latents of factor 2


def test_the_verbs(folder, tmp_path, capsys, one_device):
  args = ["sample", f"--from={folder}", "--prompt=a cat", "--size=16x16", "--steps=2"]
  args[2] += " and a dog" * 40
  assert main([*args, f"--out={tmp_path}", "--dtype=bfloat16", "--offload", "--num=2"]) == 0
  assert "text_encoder takes 77 of its" in capsys.readouterr().err
  drawn = Image.open(tmp_path / "0001_seed1.png")
  assert drawn.size == (16, 16) and "FluxPipeline" not in drawn.text["config"]
  assert json.loads(drawn.text["config"])["model"]["dtype"] == "bfloat16"
  assert main(["describe", f"--from={folder}", "--size=16x16"]) == 0
  out = capsys.readouterr().out
  count = sum(leaf.size for leaf in jax.tree.leaves(weights(VAE)))
  assert f"{count:,} parameters" in out and "with --offload" in out


def test_a_long_caption_in_windows_of_clip(folder):
  given = {"system": "flux", "part": "text_encoder", "folder": str(folder)}
  encoder = text_encoder(Own(None, 0, 0), **given, length=2 * 77, too_long="chunk")
  ids, mask = encoder.encode(["cat " * 90])
  assert ids.shape == (1, 154) and (ids == 517).sum() >= 2 and mask.sum() == 90 + 4
  tower = encoder.make(nnx.Rngs(0))(ids, mask)
  assert tower.tokens.shape == (1, 154, 32)
  with pytest.raises(PromptError, match="has 180 tokens, of which 150"):
    encoder.encode(["cat " * 180])


def changed(folder, tmp_path, file, **keys):
  """A copy of the folder with keys of a JSON file changed."""
  copy = tmp_path / "copy"
  shutil.copytree(folder, copy)
  content = json.loads((copy / file).read_text())
  (copy / file).write_text(json.dumps(content | keys))
  return copy


@pytest.mark.parametrize("file, keys, words", [
  ("model_index.json", {"_class_name": "FluxFillPipeline"}, "The nearest is FluxPipeline"),
  ("model_index.json", {"text_encoder_2": [None, None]}, "names no text_encoder_2, which flux"),
  ("model_index.json", {"image_encoder": ["transformers", "X"]}, "no such folder"),
  ("scheduler/scheduler_config.json", {"_class_name": "KDPM2DiscreteScheduler"}, "is not one of"),
  ("scheduler/scheduler_config.json", {"use_wavelets": True}, "use_wavelets = True, which is not"),
  ("transformer/config.json", {"_class_name": "FooModel"}, "'FooModel' is not one of"),
  ("tokenizer/tokenizer_config.json", {"tokenizer_class": "FooTokenizer"}, "has no tokenizer.json"),
])  # fmt: skip
def test_a_wrong_folder_is_refused_by_name(folder, tmp_path, file, keys, words):
  with pytest.raises((RestoreError, ConfigError), match=words):
    open_pipeline(changed(folder, tmp_path, file, **keys), FEW, SIZE)


def test_missing_parts_are_named(folder, tmp_path):
  copy = changed(folder, tmp_path, "model_index.json")
  shutil.rmtree(copy / "vae")
  with pytest.raises(RestoreError, match="names vae, and there is no such folder"):
    folder_config(copy)
  with pytest.raises(RestoreError, match=r"no model_index.json\. Give the folder of a whole model"):
    folder_config(folder / "vae")


def test_another_models_tokenizer_is_named(folder, tmp_path):
  copy = changed(folder, tmp_path, "model_index.json")
  shutil.rmtree(copy / "tokenizer_2")
  shutil.copytree(copy / "tokenizer", copy / "tokenizer_2")
  with pytest.raises(ConfigError, match=r"tokenizer_2 has 518 ids, and .* embeddings of 32"):
    open_pipeline(copy, FEW, SIZE)


@pytest.mark.parametrize("flags, words", [
  (["--size=18x16"], "multiples of 4. Nearest: --size=16x16, which --round takes"),
  (["--too-long=chunk"], "a FluxPipeline takes no tokens of a CLIP"),
  (["--size=large"], "HEIGHTxWIDTH"),
  (["--step=3"], "--step belongs to --workdir"),
  (["--reference={image}"], "takes no reference images"),
  (["--prompt=" + "cat " * 99, "--too-long=error"], "has 101 tokens"),
])  # fmt: skip
def test_wrong_flags_are_named(folder, tmp_path, capsys, flags, words, one_device):
  image = tmp_path / "image.png"
  Image.new("RGB", (16, 16)).save(image)
  args = ["sample", f"--from={folder}", "--prompt=a cat", "--size=16x16", f"--out={tmp_path}"]
  assert main([*args, *(flag.format(image=image) for flag in flags)]) == 2
  assert words in capsys.readouterr().err


def test_flags_of_a_folder_need_one(capsys):
  assert main(["sample", "--workdir=nowhere", "--prompt=x", "--offload"]) == 2
  assert "--offload: only with --from" in capsys.readouterr().err
  config = "--config=configs/scenes_dit_flow.py"
  assert main(["describe", config, "--vae-dtype=bfloat16", "--round"]) == 2
  assert "--round, --vae-dtype: only with --from" in capsys.readouterr().err
  assert main(["sample", "--from=nowhere", "--prompt=x", "--round"]) == 2
  assert "--round belongs to --size" in capsys.readouterr().err


def test_attention_by_name(folder, model, tmp_path, capsys):
  overrides = FEW | {"model.attention": "by_head"}
  images = open_pipeline(folder, overrides, SIZE).draw(["a cat"], [0])
  assert np.abs(images.astype(int) - model.draw(["a cat"], [0])).max() <= 1
  command = ["sample", f"--from={folder}", "--prompt=x", f"--out={tmp_path / 'x.png'}"]
  assert main([*command, "--attention=flash"]) == 2
  assert "by_head" in capsys.readouterr().err


def test_the_part_and_module_that_give_nan_are_named(model):
  def drawn(part, path):
    *nodes, leaf = path.split("/")
    params = jax.tree.map(lambda array: array, model.params)
    node = params[part]
    for name in nodes:
      node = node[name]
    node[leaf] = node[leaf].at[0].set(jnp.inf)
    return dataclasses.replace(model, params=params).draw(["a cat"], [0])

  with pytest.raises(NotFinite, match=r'part "vae", decode: decoder/level_1 gives NaN'):
    drawn("vae", "decoder/level_1/first/res/conv1/bias")
  with pytest.raises(NotFinite, match='part "text_encoder_2" gives NaN'):
    drawn("text_encoder_2", "gain")
  with pytest.raises(NotFinite, match="The sampler leaves the range of numbers"):
    drawn("backbone", "head/bias")


def test_the_autoencoder_has_a_dtype_of_its_own(folder):
  how = {"autoencoder": coder_of(folder, "bfloat16", "smooth")}
  made = prepare(folder, how, SIZE, "bfloat16")
  config = made.system.autoencoder
  assert (config.activations, config.tiling) == ("bfloat16", "smooth")
  assert {leaf.dtype.name for leaf in jax.tree.leaves(made.abstract["vae"])} == {"float32"}
  assert prepare(folder, None, SIZE, "bfloat16").system.autoencoder.activations == "float32"


def test_sizes_are_rounded(folder):
  assert nearest_size(folder, (18, 1001)) == (16, 1000)
  assert nearest_size(folder, (1, 16)) == (4, 16)


def test_variants_are_read_where_there_is_no_plain_file(folder, tmp_path):
  copy = tmp_path / "vae"
  shutil.copytree(folder / "vae", copy)
  plain = copy / "diffusion_pytorch_model.safetensors"
  plain.rename(plain.with_suffix(".fp16.safetensors"))
  expected = load(folder / "vae")[2]
  jax.tree.map(np.testing.assert_array_equal, load(copy)[2], expected)
  shutil.copy(plain.with_suffix(".fp16.safetensors"), plain.with_suffix(".ema.safetensors"))
  with pytest.raises(RestoreError, match="and the variants ema, fp16: remove"):
    load(copy)
  plain.with_suffix(".ema.safetensors").unlink()
  sharded = copy / "diffusion_pytorch_model.fp16-00001-of-00001.safetensors"
  plain.with_suffix(".fp16.safetensors").rename(sharded)
  with safe_open(sharded, "numpy") as opened:
    index = {"weight_map": dict.fromkeys(opened.keys(), sharded.name)}
  (copy / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(index))
  jax.tree.map(np.testing.assert_array_equal, load(copy)[2], expected)


def test_a_whole_t5_is_read_as_its_encoder(folder, tmp_path):
  name = "text_encoder_2/config.json"
  copy = changed(folder, tmp_path, name, architectures=["T5ForConditionalGeneration"])
  assert open_folder(copy / "text_encoder_2")[1] == open_folder(folder / "text_encoder_2")[1]
