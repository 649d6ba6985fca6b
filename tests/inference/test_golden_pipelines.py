"""A whole pipeline of each class, held to what diffusers drew with it. Needs no torch."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.golden_pipelines import SIDE, STEPS, load, ours, write_folder
from t2i_jax.cli.main import main
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.inference import folder_config, in_windows, open_pipeline
from t2i_jax.pretrained.pipelines import INDEX, PIPELINES

FILES = {path.stem: path for path in sorted(Path(__file__).with_name("pipelines").glob("*.npz"))}
# Where torch is, tests/parity has the live comparison. These are cheap, and of all that differs
# between pipelines but images to edit.
CHEAP = ("dit", "pixart_sigma", "sd3_without_T5", "flux", "flux2", "qwen_image")


def case(name):
  marks = [pytest.mark.newest(all_cases=True)] * (name in CHEAP)
  return pytest.param(name, marks=[pytest.mark.proof, *marks])


@pytest.mark.parametrize("name", map(case, FILES))
def test_it_draws_what_diffusers_drew(name, tmp_path, one_device):
  golden = load(FILES[name])
  found = ours(golden.call, write_folder(golden, tmp_path), STEPS)
  expected = golden.latents.reshape(found.latents.shape)
  assert np.abs(found.latents - expected).max() < 1e-4 * np.abs(expected).max()
  off = np.abs(found.images.astype(int) - golden.images)
  assert np.mean(off <= 1) > 0.999


def test_no_class_is_missing():
  indices = [json.loads(load(path).texts[INDEX]) for path in FILES.values()]
  assert {index["_class_name"] for index in indices} == set(PIPELINES)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
  """A Stable Diffusion 3 without T5. Do not change it."""
  golden = load(FILES["sd3_without_T5"])
  return write_folder(golden, tmp_path_factory.mktemp("published") / "sd3")


def test_windows_of_clip_are_as_many_as_the_longest_prompt_needs(sd3, tmp_path, one_device):
  assert in_windows(sd3, ["a cat " * 100])["text.towers.text_encoder"].endswith("length=231)")
  short = in_windows(sd3, ["a cat"])
  drawn = {}
  for name, how in (("one", short), ("cut", {})):
    few = {"sampling.steps": "1", **how}
    drawn[name] = open_pipeline(sd3, few, (SIDE, SIDE)).draw(["a cat"], [0])
  np.testing.assert_array_equal(drawn["one"], drawn["cut"])
  args = ["sample", f"--from={sd3}", "--size=33x30", "--round", "--steps=1", f"--out={tmp_path}"]
  for end in ("dog", "cat"):  # of the second window
    prompt = "a red cat on " * 8 + end
    assert main([*args, "--too-long=chunk", f"--prompt={prompt}", f"--out={tmp_path / end}"]) == 0
  dog, cat = (Image.open(tmp_path / end / "0000_seed0.png") for end in ("dog", "cat"))
  assert dog.size == (SIDE, SIDE) and not np.array_equal(np.asarray(dog), np.asarray(cat))


def test_classes_have_names(tmp_path, one_device):
  folder = write_folder(load(FILES["dit"]), tmp_path)
  tokenizer = Tokenizer.load("", folder_config(folder).text.tokenizer)
  ids, _ = tokenizer.encode(["kind 3", "class 207", "5"], 1)
  assert ids[:, 0].tolist() == [4, 208, 6]
