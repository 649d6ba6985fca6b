"""t2i sample --image and t2i score: what is refused before a model is opened, and the files."""

import json

import numpy as np
import pytest
from PIL import Image

from t2i_jax.cli.main import main
from t2i_jax.errors import ConfigError
from t2i_jax.inference.start import Mask, SourceImage, edited_size, outpainted
from t2i_jax.systems import Tasks


@pytest.fixture
def files(tmp_path):
  """files("name.png") of an image of 24 x 48, its mask, one of another size, and no image."""
  rng = np.random.default_rng(0)
  Image.fromarray(rng.integers(0, 256, (24, 48, 3)).astype(np.uint8)).save(tmp_path / "image.png")
  white = np.zeros((24, 48), np.uint8)
  white[:, 24:] = 255
  Image.fromarray(white).save(tmp_path / "mask.png")
  Image.fromarray(white.T.copy()).save(tmp_path / "turned.png")
  (tmp_path / "text.png").write_text("no image")
  return lambda name: tmp_path / name


SAMPLE = {
  "mask alone": (["--mask={mask}"], "--mask belongs to --image"),
  "strength alone": (["--strength=0.5"], "--strength belongs to --image"),
  "repeats alone": (["--image={image}", "--repeats=3"], "--repeats belongs to --mask"),
  "inverter alone": (["--image={image}", "--inverter=midpoint"], "--inverter belongs to --invert"),
  "no strength": (["--image={image}", "--strength=0"], "--strength=0.0 is not in (0, 1]"),
  "too strong": (["--image={image}", "--strength=1.5"], "--strength=1.5 is not in (0, 1]"),
  "no repeats": (
    ["--image={image}", "--mask={mask}", "--repeats=0"],
    "--repeats=0 is not in [1, 1000]",
  ),
  "no file": (["--image=/nowhere.png"], "/nowhere.png cannot be read"),
  "no image": (["--image={text}"], "text.png: cannot be decoded"),
  "two masks": (
    ["--image={image}", "--mask={mask}", "--outpaint=0,0,8,0"],
    "--mask and --outpaint: what is filled is said twice",
  ),
  "no margins": (["--image={image}", "--outpaint=0,0,0,0"], "give LEFT,TOP,RIGHT,BOTTOM"),
  "three margins": (["--image={image}", "--outpaint=8,8,8"], "give LEFT,TOP,RIGHT,BOTTOM"),
  "smaller": (["--image={image}", "--outpaint=0,-8,0,0"], "--outpaint=-8 is not in"),
  "outpaint alone": (["--outpaint=0,0,8,0"], "--outpaint belongs to --image"),
  "another size": (["--image={image}", "--mask={turned}"], "is 48 x 24, --image="),
}
SCORE = {
  "nothing to score": (["--likelihood", "--count=0"], "--count=0 is not in [1, 2^20]"),
  "all noise": (["--likelihood", "--smallest=0.7"], "--smallest=0.7 is not in (0, 0.5)"),
  "seeds": (["--likelihood", "--seed=-1"], "--seed=-1 is not in [0, 4e9]"),
}


@pytest.mark.parametrize("flags, words", SAMPLE.values(), ids=[*SAMPLE])
def test_sample_refuses(flags, words, files, capsys):
  names = {name: files(f"{name}.png") for name in ("image", "mask", "turned", "text")}
  given = [flag.format(**names) for flag in flags]
  assert main(["sample", "--workdir=/nowhere", "--prompt=a", *given]) == 2
  assert words in capsys.readouterr().err


@pytest.mark.parametrize("flags, words", SCORE.values(), ids=[*SCORE])
def test_score_refuses(flags, words, capsys):
  assert main(["score", "--workdir=/nowhere", *flags]) == 2
  assert words in capsys.readouterr().err


def test_a_mask_is_cropped_as_its_image_is(files):
  image = SourceImage(files("image.png"))
  mask = Mask.read(files("mask.png"), image)
  assert image.size == (24, 48) and image.fitted((12, 12)).shape == (12, 12, 3)
  assert np.array_equal(mask.fitted((24, 48)), np.arange(48) >= np.full((24, 1), 24))
  square = mask.fitted((12, 12))  # the middle of the image, at half its size
  assert not square[:, :5].any() and square[:, 7:].all()


def test_an_image_grows_by_margins_that_are_filled(files):
  image = SourceImage(files("image.png"))
  grown, mask = outpainted(image, (0, 16, 8, 40))  # left, top, right, bottom
  assert grown.size == (80, 56)
  whole, filled = grown.fitted((80, 56)), mask.fitted((80, 56))
  kept = np.zeros((80, 56), bool)
  kept[16:40, :48] = True
  assert np.array_equal(filled, ~kept)
  assert np.array_equal(whole[16:40, :48], image.fitted((24, 48)))
  assert np.array_equal(whole[:16, :48], np.broadcast_to(whole[16, :48], (16, 48, 3)))
  assert mask.fitted((40, 28)).mean() == pytest.approx(1 - 24 * 48 / (80 * 56), abs=0.02)
  with pytest.raises(ConfigError, match=r"makes an image of 80 x 56, and 32 x 32 is drawn"):
    mask.fitted((32, 32))


@pytest.mark.parametrize("task", ["redraw", "likelihood", "denoise"])
def test_a_system_without_the_task_is_named(task):
  with pytest.raises(ConfigError, match=rf"--workdir=runs/joint \(joint\) cannot {task}: only a"):
    Tasks().need(task, "--workdir=runs/joint (joint)")


def test_the_size_of_an_edited_image(tmp_path, files):
  (tmp_path / "scheduler").mkdir()
  (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"shift": 1.0}')
  image = str(files("image.png"))
  for name, size in (("QwenImagePipeline", None), ("QwenImageEditPipeline", (736, 1440))):
    index = {"_class_name": name, "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert edited_size(str(tmp_path), [image]) == size
  with pytest.raises(ConfigError, match=r"edits an image\. Give it with --reference"):
    edited_size(str(tmp_path), [])
