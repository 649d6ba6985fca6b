"""Rule: whatever is wrong with one file, row or member is that item's own failure."""

import os
import struct
import subprocess
import sys
import time

import pytest
from data_files import built, plain, quick, skipped, write

from t2i_jax.data.files import MAX_BYTES
from t2i_jax.data.from_folder import Folder
from t2i_jax.data.images import decode, read_latent
from t2i_jax.errors import DataError

BROKEN_EXIF = bytes.fromhex(
  "45786966000049492a000800000002001201030001000000060000001a010200040000003732000000000000"
)


def with_exif(payload):
  jpeg = plain("JPEG", (2, 1))
  return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


def npy(header, data=b""):
  text = header.encode()
  return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (100000, 100000, 100), }"


@pytest.mark.parametrize(
  "data, said",
  [
    (b"\x93NUMPY\1\0\1\0{", "cannot be decoded"),
    (npy(HUGE + "\n"), "takes 8,000,000,000,000 bytes, the file has 0"),
    (npy(HUGE.replace("100000", "-1") + "\n"), "cannot be decoded"),
    (npy("{'descr': '<f2', 'fortran_order': False, 'shape': (0, 4, 4), }\n"), "not latents"),
    (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1, 1), }\n",
         struct.pack("<d", 1e300)), "NaN or infinite"),
    (npy("(" * 400), "cannot be decoded"),
    (b"\x93NUMPY\3\0" + bytes(20), "version"),
  ],
  ids=["cut header", "huge shape", "negative", "empty", "beyond float32", "nested", "version 3"],
)  # fmt: skip
def test_arrays_that_are_no_latents(data, said):
  with pytest.raises(DataError, match=said):
    read_latent(data)


def test_exif_that_cannot_be_written_again(tmp_path):
  data = with_exif(BROKEN_EXIF)
  found, named = built(tmp_path, {"e.jpg": data, "garbage.jpg": with_exif(b"Exif\0\0" + b"?" * 9)})
  assert named == {}
  assert decode(found["e.jpg"].image).size == (1, 2)  # orientation 6: a quarter turn
  assert decode(found["garbage.jpg"].image).size == (2, 1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_only_regular_files_of_a_known_size_are_read(tmp_path):
  root = write(tmp_path / "in", {})
  os.mkfifo(root / "pipe.png")
  (root / "pipe.txt").write_text("c")
  (root / "text.png").write_bytes(plain())
  os.mkfifo(root / "text.txt")
  with (root / "large.jpg").open("wb") as file:
    file.truncate(3 * 2**30)
  (root / "large.txt").write_text("c")
  (root / "device.png").symlink_to("/dev/zero")
  (root / "device.txt").write_text("c")
  (root / "gone.png").symlink_to(root / "nothing")
  (root / "gone.txt").write_text("c")
  os.mkfifo(root / "metadata.jsonl")
  began = time.monotonic()
  quick(Folder(str(root)), tmp_path / "out")
  assert time.monotonic() - began < 10
  regular = "not a regular file"
  assert skipped(tmp_path / "out") == {
    "pipe.png": regular,
    "text.png": regular,
    "device.png": regular,
    "metadata.jsonl": regular,
    "gone.png": "cannot be read: No such file or directory",
    "large.jpg": f"too large: 3,221,225,472 bytes, at most {MAX_BYTES:,} are read",
  }


@pytest.mark.parametrize("kind, ending", [("ICO", "jpg"), ("TGA", "png"), ("JPEG2000", "jpg")])
def test_formats_that_are_not_meant_are_not_opened(tmp_path, kind, ending):
  _, named = built(tmp_path, {f"x.{ending}": plain(kind, (32, 32))})
  assert named[f"x.{ending}"].startswith("cannot be decoded: not an image format that is read")


def test_whatever_a_decoder_raises_is_of_one_item(tmp_path, monkeypatch):
  def fails(*_, **__):
    raise MemoryError("no more")

  monkeypatch.setattr("t2i_jax.data.user_images.stored_image", fails)
  write(tmp_path / "in", {})
  with pytest.raises(DataError, match=r"0 of 2 items.*2 cannot be used"):
    quick(Folder(str(tmp_path / "in")), tmp_path / "out")


@pytest.mark.parametrize("max_bad, ends", [(1.0, False), (0.5, False), (0.49, True), (0.0, True)])
def test_the_share_that_may_be_bad(tmp_path, max_bad, ends):
  files = {"bad0.png": b"", "bad1.png": b""}
  if not ends:
    assert len(built(tmp_path, files, max_bad=max_bad)[0]) == 2
    return
  with pytest.raises(DataError, match=rf"of 4 items.*--max-bad={max_bad}.*bad0.png: cannot"):
    built(tmp_path, files, max_bad=max_bad)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("max_bad", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_0_and_1(tmp_path, max_bad):
  with pytest.raises(DataError, match="--max-bad"):
    built(tmp_path, {}, max_bad=max_bad)


def test_a_worker_that_dies_or_hangs_loses_its_item_alone(tmp_path):
  script = tmp_path / "script.py"
  script.write_text("""
import os, signal, time
from t2i_jax.data import parallel_map
parallel_map.LIMIT = 2
def work(items):
  for i in items:
    if i == 5: os.kill(os.getpid(), signal.SIGSEGV)
    if i == 12: time.sleep(600)
  return items
if __name__ == "__main__":
  tasks = [[i, i + 1] for i in range(0, 40, 2)]
  lost = lambda item, why: [f"{item} {why}"]
  print([x for r in parallel_map.ordered_map(work, tasks, 2, lost) for x in r])
""")
  done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
  why = "its process crashed, was killed or took over 2 s"
  wanted = [f"{i} {why}" if i in (5, 12) else i for i in range(40)]
  assert done.stdout == f"{wanted}\n", done
