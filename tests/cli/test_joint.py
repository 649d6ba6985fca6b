"""A joint model as a user has it: train, sample, caption, chat, and what is refused."""

import argparse
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from t2i_jax.cli import evaluate
from t2i_jax.cli.main import main
from t2i_jax.inference import open_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]


@pytest.fixture(scope="module")
def trained(joint_args, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "joint"
  assert main(joint_args(workdir, {"train.steps": 2, "rows.edited": 0.2})) == 0
  return workdir


@pytest.fixture
def image(tmp_path):
  path = tmp_path / "seen.png"
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(path)
  return path


def test_it_draws_and_says_what_it_sees(trained, image, tmp_path, capsys):
  assert main(["sample", f"--workdir={trained}", "--prompt=a red circle", f"--out={tmp_path}"]) == 0
  assert Image.open(tmp_path / "0000_seed0.png").size == (32, 32)
  capsys.readouterr()
  assert main(["caption", f"--workdir={trained}", str(image), str(image)]) == 0
  first, second = capsys.readouterr().out.splitlines()
  assert first == second and first.startswith(f"{image}\t")


def test_it_edits_by_an_instruction_about_two_images(trained, image, tmp_path, capsys):
  edit = ["edit", f"--workdir={trained}", "--method=instruct", f"--image={image}"]
  edit += ["--prompt=make it blue", "--steps=2"]
  assert main([*edit, f"--reference={image}", f"--out={tmp_path / 'two'}"]) == 0
  assert main([*edit, f"--out={tmp_path / 'one'}"]) == 0
  one, two = (np.asarray(Image.open(tmp_path / n / "after_seed0.png")) for n in ("one", "two"))
  assert one.shape == two.shape == (32, 32, 3)
  assert main([*edit, *[f"--reference={image}"] * 9, f"--out={tmp_path}"]) == 2
  assert "and was given 10: its rows have" in capsys.readouterr().err


def test_eval_scores_what_it_draws_says_and_changes(trained, capsys):
  assert main(["eval", f"--workdir={trained}", "--per-cell=2"]) == 0
  out = capsys.readouterr().out
  for what in ("images", "captions", "edits"):
    assert f"Correct {what}, level easy, 32 px, n = 2 a cell" in out
  for name, key in (("score", "category"), ("captions", "category"), ("edits", "kind")):
    cells = json.loads((trained / f"eval/{name}.json").read_text())["cells"]
    assert len(cells) == 2 * len({cell[key] for cell in cells})
  page = (trained / "eval/report.html").read_text()
  assert "<h2>Captions</h2>" in page and "<h2>Edits</h2>" in page


def test_a_report_without_a_judge_has_what_it_says_of_real_pictures(trained, tmp_path):
  workdir = shutil.copytree(trained, tmp_path / "run")
  parser = argparse.ArgumentParser()
  evaluate.add_flags(parser)
  args = parser.parse_args([f"--workdir={workdir}"])
  page = evaluate.gallery(args, open_model(workdir)).read_text()
  assert "<h2>train</h2>" in page and "<h2>train, read</h2>" in page
  assert re.search(r"real images; \d+ of 24 are a caption of theirs", page)


def test_a_conversation_keeps_its_pictures_and_goes_on_after_a_mistake(
  trained, image, tmp_path, capsys
):
  say = ["a red circle", "make it blue", "/describe", "/nonsense", "/new", f"/open {image}",
         "add a square", "/seed 7", "/on", "/quit", "never said"]  # fmt: skip
  flags = [f"--say={line}" for line in say]
  assert main(["chat", f"--workdir={trained}", f"--out={tmp_path / 'out'}", *flags]) == 0
  out = capsys.readouterr().out
  for i in range(3):
    assert f"{tmp_path / 'out'}/{i:03d}.png" in out
    assert Image.open(tmp_path / f"out/{i:03d}.png").size == (32, 32)
  assert "PromptError: /nonsense is not one of /new" in out and "never said" not in out


def test_a_conversation_that_is_too_long_says_so(trained, tmp_path, capsys):
  flags = ["--say=a red circle"] * 8
  assert main(["chat", f"--workdir={trained}", f"--out={tmp_path}", *flags]) == 0
  out = capsys.readouterr().out
  assert "of 120 positions: no space for" in out and "Type /new" in out
  assert len(list(tmp_path.glob("*.png"))) >= 4


@pytest.mark.parametrize("file, words", [
  ("nothing.png", "nothing.png cannot be read: No such file"),
  ("text.png", "text.png: .*cannot be decoded"),
])  # fmt: skip
def test_bad_pictures_are_named(trained, tmp_path, file, words, capsys):
  (tmp_path / "text.png").write_text("no image")
  assert main(["caption", f"--workdir={trained}", str(tmp_path / file)]) == 2
  assert re.search(words, capsys.readouterr().err)
