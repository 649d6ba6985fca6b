import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from t2i_jax.data.build import build
from t2i_jax.data.from_folder import Folder
from t2i_jax.data.from_webdataset import WebDataset
from t2i_jax.data.images import read_latent
from t2i_jax.data.source import ShardSource, read_manifest
from t2i_jax.data.user_images import split_of
from t2i_jax.errors import DataError


def records(out):
  """All records of a built folder by key."""
  found = {}
  for split in ("train", "val"):
    source = ShardSource(out, split)
    found |= {source[i].key: source[i] for i in range(len(source))}
  return found


def skipped(out):
  return {
    row["item"]: row["reason"]
    for row in map(json.loads, (out / "skipped.jsonl").read_text("utf-8").splitlines())
  }


def quick(source, out, **options):
  return build(source, out, workers=1, progress=False, **options)


@pytest.fixture
def png(noise, saved):
  return saved(noise(16, 24))


@pytest.fixture
def folder(tmp_path, png):
  """write(name, bytes or text) under a folder that already has two good images."""
  root = tmp_path / "images"

  def write(name, data):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)

  write("a.png", png)
  write("a.txt", "first caption\n\n  second caption  \nfirst caption\n")
  write("sub/b.png", png)
  write("sub/b.txt", "in a subfolder")
  write.root = root
  return write


def state(root):
  return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(root.rglob("*")) if p.is_file()}


def test_captions_beside_images(folder, tmp_path, png):
  before = state(folder.root)
  manifest = quick(Folder(str(folder.root), licence="CC0", attribution="A. Lab"), tmp_path / "out")
  found = records(tmp_path / "out")
  assert found["a.png"].captions == ("first caption", "second caption")
  assert found["a.png"].image == png
  assert found["sub/b.png"].captions == ("in a subfolder",)
  assert manifest["licence"] == "CC0" and manifest["attribution"] == "A. Lab"
  assert state(folder.root) == before  # the user's files are never touched


def test_what_cannot_be_used_is_named_with_its_reason(folder, tmp_path, png):
  for name, caption in (("broken", "c"), ("cut", "c"), ("empty", " \n "), ("latin", "c")):
    folder(f"{name}.png", png)
    folder(f"{name}.txt", caption)
  folder("none.png", png)
  folder("broken.png", b"no image")
  folder("cut.png", png[:-60])
  folder("latin.txt", "Bär".encode("latin-1"))
  folder(".hidden.png", b"")
  folder("notes.pdf", b"")
  manifest = quick(Folder(str(folder.root)), tmp_path / "out")
  reasons = skipped(tmp_path / "out")
  assert set(reasons) == {"broken.png", "cut.png", "empty.png", "latin.png", "none.png"}
  assert reasons["broken.png"].startswith("cannot be decoded: not an image format")
  assert reasons["cut.png"].startswith("cannot be decoded:")
  assert reasons["empty.png"] == "empty caption"
  assert reasons["none.png"] == "no caption"
  assert reasons["latin.png"].startswith("caption is not UTF-8: ")
  assert manifest["skipped"] == {
    "count": 5,
    "reasons": {
      "cannot be decoded": 2,
      "caption is not UTF-8": 1,
      "empty caption": 1,
      "no caption": 1,
    },
  }
  assert set(records(tmp_path / "out")) == {"a.png", "sub/b.png"}


def test_a_bomb_is_skipped_at_the_size_pil_warns_of(folder, tmp_path, png, monkeypatch):
  folder("bomb.png", png)
  folder("bomb.txt", "c")
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 24 - 1)
  folder("a.png", tiny(8, 8))
  folder("sub/b.png", tiny(8, 8))
  quick(Folder(str(folder.root)), tmp_path / "out")
  assert skipped(tmp_path / "out")["bomb.png"].startswith("too many pixels: ")


def tiny(height, width):
  buffer = io.BytesIO()
  Image.new("RGB", (width, height)).save(buffer, "PNG")
  return buffer.getvalue()


def test_captions_are_utf8_whatever_the_locale(folder, tmp_path):
  folder("a.txt", "﻿ein Bär, 熊\n")  # with a byte order mark
  script = f"""
from t2i_jax.data.build import build
from t2i_jax.data.from_folder import Folder
build(Folder({str(folder.root)!r}), {str(tmp_path / "out")!r}, workers=1, progress=False)
"""
  plain = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
  subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, **plain})
  assert records(tmp_path / "out")["a.png"].captions == ("ein Bär, 熊",)


def test_metadata_rows(folder, tmp_path, png):
  folder("sub/c.png", png)
  folder("sub/deep/d.png", png)
  rows = [
    {"file_name": "b.png", "text": "by text"},
    {"file_name": "c.png", "caption": "by caption"},
    {"file_name": "deep/d.png", "captions": ["one", "two"]},
    {"file_name": "c.png", "text": "another row"},
  ]
  folder("sub/metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
  quick(Folder(str(folder.root)), tmp_path / "out")
  found = records(tmp_path / "out")
  assert found["sub/b.png"].captions == ("by text",)
  assert found["sub/c.png"].captions == ("by caption", "another row")
  assert found["sub/deep/d.png"].captions == ("one", "two")
  assert found["a.png"].captions == ("first caption", "second caption")
  assert skipped(tmp_path / "out") == {}
  assert read_manifest(tmp_path / "out")["splits"]["train"]["records"] == 3  # none comes twice


def test_metadata_rows_that_cannot_be_used(folder, tmp_path, png):
  (tmp_path / "secret.png").write_bytes(png)
  rows = [
    '{"file_name": "../secret.png", "text": "t"}',
    json.dumps({"file_name": str(tmp_path / "secret.png"), "text": "t"}),
    '{"file_name": "sub/../../secret.png", "text": "t"}',
    '{"file_name": "a\\u0000.png", "text": "t"}',
    '{"file_name": "a.png"}',
    '{"text": "t"}',
    "not json",
    '["list"]',
    "",
    '{"file_name": "gone.png", "text": "t"}',
    '{"file_name": "sub/b.png", "text": "half \\ud800"}',
  ]
  folder("metadata.jsonl", "\n".join(rows))
  folder("a.txt", "kept")
  folder("z.png", png)
  folder("z.txt", "z")
  quick(Folder(str(folder.root)), tmp_path / "out")
  reasons = skipped(tmp_path / "out")
  for number in (1, 2, 3, 4):
    assert reasons[f"metadata.jsonl:{number}"].startswith("outside of the folder: ")
  assert reasons["metadata.jsonl:5"] == "no caption"
  for number in (6, 7, 8):
    assert reasons[f"metadata.jsonl:{number}"].startswith("bad row: ")
  assert "metadata.jsonl:9" not in reasons
  assert reasons["gone.png"].startswith("cannot be read: ")
  assert reasons["sub/b.png"].startswith("caption is not UTF-8")
  assert set(records(tmp_path / "out")) == {"a.png", "z.png"}


def test_links_and_odd_names(folder, tmp_path, png):
  (folder.root / "loop").symlink_to(folder.root)
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  (elsewhere / "linked.png").write_bytes(png)
  (elsewhere / "linked.txt").write_text("linked")
  (folder.root / "link").symlink_to(elsewhere)
  odd = os.fsencode(folder.root) + b"/\xff.png"
  with open(odd, "wb") as file:
    file.write(png)
  quick(Folder(str(folder.root)), tmp_path / "out")
  assert set(records(tmp_path / "out")) == {"a.png", "sub/b.png", "link/linked.png"}
  assert skipped(tmp_path / "out") == {"\\udcff.png": "no caption"}


def test_validation_goes_by_hash_of_the_name(folder, tmp_path, png):
  for i in range(200):
    folder(f"p{i}.png", tiny(2, 2))
    folder(f"p{i}.txt", "c")
  quick(Folder(str(folder.root), val_fraction=0.1), tmp_path / "out")
  source = ShardSource(tmp_path / "out", "val")
  keys = {source[i].key for i in range(len(source))}
  assert 8 < len(keys) < 35
  assert keys == {k for k in records(tmp_path / "out") if split_of(k, 0.1) == "val"}


@pytest.mark.parametrize("make", [Folder, WebDataset])
def test_paths_and_fractions_that_cannot_be(make, tmp_path):
  with pytest.raises(DataError, match=r"--path=.*nowhere"):
    quick(make(str(tmp_path / "nowhere")), tmp_path / "out")
  with pytest.raises(DataError, match=r"--val-fraction=1.5 is not in"):
    quick(make(str(tmp_path), val_fraction=1.5), tmp_path / "out")


def tar(path, members, mode="w"):
  with tarfile.open(path, mode) as file:
    for name, data in members:
      info = tarfile.TarInfo(name)
      data = data.encode("utf-8") if isinstance(data, str) else data
      info.size = len(data)
      file.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("suffix, mode", [("tar", "w"), ("tar.gz", "w:gz")])
def test_tars_are_grouped_by_key(tmp_path, png, noise, saved, suffix, mode):
  jpeg = saved(noise(16, 16), "JPEG")
  members = [
    ("x/0001.png", png),
    ("x/0001.txt", "a fox\nfox"),
    ("x/0001.json", '{"caption": "from json", "width": 3}'),
    ("x/0001.cls", "3"),
    ("./x/0002.JPG", jpeg),
    ("./x/0002.json", '{"captions": ["one", "two"]}'),
    ("0003.txt", "no image here"),
    ("0004.webp", saved(noise(8, 8), "WEBP")),
    ("0004.json", "{"),
    ("0005.jpeg", jpeg),
    ("0005.json", '{"other": 1}'),
    ("0006.jpg", jpeg[:200]),
    ("0006.txt", "cut"),
  ]
  (tmp_path / "in").mkdir()
  tar(tmp_path / "in" / f"part-0.{suffix}", members, mode)
  before = state(tmp_path / "in")
  quick(WebDataset(str(tmp_path / "in")), tmp_path / "out")
  found, reasons = records(tmp_path / "out"), skipped(tmp_path / "out")
  assert found["part-0/x/0001"].captions == ("a fox", "fox", "from json")
  assert found["part-0/x/0001"].image == png
  assert found["part-0/x/0002"].captions == ("one", "two")
  assert found["part-0/x/0002"].image == jpeg
  assert set(found) == {"part-0/x/0001", "part-0/x/0002"}
  assert reasons["part-0/0003"] == "no image"
  assert reasons["part-0/0004"].startswith("json cannot be read")
  assert reasons["part-0/0005"] == "no caption"
  assert reasons["part-0/0006"].startswith("cannot be decoded")
  assert state(tmp_path / "in") == before


def test_several_tars_by_glob_in_order(tmp_path, png):
  for part in (1, 0):
    members = [
      (f"{i}.{ext}", png if ext == "png" else "c") for i in range(2) for ext in ("png", "txt")
    ]
    tar(tmp_path / f"p{part}.tar", members)
  (tmp_path / "p2.idx").write_bytes(b"")
  quick(WebDataset(str(tmp_path / "p*.tar"), val_fraction=0), tmp_path / "out")
  source = ShardSource(tmp_path / "out", "train")
  assert [source[i].key for i in range(3)] == ["p0/0", "p0/1", "p1/0"]  # p1/1 is held out


def test_a_tar_that_breaks_off_keeps_what_came_before(tmp_path, png):
  members = [
    (f"{i}.{ext}", png if ext == "png" else "c") for i in range(5) for ext in ("png", "txt")
  ]
  tar(tmp_path / "t.tar", members)
  data = (tmp_path / "t.tar").read_bytes()
  cut = data.index(b"3.png") + 512 + 20  # inside the fourth image
  (tmp_path / "t.tar").write_bytes(data[:cut])
  (tmp_path / "u.tar").write_bytes(b"no tar at all" * 100)
  quick(WebDataset(str(tmp_path / "*.tar")), tmp_path / "out")
  assert set(records(tmp_path / "out")) == {"t/0", "t/1", "t/2"}
  reasons = skipped(tmp_path / "out")
  assert {os.path.basename(k) for k in reasons} == {"t.tar", "u.tar"}
  assert all(reason.startswith("tar is damaged: ") for reason in reasons.values())


def test_latents_are_stored_as_they_are(tmp_path):
  buffer = io.BytesIO()
  x = np.random.default_rng(0).normal(size=(4, 4, 8)).astype(np.float16)
  np.save(buffer, x)
  members = [(f"{i}.npy", buffer.getvalue()) for i in range(2)]
  members = [m for i, pair in enumerate(members) for m in (pair, (f"{i}.txt", "latent"))]
  tar(tmp_path / "t.tar", members)
  quick(WebDataset(str(tmp_path / "t.tar")), tmp_path / "out")
  record = records(tmp_path / "out")["t/0"]
  assert record.image == buffer.getvalue()
  np.testing.assert_array_equal(read_latent(record.image), x.astype(np.float32))
