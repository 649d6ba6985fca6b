"""The wheel is whole: configs are in it, and the lines of the README run in an empty folder."""

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.tiny_folder import flux_folder
from tests.config_files import ALONE, CONFIGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [line.partition(" #")[0].strip() for line in re.findall(r"^t2i .*$", README, re.MULTILINE)]
# What makes the lines quick, by verb.
QUICK = {
  "data": "--count=16 --val-count=8 --heldout-count=8",
  "train": "--config.train.steps=2 --config.train.batch=8 --config.train.optimizer=adamw "
  "--config.train.schedule=constant --config.eval.rows=8 --config.sampling.steps=2 "
  "--config.sampling.batch=8 --config.model.width=32 --config.model.depth=1 --config.model.heads=2 "
  "--config.text.towers.text='bag_of_words(width=16)'",
  "sample": "--steps=2",
  "eval": "--per-cell=2 --steps=2",
  "plan": "--config.model.depth=1 --config.model.width=256 "
  "--config.text.towers.text='bag_of_words(width=256)'",
}
# Of the lines with a published folder.
QUICK_FOLDER = {"describe": "--size=16x16", "sample": "--size=16x16 --steps=2", "export": ""}
FOLDER = "FLUX.1-dev"
RUN = """
import shlex, sys
from pathlib import Path
import t2i_jax
from t2i_jax.cli.main import main
from t2i_jax.config import load_config

assert Path(t2i_jax.__file__).is_relative_to(sys.argv[1]), t2i_jax.__file__
for line in sys.argv[2:]:
  command, *words = shlex.split(line)
  if command == "load":
    print(load_config(words[0]).name, flush=True)
  else:
    print("$", line, flush=True)
    assert main(words) == 0, line
"""
# A copy of a config that derives from another, under a new name, where a user would have it.
COPY = "scenes_dit_ddpm.py"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """The wheel, unpacked: built of a copy of the sources, so that nothing is left among them."""
  source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
  ignore = shutil.ignore_patterns("__pycache__")
  shutil.copytree(ROOT / "t2i_jax", source / "t2i_jax", ignore=ignore)
  for name in ("pyproject.toml", "README.md"):
    shutil.copy(ROOT / name, source)
  (source / "configs").symlink_to("t2i_jax/configs")
  command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
  subprocess.run([*command, "--disable-pip-version-check", "-w", str(out), str(source)], check=True)
  (file,) = out.glob("*.whl")
  with zipfile.ZipFile(file) as archive:
    archive.extractall(out / "unpacked")
  return out / "unpacked"


def run(wheel, folder, *lines):
  """What the lines print, run in a folder by the code of the wheel, in one process."""
  environment = {"PYTHONPATH": str(wheel), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
  environment |= {"JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, "-c", RUN, str(wheel), *lines],
    cwd=folder,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def test_the_wheel_has_the_configs_and_the_command(wheel):
  names = lambda folder: {str(p.relative_to(folder)) for p in folder.rglob("*.py")}
  assert names(wheel / "t2i_jax/configs") == names(CONFIGS)
  assert {p.name for p in wheel.iterdir()} == {"t2i_jax", "t2i_jax-0.1.0.dist-info"}
  assert "t2i = t2i_jax.cli.main:main" in (
    wheel / "t2i_jax-0.1.0.dist-info/entry_points.txt"
  ).read_text(encoding="utf-8")


def quick(line):
  by_verb = QUICK_FOLDER if f"--from={FOLDER}" in line else QUICK
  return f"{line} {by_verb[line.split()[1]]}"


def test_configs_are_found_in_an_empty_folder_and_copies_work(wheel, tmp_path):
  shutil.copy(wheel / "t2i_jax/configs" / COPY, tmp_path / "mine.py")
  data = next(line for line in LINES if line.startswith("t2i data"))
  shipped = [f"configs/{path.relative_to(CONFIGS)}" for path in ALONE]
  said = run(wheel, tmp_path, quick(data), *(f"load {name}" for name in [*shipped, "mine.py"]))
  assert "scenes_easy: train 16, val 8, heldout 8 records" in said
  assert said.count("scenes_dit_ddpm\n") == 2 and "text_conditioning_cross" in said


@pytest.mark.proof
@pytest.mark.slow
def test_every_line_of_the_readme_runs_in_an_empty_folder(wheel, tmp_path):
  assert {shlex.split(line)[1] for line in LINES} == set(QUICK) | set(QUICK_FOLDER)
  flux_folder(tmp_path / FOLDER)
  said = run(wheel, tmp_path, *map(quick, LINES))
  assert "report.html" in said and "chips" in said
