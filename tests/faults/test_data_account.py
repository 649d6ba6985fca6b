"""Rule: found = used + rejected by name, of files, tars, members, rows and captions."""

import json
import tarfile

import pytest
from data_files import keys, pairs, plain, quick, skipped, tar, write

from t2i_jax.data.account import Account
from t2i_jax.data.from_folder import Folder
from t2i_jax.data.from_webdataset import WebDataset, names_of


def header_of(data, name):
  return data.index(name.encode() + b"\0")


def damaged(data, name):
  at = header_of(data, name)
  return data[: at + 148] + b"\0" * 8 + data[at + 156 :]  # its checksum


TAR = tar(pairs(4))
TARS = {
  "damaged header": (damaged(TAR, "2.png"), 2),
  "cut at a header": (TAR[: header_of(TAR, "2.png")], 2),
  "cut in a header": (TAR[: header_of(TAR, "2.png") + 100], 2),
  "cut in a member": (TAR[: header_of(TAR, "2.png") + 530], 2),
  "zeros in place of a header": (
    TAR[: header_of(TAR, "2.png")] + bytes(512) + TAR[header_of(TAR, "2.png") + 512 :],
    2,
  ),
  "one after the other": (TAR + tar(pairs(2, "b")), 4),
  "text after it": (TAR + b"x", 4),
  "cut gzip": (tar(pairs(4), "w:gz")[:-9], 4),
  "damaged gzip": (tar(pairs(4), "w:gz", compresslevel=0)[:-8] + bytes(8), 4),
  "no tar": (b"text" * 300, 0),
  "empty": (b"", 0),
}


@pytest.mark.parametrize("data, whole", TARS.values(), ids=TARS)
def test_a_tar_ends_at_its_own_end_mark(tmp_path, data, whole):
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "t.tar").write_bytes(data)
  (tmp_path / "in" / "u.tar").write_bytes(tar(pairs(2)))
  manifest = quick(WebDataset(str(tmp_path / "in")), tmp_path / "out")
  found, named = keys(tmp_path / "out"), skipped(tmp_path / "out")
  assert {key for key in found if key.startswith("t/")} == {f"t/{i}" for i in range(whole)}
  assert named[str(tmp_path / "in" / "t.tar")].startswith("tar is damaged: ")
  assert manifest["account"]["tars"] == {
    "found": 2,
    "used": 1,
    "rejected": {"tar is damaged": 1},
  }


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_sound_tars_are_whole(tmp_path, mode):
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "t.tar").write_bytes(tar(pairs(4, "x" * 150), mode, format=tarfile.GNU_FORMAT))
  manifest = quick(WebDataset(str(tmp_path / "in")), tmp_path / "out")
  assert manifest["account"] == {
    "captions": {"found": 4, "used": 4, "rejected": {}},
    "items": {"found": 4, "used": 4, "rejected": {}},
    "members": {"found": 8, "used": 8, "rejected": {}},
    "tars": {"found": 1, "used": 1, "rejected": {}},
  }


KEYS = {
  "dots in a stem": (["v1.5_1.jpg", "v1.5_1.txt", "v1.5_2.jpg", "v1.5_2.txt"],
                     ["v1.5_1", "v1.5_2"]),
  "a further field": (["1.jpg", "1.seg.png", "1.txt", "2.jpg", "2.cls", "2.txt"], ["1", "2"]),
  "a further field first": (["1.depth.png", "1.jpg", "1.txt"], ["1"]),
  "both": (["a.jpg", "a.b.jpg", "a.b.txt", "a.txt"], ["a.b", "a"]),
  "files of a Mac": (["._1.jpg", "1.jpg", "1.txt"], ["1"]),
}  # fmt: skip


@pytest.mark.parametrize("names, wanted", KEYS.values(), ids=KEYS)
def test_keys_of_members(tmp_path, names, wanted):
  content = {"txt": b"c", "cls": b"3"}
  members = [(name, content.get(name.rpartition(".")[2], plain())) for name in names]
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "t.tar").write_bytes(tar([*members, *pairs(2, "z")]))
  manifest = quick(WebDataset(str(tmp_path / "in")), tmp_path / "out")
  assert set(keys(tmp_path / "out")) == {f"t/{key}" for key in [*wanted, "z0", "z1"]}
  assert skipped(tmp_path / "out") == {}
  assert manifest["account"]["members"]["found"] == len(members) + 4


@pytest.mark.parametrize(
  "paths, wanted",
  [
    (["d/part.0.tar", "d/part.1.tar"], ["part.0", "part.1"]),
    (["d/p0.tar", "d/p1.tar.gz", "d/p2.tgz"], ["p0", "p1", "p2"]),
    (["d/a/p.tar", "d/b/p.tar"], ["a/p.tar", "b/p.tar"]),
    (["p.tar", "p.tgz"], ["p.tar", "p.tgz"]),
  ],
)
def test_no_two_tars_have_the_same_keys(paths, wanted):
  assert names_of(paths) == wanted


def test_every_file_row_and_caption_of_a_folder_has_a_place(tmp_path):
  rows = [{"file_name": "r.png", "text": "by a row"}, {"file_name": "r.png"}, {"text": "none"}]
  files = {
    "a.jfif": plain("JPEG"),
    "b.jp2": plain("JPEG2000", (32, 32)),
    "c.heic": b"",
    "alone.txt": b"c",
    "upper.PNG": plain(),
    "upper.TXT": b"upper",
    "r.png": plain(),
    "r.txt": b"not read",
    "notes.pdf": b"",
    ".hidden.png": plain(),
    "three.png": plain(),
    "three.txt": "one\n\none\ntwo\n\u200b\n".encode(),
    "metadata.jsonl": "\n".join(map(json.dumps, rows)).encode(),
  }
  for name in ("a.txt", "b.txt", "c.txt", "notes.txt", ".hidden.txt", "upper.txt"):
    files[name] = b""
  root = write(tmp_path / "in", files)
  for name in ("a.txt", "b.txt", "c.txt", "notes.txt", ".hidden.txt", "upper.txt"):
    (root / name).unlink()
  manifest = quick(Folder(str(root)), tmp_path / "out")
  assert set(keys(tmp_path / "out")) == {
    "good0.png",
    "good1.png",
    "upper.PNG",
    "r.png",
    "three.png",
  }
  assert keys(tmp_path / "out")["upper.PNG"].captions == ("upper",)
  assert skipped(tmp_path / "out") == {
    "a.jfif": "format is not read: .jfif",
    "b.jp2": "format is not read: .jp2",
    "c.heic": "format is not read: .heic",
    "alone.txt": "no image: captions alone",
    "metadata.jsonl:2": "no caption",
    "metadata.jsonl:3": "bad row: KeyError 'file_name'",
    "three.png": "caption is invisible: U+200B",
  }
  assert manifest["account"] == {
    "captions": {
      "found": 9,
      "used": 6,
      "rejected": {"caption is invisible": 1, "empty caption": 1, "repeated caption": 1},
    },
    "files": {
      "found": 17,
      "used": 10,
      "rejected": {
        "format is not read": 3,
        "name begins with a dot": 1,
        "neither image nor captions": 1,
        "no image": 1,
        "not read": 1,
      },
    },
    "items": {"found": 5, "used": 5, "rejected": {}},
    "rows": {"found": 3, "used": 1, "rejected": {"bad row": 1, "no caption": 1}},
  }


def test_what_is_found_and_has_no_place_is_an_error():
  account = Account()
  account.find("members", 3)
  account.use("members")
  account.reject("members", "too large: 9 bytes")
  with pytest.raises(AssertionError, match="members: 3 found, but 1 used and 1 rejected"):
    account.check()
