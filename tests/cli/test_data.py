import argparse
import json
import subprocess
import sys

import pytest
from PIL import Image

from t2i_jax.cli import data
from t2i_jax.data.source import read_manifest
from t2i_jax.errors import DataError, T2IError


def t2i(*argv):
  """Runs `t2i data ...` as main does, but lets errors through."""
  parser = argparse.ArgumentParser()
  data.add_flags(parser)
  return data.run(parser.parse_args(list(map(str, argv)))) or 0


def scenes(out, *more):
  counts = ("--count", 20, "--val-count", 4, "--heldout-count", 0)
  return t2i("build", "--from", "scenes", "--to", out, "--workers", 1, *counts, *more)


def test_build_show_verify(tmp_path, capsys):
  out = tmp_path / "out"
  assert scenes(out, "--level", "counts", "--size", 48, "--seed", 3, "--shard-records", 8) == 0
  said = capsys.readouterr().out
  assert f"{out}: train 20, val 4 records; tokenizer of " in said
  manifest = read_manifest(out)
  assert manifest["made_by"]["arguments"]["level"] == "counts"
  assert len(manifest["splits"]["train"]["shards"]) == 3
  assert t2i("verify", out, "--workers", 1) == 0
  assert "24 records, all sound" in capsys.readouterr().out
  assert t2i("show", out, "--count", 6, "--columns", 3) == 0
  *lengths, sheet = capsys.readouterr().out.splitlines()
  assert Image.open(sheet).width > 400
  assert lengths[0].startswith("tokens of captions, train: 50% up to ")
  assert t2i("show", out, "--split", "val", "--out", tmp_path / "sheet.png") == 0
  assert Image.open(tmp_path / "sheet.png").format == "PNG"


def test_verify_says_what_is_wrong_and_fails(tmp_path, capsys):
  scenes(tmp_path / "out")
  shard = next((tmp_path / "out").glob("train*"))
  shard.write_bytes(shard.read_bytes()[:-1])
  assert t2i("verify", tmp_path / "out", "--workers", 1) == 1
  assert shard.name in capsys.readouterr().out


def test_a_folder_with_skipped_items_ends_in_a_summary(tmp_path, capsys):
  (tmp_path / "in").mkdir()
  for name in "abcd":
    Image.new("RGB", (9, 9), "blue").save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / f"{name}.txt").write_text(f"image {name}")
  (tmp_path / "in" / "d.txt").unlink()
  arguments = ("--path", tmp_path / "in", "--max-size", 8, "--licence", "CC0", "--workers", 1)
  assert t2i("build", "--from", "folder", "--to", tmp_path / "out", *arguments) == 0
  said = capsys.readouterr().out
  assert "train 2, val 1 records" in said
  assert "skipped 1: 1 no caption; named in" in said and "skipped.jsonl" in said
  assert read_manifest(tmp_path / "out")["licence"] == "CC0"
  row = json.loads((tmp_path / "out" / "skipped.jsonl").read_text())
  assert row == {"item": "d.png", "reason": "no caption"}


@pytest.mark.parametrize(
  "argv, said",
  [
    (
      ("--from", "emoji", "--level", "easy"),
      "--level belongs to --from scenes and edits; --from emoji takes",
    ),
    (("--from", "scenes", "--path", "x"), "--path belongs to --from folder and webdataset"),
    (("--from", "folder", "--no-flags"), "--no-flags belongs to --from emoji"),
    (("--from", "folder"), "--from folder needs --path"),
    (("--from", "scenes", "--shard-records", "0"), "--shard-records=0"),
    (("--from", "scenes", "--workers", "0"), "--workers=0"),
  ],
)
def test_flags_that_do_not_go_together(tmp_path, argv, said):
  with pytest.raises(T2IError, match=said):
    t2i("build", "--to", tmp_path / "out", *argv)


def test_every_source_flag_is_a_field_of_some_source():
  from dataclasses import fields

  from t2i_jax.data.sources import SOURCES

  assert set(data.SOURCE_FLAGS) == {f.name for s in SOURCES.values() for f in fields(s)}


def test_a_sheet_that_cannot_be_written(tmp_path):
  scenes(tmp_path / "out")
  with pytest.raises(DataError, match="Choose another --out"):
    t2i("show", tmp_path / "out", "--out", tmp_path / "none" / "sheet.png")


def test_building_does_not_load_jax():
  """Each worker process imports this again; grain, which reading needs, brings jax along."""
  code = (
    "import sys; from t2i_jax.data import build, sheet, sources, verify; "
    "import t2i_jax.cli.data; print('jax' in sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "False"
