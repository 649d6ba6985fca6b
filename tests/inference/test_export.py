"""Export without torch: what is copied, converted and written, and what is refused."""

import json
import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_published import random_params
from toys import CONFIGS, config_of, saved

from benchmarks import tiny_tokenizers
from t2i_jax import pretrained
from t2i_jax.autoencoders.kl import KLConfig
from t2i_jax.cli.main import main
from t2i_jax.config import fill
from t2i_jax.errors import ConfigError, RestoreError, WorkdirError
from t2i_jax.inference.card import card, licence_of
from t2i_jax.inference.convert import files_of
from t2i_jax.inference.export import export_folder, export_run
from t2i_jax.inference.folder import folder_config
from t2i_jax.models.flux import FluxConfig
from t2i_jax.towers import ClipConfig, T5Config

NETWORKS = {
  "transformer": FluxConfig(48, 1, 1, 4, 2, 4, 4, 48, (4, 4, 4), pooled_width=48, guidance=3.5),
  "text_encoder": ClipConfig(tiny_tokenizers.CLIP_VOCAB, 77, 48, 2, 4, 64, eos=517),
  "text_encoder_2": T5Config(tiny_tokenizers.T5_VOCAB, 48, 2, 4, 8, 64),
  "vae": KLConfig(widths=(8, 16), layers=1, groups=4, sample_size=32),
}
OTHERS = {
  "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
  "tokenizer": ["transformers", "CLIPTokenizer"],
  "tokenizer_2": ["transformers", "T5Tokenizer"],
  "feature_extractor": ["transformers", "CLIPImageProcessor"],
  "image_encoder": [None, None],
}
CARD = "---\nlicense: other\nlicense_name: a-licence\ntags:\n- x\n---\n# A model\n"
PIXART = {
  "data.image_size": "(16, 16)", "text.tokenizer": "bytes", "text.vocab": "264",
  "text.length": "16", "text.towers.text": "transformer(width=16, depth=1, heads=2, tokens=24)",
  "model.width": "48", "model.depth": "2", "model.heads": "4", "model.patch": "2",
  "model.channels": "4", "model.side": "8", "model.interpolation": "1.0", "model.sizes": "False",
  "train.batch": "8", "train.schedule": "constant", "sampling.batch": "8",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """A FLUX.1 of a few thousand parameters as diffusers saves it; T5 in several files."""
  folder = tmp_path_factory.mktemp("published") / "model"
  for name, config in NETWORKS.items():
    params = jax.tree.map(lambda leaf: 0.1 * leaf, random_params(config))
    limit = 30_000 if name == "text_encoder_2" else 5 * 10**9
    pretrained.save(folder / name, config, params, shard_bytes=limit)
  tiny_tokenizers.clip(folder / "tokenizer")
  tiny_tokenizers.t5(folder / "tokenizer_2")
  scheduler = {"_class_name": OTHERS["scheduler"][1], "shift": 3.0, "use_dynamic_shifting": True}
  classes = {name: json.loads((folder / name / "config.json").read_text()) for name in NETWORKS}
  index = {"_class_name": "FluxPipeline", "_diffusers_version": "0.30.0", **OTHERS}
  for name, content in classes.items():
    kind = content.get("_class_name")
    theirs = ["diffusers", kind] if kind else ["transformers", content["architectures"][0]]
    index[name] = theirs
  write(folder / "scheduler/scheduler_config.json", scheduler)
  write(folder / "feature_extractor/preprocessor_config.json", {"size": 224})
  write(folder / "vae/config.json", classes["vae"] | {"sample_size": 1024})
  write(folder / "model_index.json", index)
  (folder / "LICENSE.md").write_text("You may.")
  (folder / "README.md").write_text(CARD)
  (folder / "flux1-dev.safetensors").write_bytes(b"the original file, which no pipeline reads")
  return folder


def write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content))


def files(folder):
  paths = sorted(path for path in folder.rglob("*") if path.is_file())
  return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def run_config(folder, process=None, **trained):
  """The config of a run that starts from a folder;   trained: part -> config.parts.*.train"""
  config = folder_config(folder, (32, 32)).copy_and_resolve_references()
  with config.unlocked():
    for name, part in config.parts.items():
      part.train = trained.get(name, "none")
    config.process.update(process or {})
    config.train.update(optimizer="adamw", lr=1e-3, vector_lr=1e-3, schedule="constant", steps=2)
    config.train.update(batch=8, ema=0.9, caption_dropout={})
    config.checkpoint = {}
    fill(config, "the test")
  return config


def test_an_unchanged_model_is_copied_byte_for_byte(model, tmp_path, capsys):
  before, to = files(model), tmp_path / "new/copy"
  assert main(["export", f"--from={model}", f"--to={to}"]) == 0
  assert capsys.readouterr().out.strip() == str(to)
  found, left = files(to), {"README.md", "flux1-dev.safetensors"}
  assert {k: v for k, v in found.items() if k not in left} == {
    k: v for k, v in before.items() if k not in left
  }
  assert set(before) - set(found) == {"flux1-dev.safetensors"} and files(model) == before
  assert [path.name for path in to.parent.iterdir()] == ["copy"]
  text = found["README.md"].decode()
  assert text.startswith("---\nlicense: other\nlicense_name: a-licence\nlibrary_name: diffusers\n")
  assert "Licence: a-licence, as README.md of the source states." in text
  assert '"kind": "flux"' in text and "| vae | AutoencoderKL | those of the source |" in text


def test_weights_in_another_dtype_and_back(model, tmp_path):
  export_folder(model, tmp_path / "bf16", "bfloat16")
  export_folder(tmp_path / "bf16", tmp_path / "f32", "float32")
  export_folder(tmp_path / "bf16", tmp_path / "again", "bfloat16")
  less = lambda folder: {k: v for k, v in files(folder).items() if k != "README.md"}
  assert less(tmp_path / "again") == less(tmp_path / "bf16")
  for name in NETWORKS:
    stored = sorted((model / name).glob("*.safetensors"))
    assert len(stored) > 1 or name != "text_encoder_2"
    for path in stored:
      half, back = (load_file(tmp_path / to / name / path.name) for to in ("bf16", "f32"))
      for key, value in load_file(path).items():
        assert half[key].dtype == ml_dtypes.bfloat16 and back[key].dtype == np.float32
        np.testing.assert_array_equal(half[key], value.astype(ml_dtypes.bfloat16))
        np.testing.assert_array_equal(back[key], half[key].astype(np.float32))
  index = json.loads((tmp_path / "bf16/text_encoder_2/model.safetensors.index.json").read_text())
  old = json.loads((model / "text_encoder_2/model.safetensors.index.json").read_text())
  assert index["weight_map"] == old["weight_map"]
  assert 2 * index["metadata"]["total_size"] == old["metadata"]["total_size"]
  told = json.loads((tmp_path / "bf16/text_encoder/config.json").read_text())
  assert told["dtype"] == told["torch_dtype"] == "bfloat16"
  assert (tmp_path / "bf16/vae/config.json").read_bytes() == (
    model / "vae/config.json"
  ).read_bytes()
  assert (
    "text_encoder | CLIPTextModel | those of the source, as bfloat16"
    in (tmp_path / "bf16/README.md").read_text()
  )


def converted(folder, tensors, dtype="bfloat16", config=None, name="model.safetensors"):
  """A folder of one network, converted."""
  source, to = folder / "source", folder / "made"
  to.mkdir(parents=True, exist_ok=True)
  write(source / "config.json", config or {})
  save_file(tensors, source / name, {"format": "pt", "by": "someone"})
  (source / "model.fp16.safetensors").write_bytes(b"")
  (source / "pytorch_model.bin").write_bytes(b"")
  (source / "generation_config.json").write_text("{ }")
  found = files_of(source, "", dtype)
  for file in found:
    file.write(file.source, to / file.to)
  assert sum(f.size for f in found if f.to != name) == sum(
    p.stat().st_size for p in to.iterdir() if p.name != name
  )
  return to


def test_of_a_network_that_is_read_in_part_all_is_converted(tmp_path):
  """Whole numbers, scalars, names that no model here knows, dtypes of the models within."""
  floats = {
    "visual.x": np.float32([1.1, -2.2]),
    "s": np.array(3.3, np.float32),
    "h": np.float16([1.5]),
  }
  whole = {"n": np.array(7), "ids": np.arange(3, dtype=np.int32), "m": np.array([True])}
  config = {"torch_dtype": "float32", "text_config": {"dtype": "float16", "dtype_of": 1}}
  to = converted(tmp_path, floats | whole, config=config)
  assert sorted(path.name for path in to.iterdir()) == [
    "config.json", "generation_config.json", "model.safetensors"
  ]  # fmt: skip
  found = load_file(to / "model.safetensors")
  assert set(found) == set(floats | whole)
  for key, value in whole.items():
    np.testing.assert_array_equal(found[key], value)
    assert found[key].dtype == value.dtype
  for key, value in floats.items():
    np.testing.assert_array_equal(found[key], value.astype(ml_dtypes.bfloat16))
  assert json.loads((to / "config.json").read_text()) == {
    "torch_dtype": "bfloat16", "text_config": {"dtype": "bfloat16", "dtype_of": 1}
  }  # fmt: skip
  assert b'"by":"someone"' in (to / "model.safetensors").read_bytes()


def test_weights_that_are_not_converted(tmp_path):
  one = {"x": np.float32([1.0])}
  with pytest.raises(RestoreError, match=r"x has values beyond the range of float16"):
    converted(tmp_path / "a", {"x": np.float32([1e6])}, "float16")
  with pytest.raises(RestoreError, match=r"holds x \(F8_E4M3\), .* Leave out --dtype"):
    converted(tmp_path / "b", {"x": np.ones(2, ml_dtypes.float8_e4m3fn)})
  with pytest.raises(RestoreError, match="quantization_config: quantized weights"):
    converted(tmp_path / "c", one, config={"quantization_config": {}})
  with pytest.raises(RestoreError, match=r"no model.safetensors .* safe_serialization=True"):
    converted(tmp_path / "d", one, name="model.fp32.safetensors")
  source = tmp_path / "a/source"
  (source / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:-1])
  with pytest.raises(RestoreError, match=r"model.safetensors cannot be read: .* Copy it again"):
    files_of(source, "", "bfloat16")


def test_folders_and_flags_that_are_refused(model, tmp_path, monkeypatch, capsys):
  (tmp_path / "full").mkdir()
  (tmp_path / "full/x").touch()
  with pytest.raises(WorkdirError, match=r"--to=.*full is not empty. Choose another folder"):
    export_folder(model, tmp_path / "full")
  with pytest.raises(WorkdirError, match="is inside the source"):
    export_folder(model, model / "new")
  with pytest.raises(ConfigError, match="--dtype=int8 is not one of float32, float16, bfloat16"):
    export_folder(model, tmp_path / "new", "int8")
  with pytest.raises(ConfigError, match=r"--licence=mit: README\.md of the source states 'a-lic"):
    export_folder(model, tmp_path / "new", licence="mit")
  free = shutil.disk_usage(tmp_path)._replace(free=1000)
  with (
    monkeypatch.context() as patch,
    pytest.raises(WorkdirError, match=r"0\.000 GB free and 0\.00"),
  ):
    patch.setattr(shutil, "disk_usage", lambda _: free)
    export_folder(model, tmp_path / "new")
  with (
    monkeypatch.context() as patch,
    pytest.raises(WorkdirError, match="cannot be written: No sp"),
  ):
    patch.setattr(Path, "write_text", no_space)
    export_folder(model, tmp_path / "new")
  assert main(["export", f"--from={model}", f"--to={tmp_path / 'new'}", "--part=vae"]) == 2
  assert "--part, --format and --mesh belong to --workdir" in capsys.readouterr().err
  assert [path.name for path in tmp_path.iterdir()] == ["full"]


def no_space(*_):
  raise OSError("No space left")


def test_a_run_is_written_with_its_averaged_weights(model, tmp_path):
  before = files(model)
  _, state = saved(tmp_path / "run", run_config(model, backbone="all", vae="all"), step=2)
  export_run(tmp_path / "run", tmp_path / "out")
  found, again = files(tmp_path / "out"), files(model)
  assert again == before and set(found) == set(before) - {"flux1-dev.safetensors"}
  parts = {"backbone": "transformer", "vae": "vae"}
  trained = {f"{sub}/diffusion_pytorch_model.safetensors" for sub in parts.values()}
  changed = {name for name in found if found[name] != before[name]}
  assert changed - {"vae/config.json"} == trained | {"README.md"}
  # sample_size is no key that weights depend on: it is still the source's.
  assert json.loads(found["vae/config.json"]) == json.loads(before["vae/config.json"])
  for part, sub in parts.items():
    params = pretrained.load(tmp_path / "out" / sub)[2]
    jax.tree.map(np.testing.assert_array_equal, params, state.ema[part])
  text = found["README.md"].decode()
  assert "the averaged weights after 2 steps" in text and "trained, float32" in text
  assert "Training data" not in text

  export_run(tmp_path / "run", tmp_path / "half", "bfloat16")
  half = load_file(tmp_path / "half/transformer/diffusion_pytorch_model.safetensors")
  whole = load_file(tmp_path / "out/transformer/diffusion_pytorch_model.safetensors")
  for key, value in whole.items():
    np.testing.assert_array_equal(half[key], value.astype(ml_dtypes.bfloat16))
  text = load_file(tmp_path / "half/text_encoder/model.safetensors")
  assert {value.dtype for value in text.values()} == {np.dtype(ml_dtypes.bfloat16)}

  export_run(tmp_path / "run", tmp_path / "clip", part="text_encoder")
  own = {n.removeprefix("text_encoder/"): b for n, b in before.items() if n[:13] == "text_encoder/"}
  found = files(tmp_path / "clip")
  assert {name: found[name] for name in own} == own and set(found) == {*own, "README.md"}
  with pytest.raises(
    ConfigError, match="--part=unet is not one of backbone, text_encoder, text_en"
  ):
    export_run(tmp_path / "run", tmp_path / "new", part="unet")


def test_runs_that_are_no_published_model(model, tmp_path):
  config = config_of({}, CONFIGS / "pixart.py", PIXART)
  saved(tmp_path / "scratch", config, step=2)
  with pytest.raises(
    ConfigError,
    match=r"part 'text' cannot be written: a \w+ has no published layout; .* --part=backbone",
  ):
    export_run(tmp_path / "scratch", tmp_path / "out")
  export_run(tmp_path / "scratch", tmp_path / "out", part="backbone", licence="my own: 1")
  assert set(files(tmp_path / "out")) == {
    "README.md", "config.json", "diffusion_pytorch_model.safetensors"
  }  # fmt: skip
  assert 'license: "my own: 1"' in (tmp_path / "out/README.md").read_text()
  pretrained.load(tmp_path / "out")

  other = run_config(model, {"prediction": "x0"}, backbone="all")
  saved(tmp_path / "other", other, step=2)
  with pytest.raises(ConfigError, match=r"process.prediction = 'x0', and .* has 'velocity'"):
    export_run(tmp_path / "other", tmp_path / "new")
  assert not (tmp_path / "new").exists()


def test_the_card_says_where_licence_and_data_are_from(tmp_path):
  config = config_of({})
  rows = [("transformer", "X", "trained, float32")]
  text = card(config, licence_of(None), rows, "a run.", "ab12")
  assert "license: unknown" in text and "Licence: unknown. The source states none" in text
  assert "manifest.json with the SHA-256 ab12" in text
  (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
  assert licence_of(tmp_path, "mit").keys == {"license": "mit"}
  (tmp_path / "README.md").write_text("license: mit\n")
  assert licence_of(tmp_path, "mit").said == "mit, as it was given for this export."
