"""Editing by models that read images: tiny folders of random weights, and what each refuses."""

import numpy as np
import pytest
from golden_folders import GOLDEN, write_golden
from PIL import Image

from benchmarks.golden_pipelines import load, write_folder
from t2i_jax.cli.main import main
from t2i_jax.edit import METHODS, Request
from t2i_jax.errors import ConfigError
from t2i_jax.inference import open_pipeline
from t2i_jax.inference.folder import folder_config

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
WORDS = "the cat of image 2 in place of the dog of image 1"
FEW = {"sampling.steps": "2", "sampling.batch": "1"}


@pytest.fixture
def files(tmp_path):
  for name, image in (("a", FIRST), ("b", SECOND)):
    Image.fromarray(image).save(tmp_path / f"{name}.png")
  return lambda name: str(tmp_path / f"{name}.png")


@pytest.mark.parametrize(
  "name, most",
  [("flux2_klein", None), ("qwen_image_edit", 1), pytest.param("qwen_image_edit_plus", 3,
                                                               marks=pytest.mark.proof)],
)  # fmt: skip
def test_published_models_are_shown_their_number_of_images(name, most, one_device, tmp_path):
  golden = load(GOLDEN / f"{name}.npz")
  write_folder(golden, tmp_path / name)
  text = folder_config(tmp_path / name, (32, 32)).text.towers.text_encoder.removesuffix(")")
  area = f", area={golden.call.area}" if golden.call.area else ""
  small = f"{text}, layers={tuple(golden.call.layers)}{area})"
  model = open_pipeline(tmp_path / name, FEW | {"text.towers.text_encoder": small}, (32, 32))
  edit, request = METHODS["instruct"](), Request(WORDS, WORDS, (0,), FIRST)
  if most is not None:
    many = request._replace(shown=(FIRST,) + (SECOND,) * most)
    with pytest.raises(ConfigError, match=f"and was given {most + 1}"):
      edit(model, many)
  if most != 1:
    found = lambda *images: edit(model, request._replace(shown=images))
    (first,), (swapped,) = (
      found(*images).after.values() for images in ((FIRST, SECOND), (SECOND, FIRST))
    )
    assert np.any(first != swapped)
    wanted = model.draw([WORDS], [0], references=[SECOND[None], FIRST[None]])
    np.testing.assert_array_equal(swapped, wanted)


def test_an_instruction_model_reads_one_image(one_device, files, tmp_path, capsys):
  """By the verb, as t2i sample with a reference."""
  write_golden(tmp_path, "pix2pix")
  common = [f"--from={tmp_path / 'pix2pix'}", "--prompt=make it blue", "--size=32x32", "--steps=2"]
  edit = ["edit", *common, "--method=instruct", f"--image={files('a')}"]
  out, drawn = tmp_path / "edited", tmp_path / "drawn"
  assert main([*edit, f"--out={out}"]) == 0
  assert main(["sample", *common, f"--reference={files('a')}", f"--out={drawn}"]) == 0
  paths = out / "after_seed0.png", next(drawn.glob("*_seed0.png"))
  np.testing.assert_array_equal(*(np.asarray(Image.open(path)) for path in paths))
  for flags, message in (
    ([f"--reference={files('b')}"], "edits one image, and has 2. Leave the others out"),
    (["--strengths=0.5"], "--strengths: --method=instruct has none. Use --cfg"),
  ):
    assert main([*edit, *flags, f"--out={out}"]) == 2
    assert message in capsys.readouterr().err


def test_what_the_verb_refuses(one_device, files, tmp_path, capsys):
  write_golden(tmp_path, "sd1")
  common = ["edit", f"--from={tmp_path / 'sd1'}", f"--prompt={WORDS}", "--size=32x32"]
  for flags, message in (
    ([f"--reference={files('b')}"], "--reference: not of --method=p2p. Use --method=instruct"),
    (["--method=instruct"], "edits an image: give it with --image"),
    (["--method=instruct", f"--image={files('a')}"], "it has no image input"),
  ):
    assert main([*common, *flags, f"--out={tmp_path / 'out'}"]) == 2
    assert message in capsys.readouterr().err
