import dataclasses
import hashlib
import json
import subprocess
import sys
import time
from typing import ClassVar

import numpy as np
import pytest

from t2i_jax.data.build import build, keep_one_for_val
from t2i_jax.data.from_scenes import Scenes
from t2i_jax.data.images import decode
from t2i_jax.data.items import Made, Skipped, made
from t2i_jax.data.record import Record
from t2i_jax.data.scenes import LEVELS, facts_from_json, make_scene, render
from t2i_jax.data.source import ShardSource, read_manifest
from t2i_jax.errors import ConfigError, DataError


def contents(folder):
  return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_the_manifest_tells_what_is_there(scenes_dir):
  manifest = read_manifest(scenes_dir)
  assert manifest["format"] == "t2i_jax/1"
  assert manifest["made_by"]["source"] == "scenes"
  assert manifest["made_by"]["arguments"] == dataclasses.asdict(Scenes("easy", None, 100, 12, 8))
  assert {k: v["records"] for k, v in manifest["splits"].items()} == {
    "train": 100,
    "val": 12,
    "heldout": 8,
  }
  shards = manifest["splits"]["train"]["shards"]
  assert [s["records"] for s in shards] == [40, 40, 20]
  for shard in shards:
    data = (scenes_dir / shard["file"]).read_bytes()
    assert shard["bytes"] == len(data)
    assert shard["sha256"] == hashlib.sha256(data).hexdigest()
  captions = sum(len(make_scene(i, "easy", "train", 0).captions) for i in range(100))
  assert manifest["splits"]["train"]["captions"] == captions
  assert manifest["skipped"] == {"count": 0, "reasons": {}}
  listed = {s["file"] for split in manifest["splits"].values() for s in split["shards"]}
  assert {p.name for p in scenes_dir.iterdir()} == listed | {
    "manifest.json",
    "tokenizer.json",
    "skipped.jsonl",
    *(f"{split}.provenance.jsonl" for split in ("train", "val", "heldout")),
  }


@pytest.mark.newest
@pytest.mark.parametrize("split", ["train", "val", "heldout"])
def test_scenes_are_those_of_the_generator(scenes_dir, split):
  source = ShardSource(scenes_dir, split)
  for index in range(8):
    record, scene = source[index], make_scene(index, "easy", split, 0)
    assert record.captions == scene.captions
    assert facts_from_json(record.meta["facts"]) == scene.facts
    assert record.meta["category"] == scene.category and record.meta["level"] == "easy"
    assert record.meta["heldout"] == (split == "heldout")
    np.testing.assert_array_equal(np.asarray(decode(record.image)), render(scene, 32))


def test_workers_change_no_byte(scenes_dir, tmp_path):
  """The fixture was built by one process; three in a script of their own give the same folder."""
  script = tmp_path / "script.py"
  script.write_text(f"""
from t2i_jax.data.build import build
from t2i_jax.data.from_scenes import Scenes
if __name__ == "__main__":
  build(Scenes("easy", None, 100, 12, 8), {str(tmp_path / "out")!r}, workers=3, shard_records=40)
""")
  subprocess.run([sys.executable, script], check=True, timeout=120)
  assert contents(tmp_path / "out") == contents(scenes_dir)


@dataclasses.dataclass(frozen=True)
class Stub:
  """A source of n items: `bad` of them cannot be used, and item `fails` raises."""

  n: int = 5
  bad: int = 0
  fails: int = -1

  splits: ClassVar = ("train", "val")
  vocab: ClassVar = 300
  holds_out: ClassVar = True
  licence: ClassVar = "mine"
  attribution: ClassVar = "by me"

  def total(self):
    return self.n

  def tasks(self):
    return iter(range(self.n))

  def make(self, i):
    if i == self.fails:
      raise RuntimeError("a fault of the code")
    if i < self.bad:
      return [Skipped(f"item{i}", "cannot be decoded: a detail"), Skipped("x\udc80", "no caption")]
    return [made("train", Record(b"x" * 1000, (f"caption {i}",), str(i)))]


def quick(source, out, **options):
  return build(source, out, workers=1, progress=False, **options)


def test_what_is_skipped_is_counted_and_named(tmp_path):
  manifest = quick(Stub(n=6, bad=2), tmp_path / "out")
  assert manifest["skipped"] == {"count": 4, "reasons": {"cannot be decoded": 2, "no caption": 2}}
  lines = (tmp_path / "out" / "skipped.jsonl").read_text("utf-8").splitlines()
  assert json.loads(lines[0]) == {"item": "item0", "reason": "cannot be decoded: a detail"}
  assert len(lines) == 4
  assert (tmp_path / "out" / "ATTRIBUTION.txt").read_text() == "by me\n"


def test_where_no_hash_falls_to_validation_one_record_does(tmp_path):
  manifest = quick(Stub(n=5), tmp_path / "out")
  assert {k: v["records"] for k, v in manifest["splits"].items()} == {"train": 4, "val": 1}
  keys = [ShardSource(tmp_path / "out", "train")[i].key for i in range(4)]
  assert keys == ["0", "1", "2", "3"]


def test_keeping_one_keeps_the_order_of_each_split():
  items = [Made(split, bytes([i]), ()) for i, split in enumerate("tvttv")]
  items = [dataclasses.replace(m, split={"t": "train", "v": "val"}[m.split]) for m in items]
  items.insert(2, Skipped("s", "r"))
  out = list(keep_one_for_val(items))
  for split in ("train", "val"):
    kept = [m for m in out if isinstance(m, Made) and m.split == split]
    assert kept == [m for m in items if isinstance(m, Made) and m.split == split]
  assert items[2] in out and len(out) == 6


@pytest.mark.parametrize(
  "source, said",
  [
    (Stub(n=2, bad=2), r"0 of 4 items.*nothing to train on; skipped: 2 cannot be decoded, 2 no"),
    (Stub(n=1), "1 of 1 items can be used: training and validation need one each"),
    (Stub(n=0), "0 of 0 items"),
  ],
)
def test_too_little_to_train_on(tmp_path, source, said):
  with pytest.raises(DataError, match=said):
    quick(source, tmp_path / "out")
  assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing(tmp_path):
  with pytest.raises(RuntimeError, match="a fault of the code"):
    quick(Stub(fails=3), tmp_path / "out")
  assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
  """A limit on file size stands in for the disk: writes beyond it fail alike."""
  script = """
import resource, sys
from t2i_jax.data.build import build
from t2i_jax.data.from_scenes import Scenes
from t2i_jax.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
  build(Scenes("easy", None, 400, 0, 0), sys.argv[1], workers=1, progress=False)
except DataError as error:
  print(error)
"""
  run = [sys.executable, "-c", script, str(tmp_path / "out")]
  done = subprocess.run(run, capture_output=True, text=True, timeout=60)
  assert "cannot be written" in done.stdout and "choose another --to" in done.stdout, done
  assert not list(tmp_path.iterdir())


def test_a_target_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(DataError, match="Choose another --to"):
    quick(Stub(), tmp_path / "file" / "out")
  with pytest.raises(DataError, match="is a file"):
    quick(Stub(), tmp_path / "file")


def test_a_kill_leaves_no_half_made_folder_and_no_worker(tmp_path):
  script = tmp_path / "script.py"
  script.write_text("""
import sys
from t2i_jax.data.build import build
from t2i_jax.data.from_scenes import Scenes
if __name__ == "__main__":
  build(Scenes("easy", None, 10**6, 0, 0), sys.argv[1], workers=2, progress=False)
""")
  (tmp_path / "to").mkdir()
  run = [sys.executable, script, tmp_path / "to" / "out"]
  process = subprocess.Popen(run, stdout=subprocess.PIPE)
  partial = tmp_path / "to" / "out.partial"
  deadline = time.monotonic() + 60
  while not list(partial.glob("train-*")) and time.monotonic() < deadline:
    time.sleep(0.05)
  process.kill()
  process.communicate(timeout=20)  # the pipe ends once no worker holds it open
  assert [p.name for p in (tmp_path / "to").iterdir()] == [partial.name]


def test_a_killed_worker_is_said(tmp_path):
  script = tmp_path / "script.py"
  script.write_text("""
import os, signal
from t2i_jax.data.parallel_map import ordered_map
from t2i_jax.errors import DataError
def die(i):
  if i == 5: os.kill(os.getpid(), signal.SIGKILL)
  return i
if __name__ == "__main__":
  try:
    list(ordered_map(die, range(100), 2))
  except DataError as error:
    print(error)
""")
  done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
  assert "one of 2 worker processes was killed" in done.stdout, done


def test_an_existing_folder_is_replaced_on_request_only(tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  quick(Stub(n=3), out)  # an empty one is free
  before = contents(out)
  with pytest.raises(DataError, match=r"out is not empty.*--overwrite"):
    quick(Stub(n=4), out)
  assert contents(out) == before
  with pytest.raises(RuntimeError):
    quick(Stub(fails=2), out, overwrite=True)
  assert contents(out) == before
  quick(Stub(n=4), out, overwrite=True)
  assert read_manifest(out)["splits"]["train"]["records"] == 3
  assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_overwrite_never_replaces_what_was_not_built(tmp_path):
  (tmp_path / "photo.jpg").write_bytes(b"precious")
  with pytest.raises(DataError, match="--overwrite replaces built folders only"):
    quick(Stub(), tmp_path, overwrite=True)
  assert (tmp_path / "photo.jpg").read_bytes() == b"precious"
  quick(Stub(), tmp_path / "out")
  (tmp_path / "out" / "notes.txt").write_text("mine")
  with pytest.raises(DataError, match=r"would delete notes\.txt in .*out"):
    quick(Stub(), tmp_path / "out", overwrite=True)
  assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
  "source, options, error, said",
  [
    (Scenes("eazy"), {}, ConfigError, "'eazy'.*Nearest: 'easy'"),
    (Scenes("full", size=9), {}, DataError, f"--size=9 is below {LEVELS['full'].floor} pixels"),
    (Scenes(count=0), {}, DataError, "train must be at least 1"),
    (Scenes(val_count=-1), {}, DataError, "others at least 0"),
    (Stub(), {"shard_records": 0}, DataError, "--shard-records=0"),
    (Stub(), {"vocab": 10}, DataError, "--vocab=10 is smaller than"),
  ],
)
def test_arguments_that_cannot_be(tmp_path, source, options, error, said):
  with pytest.raises(error, match=said):
    quick(source, tmp_path / "out", **options)
  assert not list(tmp_path.iterdir())


def test_lines_instead_of_a_bar_where_no_terminal_is(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr("t2i_jax.data.progress.LINE_SECONDS", 0.0)
  build(Stub(n=3), tmp_path / "out", workers=1)
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 3 and lines[-1].startswith("building out: 3 of 3, ")
