"""Rule: what a run will meet in its data is known before it starts."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from data_files import plain, quick

from t2i_jax.data import build as builder
from t2i_jax.data.build import build
from t2i_jax.data.documents import Layout, Markers, Packed, Packing
from t2i_jax.data.from_edits import Edits
from t2i_jax.data.from_scenes import Scenes
from t2i_jax.data.lengths import Limit, check_lengths
from t2i_jax.data.record import Record
from t2i_jax.data.sheet import TILE, load_font, wrap
from t2i_jax.data.source import ShardSource, manifest_hash, read_manifest
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.transforms import Caption, Transform
from t2i_jax.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def edits(tmp_path_factory):
  out = tmp_path_factory.mktemp("edits") / "out"
  quick(Edits("easy", None, 12, 4, 0), out)
  return out


def test_the_manifest_has_the_lengths_of_captions(edits):
  manifest = read_manifest(edits)
  source = ShardSource(edits, "train")
  for name, tokenizer in (("bpe", Tokenizer.load(edits, "bpe")), ("bytes", Tokenizer.bytes())):
    for text in ("captions", "instructions"):
      texts = [t for i in range(len(source)) for t in source[i].texts]
      own = {t for i in range(len(source)) for t in source[i].captions}
      texts = [t for t in texts if (t in own) == (text == "captions")]
      found = sorted(int(tokenizer.encode([t], 999)[1].sum()) for t in texts)
      said = manifest["lengths"]["train"][text][name]
      assert {int(k): n for k, n in said["histogram"].items()} == {
        n: found.count(n) for n in set(found)
      }
      assert said["longest"] == found[-1]
      assert said["quantiles"]["50%"] == found[(len(found) - 1) // 2]


def test_a_run_knows_its_long_captions(edits):
  source = ShardSource(edits, "train")
  bpe = Tokenizer.load(edits, "bpe")
  captions = [n for i in range(len(source)) for n in bpe.lengths(source[i].captions)]
  longest = max(captions)
  assert check_lengths(source, Limit(bpe, longest), "error") == ""
  over = captions.count(longest)
  with pytest.raises(
    DataError, match=f"{over} of {len(captions)} captions.*text.length={longest} or more"
  ):
    check_lengths(source, Limit(bpe, longest - 1), "error")
  said = check_lengths(source, Limit(bpe, longest - 1), "truncate")
  assert said.startswith(f"{over} of {len(captions)} captions of split 'train'")
  with pytest.raises(DataError, match="None is left"):
    check_lengths(source, Limit(bpe, 1), "skip")
  with pytest.raises(ConfigError, match=r"text\.too_long = 'cut' is not one of"):
    check_lengths(source, Limit(bpe, 9), "cut")


def test_lengths_that_no_manifest_has_are_counted(edits, tmp_path):
  source = ShardSource(edits, "train")
  manifest = json.loads((edits / "manifest.json").read_text())
  bpe = Tokenizer.load(edits, "bpe")
  limit = Limit(bpe, max(bpe.lengths(source[0].texts)) - 1, instructions=True)
  try:
    with pytest.raises(DataError) as first:
      check_lengths(source, limit, "error")
    without = {key: value for key, value in manifest.items() if key != "lengths"}
    (edits / "manifest.json").write_text(json.dumps(without))
    with pytest.raises(DataError) as second:
      check_lengths(source, limit, "error")
  finally:
    (edits / "manifest.json").write_text(json.dumps(manifest))
  assert str(first.value) == str(second.value)


def row(captions, policy):
  transform = Transform((4, 6), {"text": Caption(Tokenizer.bytes(), 5)}, policy)
  return [transform([Record(plain(), captions, "k")], np.random.default_rng(s)) for s in range(20)]


def test_what_is_done_with_a_long_caption():
  with pytest.raises(DataError, match=r"text\.length = 5"):
    row(("abcdef",), "error")
  (ids,) = {tuple(r.text["text"].ids.tolist()) for r in row(("abcdef",), "truncate")}
  assert ids == (1, *(ord(c) + 3 for c in "abc"), 2)
  for r in row(("abcdef", "ab"), "skip"):
    assert r.text["text"].ids.tolist() == [1, ord("a") + 3, ord("b") + 3, 2, 0]
    assert r.image_weight.tolist() == [1]
  assert {float(r.image_weight.sum()) for r in row(("abcdef",), "skip")} == {0.0}
  for error, skip in zip(row(("a", "ab"), "error"), row(("a", "ab"), "skip"), strict=True):
    np.testing.assert_array_equal(error.text["text"].ids, skip.text["text"].ids)


def packed(policy, records, **shares):
  """The documents that a joint model gets of these records."""
  tokenizer = Tokenizer.bytes()
  layout = Layout(60, 4, 2, 3, "grid", Markers.of(tokenizer))
  settings = Packed(window=len(records), drop=0.0, **shares)
  packing = Packing(settings, layout, (4, 6, 3), tokenizer, 5, policy)
  assert packing.limits == [Limit(tokenizer, 5, settings.edited > 0)]
  return packing.documents(records, np.random.default_rng(0))


def test_what_a_joint_model_does_with_a_long_text():
  long, short = Record(plain(), ("abcdef",), "k"), Record(plain(), ("ab",), "k")
  with pytest.raises(DataError, match=r"text\.length = 5"):
    packed("error", [long])
  ((text, _),) = packed("truncate", [long], image_first=0.0)
  assert text.ids.tolist() == [ord(c) + 3 for c in "abc"]
  assert len(packed("skip", [long, short])) == 1 and packed("skip", [long]) == []
  edit = Record(plain(), ("ab",), "k", {}, (("too long", plain()),))
  assert packed("skip", [edit], image_first=0.0, edited=1.0) == []


def test_the_hash_of_a_folder_is_of_its_content(tmp_path):
  hashes = []
  for seed, name in ((0, "a"), (0, "b"), (1, "c")):
    quick(Scenes("easy", None, 4, 1, 0, seed), tmp_path / name)
    hashes.append(manifest_hash(tmp_path / name))
  assert hashes[0] == hashes[1] != hashes[2]


class Counting:
  """A font that counts the characters that are measured."""

  def __init__(self):
    self.count = 0

  def getlength(self, text):
    self.count += len(text)
    return load_font().getlength(text)


@pytest.mark.parametrize("length", [3000, 10**6])
def test_a_long_word_is_wrapped_at_once(length):
  font = Counting()
  lines = wrap("x" * length, font, TILE)
  assert font.count < 50_000
  assert all(load_font().getlength(line) <= TILE for line in lines)
  assert lines[0] == "x" * len(lines[0]) and lines[-1] == "..."


def test_letters_beyond_ascii_are_drawn():
  font = load_font()
  box = bytes(font.getmask("\U0010fffe"))
  for letter in "éüßñøçŁžČİ€£«»„“”–…×°ЖжяΩπ":
    assert bytes(font.getmask(letter)) not in (box, bytes(font.getmask("e"))), letter


ODD = {
  "splits is missing": lambda m: m.pop("splits"),
  "splits is 3, not a map": lambda m: m.update(splits=3),
  "splits is empty": lambda m: m.update(splits={}),
  "splits.val.shards is missing": lambda m: m["splits"]["val"].pop("shards"),
  "splits.val.records is '4', not a count": lambda m: m["splits"]["val"].update(records="4"),
  "splits.val.captions is -1": lambda m: m["splits"]["val"].update(captions=-1),
  r"shards\[0\].file is '../x', not the name": lambda m: m["splits"]["val"]["shards"][0].update(
    file="../x"
  ),
  r"shards\[0\].sha256 is missing": lambda m: m["splits"]["val"]["shards"][0].pop("sha256"),
  "tokenizer is None, not a map": lambda m: m.update(tokenizer=None),
  "attribution is missing": lambda m: m.pop("attribution"),
  "lengths.val is 1, not a map": lambda m: m["lengths"].update(val=1),
}


@pytest.mark.parametrize("said, change", ODD.items(), ids=ODD)
def test_an_odd_manifest_is_named(edits, tmp_path, said, change):
  manifest = json.loads((edits / "manifest.json").read_text())
  change(manifest)
  (tmp_path / "manifest.json").write_text(json.dumps(manifest))
  with pytest.raises(DataError, match=rf"manifest\.json: .*{said}"):
    read_manifest(tmp_path)


def test_verify_ends_with_a_message(tmp_path):
  """A shard that cannot be read, and a reader that takes one line."""
  quick(Scenes("easy", None, 40, 4, 0), tmp_path / "out", shard_records=4)
  for shard in (tmp_path / "out").glob("train*"):
    shard.unlink()
    shard.mkdir()
  command = f"{sys.executable} -m t2i_jax.cli.main data verify {tmp_path / 'out'} --workers 1"
  done = subprocess.run(f"{command} | head -1", shell=True, capture_output=True, text=True)
  assert done.stderr == "" and len(done.stdout.splitlines()) == 1
  assert "train-00000-of-00010.arrayrecord" in done.stdout


def test_a_build_goes_on_where_nobody_reads_its_progress(tmp_path, monkeypatch):
  class Closed(io.StringIO):
    def write(self, text):
      raise BrokenPipeError

  monkeypatch.setattr("t2i_jax.data.progress.LINE_SECONDS", 0.0)
  monkeypatch.setattr(sys, "stdout", Closed())
  build(Scenes("easy", None, 4, 1, 0), tmp_path / "out", workers=1)
  assert read_manifest(tmp_path / "out")["splits"]["train"]["records"] == 4
  assert builder.SHARD_RECORDS == 8192
