import json
import shutil

import pytest

from t2i_jax.data.record import Record
from t2i_jax.data.shards import SplitWriter, sha256_of
from t2i_jax.data.verify import Problem, verify
from t2i_jax.errors import DataError

SECOND = "train-00001-of-00003.arrayrecord"


def check(folder):
  return verify(folder, workers=1, progress=False)


def test_a_sound_folder_has_no_problems(scenes_dir):
  assert check(scenes_dir) == []


def test_a_flipped_byte_names_shard_and_record(scenes_copy):
  path = scenes_copy / SECOND
  data = bytearray(path.read_bytes())
  data[5000] ^= 255
  path.write_bytes(data)
  problems = check(scenes_copy)
  assert [p.file for p in problems] == [SECOND, SECOND, "manifest.json"]
  assert problems[0].record is None and "another sha256" in problems[0].what
  assert problems[1].record is not None and 0 <= problems[1].record < 40
  assert f"{SECOND}, record {problems[1].record}: " in str(problems[1])
  assert "captions were read" in problems[2].what


def test_missing_truncated_and_stray_shards(scenes_copy):
  (scenes_copy / "train-00000-of-00003.arrayrecord").unlink()
  second = scenes_copy / SECOND
  second.write_bytes(second.read_bytes()[:70_000])
  shutil.copy(scenes_copy / "val-00000-of-00001.arrayrecord", scenes_copy / "old.arrayrecord")
  said = "\n".join(map(str, check(scenes_copy)))
  assert "train-00000-of-00003.arrayrecord is missing" in said
  assert f"{SECOND} is cut short or changed: it has 70000 bytes" in said
  assert f"{SECOND}: is not a readable ArrayRecord file" in said
  assert "old.arrayrecord: is not in the manifest" in said


def rewrite(folder, records):
  """Puts records in place of the split val, with a manifest that agrees with the file."""
  (folder / "val-00000-of-00001.arrayrecord").unlink()
  writer = SplitWriter(folder, "val", 100)
  for record in records:
    writer.write(record.pack(), len(record.captions))
  manifest = json.loads((folder / "manifest.json").read_text())
  manifest["splits"]["val"] = writer.close()
  (folder / "manifest.json").write_text(json.dumps(manifest))


def test_records_that_a_hash_would_not_find(scenes_copy, saved, noise):
  good = saved(noise(8, 8))
  rewrite(
    scenes_copy,
    [
      Record(good, ("fine",), "0"),
      Record(good[:-40], ("cut image",), "1"),
      Record(good, (" ",), "2"),
      Record(b"\x93NUMPY", ("no latents",), "3"),
    ],
  )
  problems = [p for p in check(scenes_copy) if p.record is not None]
  assert [p.record for p in problems] == [1, 2, 3]
  assert "cannot be decoded" in problems[0].what
  assert "empty caption" in problems[1].what
  assert "cannot be decoded" in problems[2].what


def test_counts_that_disagree(scenes_copy):
  manifest = json.loads((scenes_copy / "manifest.json").read_text())
  manifest["splits"]["val"]["records"] = 13
  manifest["splits"]["train"]["shards"][2]["records"] = 19
  manifest["tokenizer"]["vocab"] = 7
  (scenes_copy / "manifest.json").write_text(json.dumps(manifest))
  said = [str(p) for p in check(scenes_copy)]
  assert "manifest.json: split val: shards have 12 records, the split says 13" in said
  assert "train-00002-of-00003.arrayrecord: has 20 records, the manifest says 19" in said
  assert any(s.startswith("tokenizer.json: has ") and s.endswith("says 7") for s in said)


def test_a_changed_tokenizer(scenes_copy):
  (scenes_copy / "tokenizer.json").write_text("{}")
  assert [p.file for p in check(scenes_copy)] == ["tokenizer.json"]
  manifest = json.loads((scenes_copy / "manifest.json").read_text())
  manifest["tokenizer"]["sha256"] = sha256_of(scenes_copy / "tokenizer.json")
  (scenes_copy / "manifest.json").write_text(json.dumps(manifest))
  assert "is not a tokenizer" in check(scenes_copy)[0].what


def test_without_a_manifest(tmp_path):
  with pytest.raises(DataError, match="has no manifest"):
    verify(tmp_path)


def test_problem_reads_as_a_line():
  assert str(Problem("f", None, "is gone")) == "f: is gone"
  assert str(Problem("f", 3, "is bad")) == "f, record 3: is bad"
