"""A base and its refiner: what does not go together, and the command line. tests/parity has what
diffusers draws with both."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.golden_pipelines import SIDE, load, write_folder
from t2i_jax.cli.main import main
from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.inference.folder import prepare
from t2i_jax.inference.open import Model
from t2i_jax.inference.refine import check_latents, draw_refined

PIPELINES = Path(__file__).with_name("pipelines")
ARGS = ["sample", "--size=32x32", "--prompt=a cat"]


@pytest.fixture
def folders(tmp_path):
  """Those of a base and its refiner."""
  return [
    write_folder(load(PIPELINES / f"{n}.npz"), tmp_path / n) for n in ("sdxl", "sdxl_refiner")
  ]


def model_of(folder, **settings):
  """A model of a folder without its weights."""
  given = {f"sampling.{key}": str(value) for key, value in settings.items()}
  how = prepare(folder, given, (SIDE, SIDE))
  return Model(how.config, how.system, how.tokenizer, {}, 0, how.mesh, None, f"--from={folder}")


def edit(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(capsys, *flags):
  assert main([*ARGS, *map(str, flags)]) != 0
  return capsys.readouterr().err


def test_flags_that_do_not_go_together(folders, tmp_path, capsys):
  base, refiner = folders
  out = f"--out={tmp_path / 'out'}"
  said = refused(capsys, f"--from={refiner}", out)
  assert "is a refiner" in said and "Give it an image with --image and --strength" in said
  said = refused(capsys, f"--from={refiner}", f"--refiner={refiner}", out)
  assert "is a refiner" in said
  both = (f"--from={base}", f"--refiner={refiner}", out)
  for end in ("0", "1", "1.2"):
    assert "--denoising-end" in refused(capsys, *both, f"--denoising-end={end}")
  assert "belongs to --refiner" in refused(capsys, f"--from={base}", "--denoising-end=0.8", out)
  assert "leave --image and --reference out" in refused(capsys, *both, "--image=a.png")
  assert "only with --from" in refused(capsys, "--workdir=no", f"--refiner={refiner}", out)
  edit(refiner / "vae" / "config.json", scaling_factor=0.18215)
  said = refused(capsys, *both)
  assert "refines other latents than the base's: scale = 0.18215, and 0.13025 of the base" in said


def test_models_that_do_not_go_together(folders, one_device):
  base, refiner = folders
  draw = lambda a, b, end: draw_refined(a, b, ["a cat"], [0], end)
  few = model_of(base, steps=5), model_of(refiner, steps=5)
  with pytest.raises(ConfigError, match=r"denoising_end = 0.999 .* all of them on one side of 1\."):
    draw(*few, 0.999)
  with pytest.raises(ConfigError, match=r"the base ends at t = 0.002.* starts at t = 0.102"):
    draw(few[0], model_of(refiner, steps=10), 0.8)
  wider = dataclasses.replace(few[0].system.autoencoder, channels=8)
  with pytest.raises(ConfigError, match="channels = 8, and 4 of the base"):
    check_latents(few[0].system.autoencoder, wider, "it")


def test_a_refiner_without_a_score_is_read_as_its_base(folders, one_device):
  _, refiner = folders
  edit(refiner / "model_index.json", requires_aesthetics_score=False)
  with pytest.raises(RestoreError, match="names no text_encoder, which sdxl needs"):
    prepare(refiner, {}, (SIDE, SIDE))


@pytest.mark.proof
def test_the_command_line_draws_with_both(folders, tmp_path, one_device):
  base, refiner = folders
  args = [*ARGS, "--steps=3", f"--from={base}"]
  read = lambda name: np.asarray(Image.open(tmp_path / name / "0000_seed0.png"))
  assert main([*args, f"--out={tmp_path / 'base'}"]) == 0
  assert main([*args, f"--refiner={refiner}", f"--out={tmp_path / 'both'}"]) == 0
  offload = [f"--refiner={refiner}", "--denoising-end=0.8", "--offload"]
  assert main([*args, *offload, f"--out={tmp_path / 'again'}"]) == 0
  np.testing.assert_array_equal(read("both"), read("again"))
  about = json.loads(Image.open(tmp_path / "both" / "0000_seed0.png").text["config"])
  assert about["refiner"] == {"from": str(refiner), "denoising_end": 0.8}
  assert np.any(read("base") != read("both"))
  net = write_folder(load(PIPELINES / "sdxl_controlnet.npz"), tmp_path / "net") / "controlnet"
  control = [f"--controlnet={net}", f"--control={tmp_path / 'base/0000_seed0.png'}"]
  args += [*control, f"--refiner={refiner}", f"--out={tmp_path / 'controlled'}"]
  assert main(args) == 0
  assert np.any(read("controlled") != read("both"))
