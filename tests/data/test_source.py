import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from t2i_jax.data import source as source_module
from t2i_jax.data.record import Record, unpack
from t2i_jax.data.scenes import make_scene
from t2i_jax.data.source import ShardSource, read_manifest
from t2i_jax.errors import DataError

SECOND = "train-00001-of-00003.arrayrecord"


def test_records_come_back_in_the_order_of_their_source(scenes_dir):
  source = ShardSource(scenes_dir, "train")
  assert len(source) == 100
  for index in (0, 39, 40, 79, 80, 99):  # shards end at 40 and 80
    assert source[index].captions == make_scene(index, "easy", "train", 0).captions


def test_a_source_can_be_pickled_with_its_readers_open(scenes_dir):
  source = ShardSource(scenes_dir, "val")
  first = source[0]
  assert pickle.loads(pickle.dumps(source))[0] == first


def test_threads_and_few_open_readers(scenes_dir, monkeypatch):
  monkeypatch.setattr(source_module, "OPEN_READERS", 1)
  source = ShardSource(scenes_dir, "train")
  order = [i * 37 % 100 for i in range(400)]
  with ThreadPoolExecutor(4) as pool:
    keys = list(pool.map(lambda i: source[i].key, order))
  assert keys == [f"easy/train/0/{i}" for i in order]


@pytest.mark.parametrize("index", [-1, 100])
def test_an_index_out_of_range(scenes_dir, index):
  with pytest.raises(IndexError):
    ShardSource(scenes_dir, "train")[index]


def test_an_unknown_split_names_those_there(scenes_dir):
  with pytest.raises(DataError, match=r"no split 'test'; it has train, val, heldout"):
    ShardSource(scenes_dir, "test")


def test_a_folder_that_was_not_built(tmp_path):
  with pytest.raises(DataError, match=r"has no manifest.json. Build it with: t2i data build"):
    ShardSource(tmp_path, "train")
  with pytest.raises(DataError, match="does not exist"):
    ShardSource(tmp_path / "nowhere", "train")


@pytest.mark.parametrize(
  "text, said",
  [("{", "cannot be read"), ("[]", "format 'list'"), ('{"format": "t2i_jax/9"}', "/9")],
)
def test_a_bad_manifest(tmp_path, text, said):
  (tmp_path / "manifest.json").write_text(text)
  with pytest.raises(DataError, match=said):
    read_manifest(tmp_path)


def test_a_missing_shard(scenes_copy):
  (scenes_copy / SECOND).unlink()
  with pytest.raises(DataError, match=rf"{SECOND} is missing.*again"):
    ShardSource(scenes_copy, "train")
  assert len(ShardSource(scenes_copy, "val")) == 12  # other splits stay usable


def test_an_empty_shard(scenes_copy):
  (scenes_copy / SECOND).write_bytes(b"")
  with pytest.raises(DataError, match=rf"{SECOND} is empty, the manifest says \d+"):
    ShardSource(scenes_copy, "train")


def test_a_truncated_shard(scenes_copy):
  data = (scenes_copy / SECOND).read_bytes()
  (scenes_copy / SECOND).write_bytes(data[:-100])
  message = rf"{SECOND} is cut short or changed: it has {len(data) - 100} bytes.* {len(data)}"
  with pytest.raises(DataError, match=message):
    ShardSource(scenes_copy, "train")


def test_a_split_without_records(scenes_copy):
  manifest = json.loads((scenes_copy / "manifest.json").read_text())
  manifest["splits"]["val"]["shards"] = []
  (scenes_copy / "manifest.json").write_text(json.dumps(manifest))
  with pytest.raises(DataError, match="has no records"):
    ShardSource(scenes_copy, "val")


def test_a_corrupt_record_is_named_and_its_neighbours_are_read(scenes_copy):
  path = scenes_copy / SECOND
  data = bytearray(path.read_bytes())
  data[5000:5004] = bytes(255 - b for b in data[5000:5004])  # inside some record
  path.write_bytes(data)
  source, bad = ShardSource(scenes_copy, "train"), []
  for index in range(40, 80):
    try:
      assert source[index].key == f"easy/train/0/{index}"
    except DataError as error:
      bad.append((index, str(error)))
  assert len(bad) == 1
  index, said = bad[0]
  assert f"{SECOND}, record {index - 40}:" in said
  assert "t2i data verify" in said


def test_a_shard_that_is_garbage_of_the_right_size(scenes_copy):
  path = scenes_copy / SECOND
  path.write_bytes(b"x" * path.stat().st_size)
  with pytest.raises(DataError, match=rf"{SECOND}, record 5: is not a readable ArrayRecord"):
    ShardSource(scenes_copy, "train")[45]


def test_a_record_round_trips():
  record = Record(b"\x00png", ("ein Bär", "熊"), "a/b", {"facts": [{"n": 2}], "x": None, "y": 1.5})
  assert unpack(record.pack()) == record


@pytest.mark.parametrize(
  "record, said",
  [
    (Record(b"", ("a",), "k"), "no image bytes"),
    (Record(b"x", (), "k"), "no caption"),
    (Record(b"x", ("a", "  "), "k"), r"empty caption \(number 1\)"),
    (Record(b"x", ("a",), ""), "no key"),
    (Record(b"x", ("a",), "k", ["meta"]), "type list"),
  ],
)
def test_a_record_against_its_schema(record, said):
  with pytest.raises(DataError, match=said):
    unpack(record.pack())


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01", b"\x81\xa1a\x01"])
def test_bytes_that_are_no_record(data):
  with pytest.raises(DataError, match="is not a record of this format"):
    unpack(data)
