"""Files of the original layout of Stable Diffusion: the weights of its folder, faults by name."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from tiny_published import in_the_authors_layout

from benchmarks.golden_pipelines import SIDE, load, write_folder
from benchmarks.original_files import save
from t2i_jax.cli.main import main
from t2i_jax.errors import RestoreError
from t2i_jax.inference import starts_in_file
from t2i_jax.inference.folder import prepare
from t2i_jax.pretrained import open_folder
from t2i_jax.pretrained.single_file import ORIGINALS
from t2i_jax.training.restore import load_starts

PIPELINES = Path(__file__).parents[1] / "inference" / "pipelines"
OPEN = "cond_stage_model.model."
ENCODERS = {
  "sd1": {"text_encoder": "cond_stage_model.transformer."},
  "sdxl": {
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
  },
  "sdxl_refiner": {"text_encoder_2": "conditioner.embedders.0.model."},
}


def made(name, tmp_path, encoders=None):
  """The folder of a pipeline, and its file."""
  folder = write_folder(load(PIPELINES / f"{name}.npz"), tmp_path / "model")
  return folder, save(folder, encoders or ENCODERS[name], tmp_path / "x.safetensors")


def without_weights(folder):
  for path in folder.rglob("*.safetensors"):
    path.unlink()


def weights(folder, overrides):
  how = prepare(folder, overrides, (SIDE, SIDE))
  return load_starts(how.system, how.abstract)


def changed(path, change):
  """The file with its tensors changed."""
  tensors = load_file(path)
  change(tensors)
  save_file(tensors, path)


@pytest.mark.parametrize(
  "name, encoders",
  [
    ("sd1", None),
    ("sd1", {"text_encoder": OPEN}),
    *((name, None) for name in ("sdxl", "sdxl_refiner")),
  ],
)
def test_a_file_has_the_weights_of_its_folder(name, encoders, tmp_path, one_device):
  folder, path = made(name, tmp_path, encoders)
  if encoders:  # of Stable Diffusion 2, with the block and the projection that it does not use
    more = {f"{OPEN}transformer.resblocks.3.ln_1.bias": np.zeros(32, np.float32)}
    more[f"{OPEN}text_projection"] = np.zeros((32, 16), np.float32)
    changed(path, lambda tensors: tensors.update(more))
  expected = weights(folder, {})
  without_weights(folder)
  starts = starts_in_file(folder, path)
  assert starts["parts.vae.start"] == f"file:{path}"
  jax.tree.map(np.testing.assert_array_equal, expected, weights(folder, starts))


def test_parts_that_a_file_lacks_are_those_of_the_folder(tmp_path, one_device):
  folder, path = made("sd1", tmp_path)
  expected = weights(folder, {})

  def only_unet(tensors):
    for name in [name for name in tensors if not name.startswith("model.")]:
      tensors.pop(name)

  changed(path, only_unet)
  assert list(starts_in_file(folder, path)) == ["parts.backbone.start"]
  jax.tree.map(
    np.testing.assert_array_equal, expected, weights(folder, starts_in_file(folder, path))
  )


@pytest.mark.parametrize("name", ["flux", "sd3_without_T5"])
def test_a_transformer_alone(name, tmp_path, one_device):
  folder = write_folder(load(PIPELINES / f"{name}.npz"), tmp_path / "model")
  expected = weights(folder, {})
  config = open_folder(folder / "transformer")[1]
  original = next(one for one in ORIGINALS if isinstance(config, one.spec.config))
  tensors = in_the_authors_layout(original, config, expected["backbone"])
  tensors |= {key: buffer.full() for key, buffer in original.spec.buffers(config).items()}
  save_file(tensors, tmp_path / "x.safetensors")
  without_weights(folder / "transformer")
  starts = starts_in_file(folder, tmp_path / "x.safetensors")
  assert list(starts) == ["parts.backbone.start"]
  jax.tree.map(np.testing.assert_array_equal, expected, weights(folder, starts))


def test_faults_are_named(tmp_path, one_device):
  folder, path = made("sd1", tmp_path)
  starts = starts_in_file(folder, path)
  changed(path, lambda t: t.pop("model.diffusion_model.middle_block.1.norm.bias"))
  wrong = r"\(backbone\) does not match the UNet2DCondition.*: missing: middle_block.1.norm.bias"
  with pytest.raises(RestoreError, match=wrong):
    weights(folder, starts)
  other, sdxl = made("sdxl", tmp_path / "other")
  with pytest.raises(RestoreError, match=r"has text_encoder_2, which the model of .* has not"):
    starts_in_file(folder, sdxl)
  with pytest.raises(RestoreError, match="is not a file"):
    starts_in_file(folder, tmp_path / "no.safetensors")
  save_file({"a": np.zeros(1, np.float32)}, path)
  with pytest.raises(RestoreError, match=r"has a: no names that begin with model\.diff"):
    starts_in_file(folder, path)
  with pytest.raises(RestoreError, match=r"has no vae: it holds backbone, text_encoder, text_"):
    weights(other, {"parts.vae.start": f"file:{_without_vae(sdxl)}"})


def _without_vae(path):
  changed(path, lambda t: [t.pop(name) for name in list(t) if name.startswith("first_stage_")])
  return path


def test_the_command_line(tmp_path, capsys):
  args = ["sample", "--prompt=a cat", f"--out={tmp_path}"]
  assert main([*args, "--from=x.safetensors"]) != 0
  assert "as --config-from=FOLDER; it needs no weights" in capsys.readouterr().err
  assert main([*args, "--from=stable-diffusion-2.1"]) != 0
  assert "stable-diffusion-2.1 is not a folder" in capsys.readouterr().err
  assert main([*args, f"--from={tmp_path}", f"--config-from={tmp_path}"]) != 0
  assert "--config-from belongs to --from=FILE" in capsys.readouterr().err
  assert main([*args, "--from=x.ckpt", f"--config-from={tmp_path}"]) != 0
  assert "x.ckpt is a pickle" in capsys.readouterr().err


def test_the_variants_of_a_folder_are_read(tmp_path, one_device):
  folder, _ = made("sd1", tmp_path)
  expected = weights(folder, {})
  half = lambda tensors: {name: value.astype(np.float16) for name, value in tensors.items()}
  for path in list(folder.rglob("*.safetensors")):
    save_file(half(load_file(path)), path.with_suffix(".fp16.safetensors"))
    path.unlink()
  rounded = lambda a, b: np.testing.assert_array_equal(np.float16(a).astype(np.float32), b)
  jax.tree.map(rounded, expected, weights(folder, {}))


@pytest.mark.proof
def test_a_file_draws_what_its_folder_draws(tmp_path, one_device):
  folder, path = made("sd1", tmp_path)
  args = ["sample", "--size=32x32", "--steps=2", "--prompt=a cat"]
  assert main([*args, f"--from={folder}", f"--out={tmp_path / 'a'}"]) == 0
  without_weights(folder)
  given = [f"--from={path}", f"--config-from={folder}"]
  assert main([*args, *given, f"--out={tmp_path / 'b'}"]) == 0
  a, b = (np.asarray(Image.open(tmp_path / x / "0000_seed0.png")) for x in "ab")
  np.testing.assert_array_equal(a, b)
