"""A whole pipeline of each class, held to what diffusers drew with it. Needs no torch."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.golden_pipelines import SIDE, STEPS, load, ours, write_folder
from t2i_jax.cli.main import main
from t2i_jax.inference import in_windows
from t2i_jax.inference.folder import prepare
from t2i_jax.pretrained.pipelines import INDEX, PIPELINES

FILES = {path.stem: path for path in sorted(Path(__file__).with_name("pipelines").glob("*.npz"))}
# Where torch is, tests/parity has the live comparison. These are cheap: of labels, T5 and CLIP.
CHEAP = ("dit", "flux")


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
  assert max(path.stat().st_size for path in FILES.values()) < 60_000


def test_windows_of_clip_are_as_many_as_the_longest_prompt_needs(tmp_path, one_device):
  sd3 = write_folder(load(FILES["sd3_without_T5"]), tmp_path / "sd3")
  assert in_windows(sd3, ["a cat " * 100])["text.towers.text_encoder"].endswith("length=231)")
  cut, one = (prepare(sd3, how, (SIDE, SIDE)).system for how in ({}, in_windows(sd3, ["a cat"])))
  for name in ("text_encoder", "text_encoder_2"):
    ids, mask = cut.text[name].encode(["a cat"])
    again, mask_again = one.text[name].encode(["a cat"])
    np.testing.assert_array_equal(ids, again)
    np.testing.assert_array_equal(mask, mask_again)
  args = ["sample", f"--from={sd3}", "--size=33x30", "--round", "--steps=1", "--cfg=1"]
  prompts = [f"--prompt={'a red cat on ' * 8}{end}" for end in ("dog", "cat")]  # second window
  assert main([*args, "--too-long=chunk", *prompts, f"--out={tmp_path / 'drawn'}"]) == 0
  dog, cat = (Image.open(tmp_path / f"drawn/000{i}_seed0.png") for i in range(2))
  assert dog.size == (SIDE, SIDE) and not np.array_equal(np.asarray(dog), np.asarray(cat))


@pytest.mark.parametrize(
  "name, message",
  [
    ("sd_inpaint", "fills in a part of an image. Give it with --image and --mask"),
    ("pix2pix", "edits one image, and has 0. Give it with --reference"),
  ],
)
def test_a_model_that_reads_an_image_is_given_one(name, message, tmp_path, capsys):
  folder = write_folder(load(FILES[name]), tmp_path / "model")
  args = ["sample", f"--from={folder}", "--size=32x32", "--prompt=a cat", f"--out={tmp_path}"]
  assert main(args) != 0
  assert message in capsys.readouterr().err
  Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(tmp_path / "a.png")
  assert main([*args, f"--image={tmp_path / 'a.png'}"]) != 0
  wanted = "Give that with --mask" if name == "sd_inpaint" else "with --reference=FILE, not --image"
  assert wanted in capsys.readouterr().err


def test_classes_have_names(tmp_path):
  folder = write_folder(load(FILES["dit"]), tmp_path)
  index = json.loads((folder / INDEX).read_text())
  names = {i: f"class {i}, kind {i}" for i in range(1000)}
  (folder / INDEX).write_text(json.dumps(index | {"id2label": names}))
  tokenizer = prepare(folder).tokenizer
  ids, _ = tokenizer.encode(["kind 3", "class 207", "5"], 1)
  assert ids[:, 0].tolist() == [4, 208, 6]
