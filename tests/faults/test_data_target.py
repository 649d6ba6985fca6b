"""Rule: what is in a folder stays there, and a target is of one build at a time."""

import os
import subprocess
import sys

import pytest
from data_files import quick, write

from t2i_jax.data.claim import claimed
from t2i_jax.data.from_folder import Folder
from t2i_jax.data.source import read_manifest
from t2i_jax.errors import DataError


class Meddler(Folder):
  """A folder; while it is built, a user writes into the target."""

  target = None

  def make(self, task):
    self.target.mkdir(exist_ok=True)
    (self.target / "mine.txt").write_text("mine")
    return super().make(task)


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "a built folder"])
def test_a_file_put_into_the_target_during_a_build_stays(tmp_path, monkeypatch, before):
  out = tmp_path / "out"
  root = write(tmp_path / "in", {})
  if before == "an empty folder":
    out.mkdir()
  if before == "a built folder":
    quick(Folder(str(root)), out)
  kept = {p.name: p.read_bytes() for p in out.iterdir()} if out.exists() else {}
  monkeypatch.setattr(Meddler, "target", out)
  with pytest.raises(DataError, match=r"came during the build; what it built is in") as raised:
    quick(Meddler(str(root)), out, overwrite=before == "a built folder")
  assert {p.name: p.read_bytes() for p in out.iterdir()} == {**kept, "mine.txt": b"mine"}
  finished = next(tmp_path.glob("out.finished-*"))
  assert str(finished) in str(raised.value)
  assert read_manifest(finished)["splits"]["train"]["records"] == 1
  assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["in", "out", finished.name])


def test_a_target_is_of_one_build_at_a_time(tmp_path):
  root, out = write(tmp_path / "in", {}), tmp_path / "out"
  with claimed(out) as partial:
    (partial / "train-00000.part").write_bytes(b"of the first")
    with pytest.raises(DataError, match=rf"is being built by process {os.getpid()} on \w+"):
      quick(Folder(str(root)), out)
    assert (partial / "train-00000.part").read_bytes() == b"of the first"
  quick(Folder(str(root)), out)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_the_claim_of_a_dead_build_is_taken_over(tmp_path):
  root, out = write(tmp_path / "in", {}), tmp_path / "out"
  script = """
import os, sys, pathlib
from t2i_jax.data.claim import claimed
with claimed(pathlib.Path(sys.argv[1])) as partial:
  (partial / "train-00000.part").write_text("half")
  os._exit(1)
"""
  subprocess.run([sys.executable, "-c", script, str(out)], check=False)
  assert (tmp_path / "out.partial" / "train-00000.part").exists()
  quick(Folder(str(root)), out)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("name", ["photo.jpg", ".claim"])
def test_a_folder_of_that_name_that_is_a_users_is_left_alone(tmp_path, name):
  root, other = write(tmp_path / "in", {}), tmp_path / "out.partial"
  other.mkdir()
  (other / name).write_text("mine")
  (other / "photo.jpg").write_text("mine")
  with pytest.raises(DataError, match=r"out\.partial.*by a build"):
    quick(Folder(str(root)), tmp_path / "out")
  assert (other / "photo.jpg").read_text() == "mine"
