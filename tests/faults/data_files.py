"""What the tests of data write and read: images, folders, tars, built folders."""

import io
import json
import tarfile

from PIL import Image

from t2i_jax.data.build import build
from t2i_jax.data.from_folder import Folder
from t2i_jax.data.source import ShardSource, read_manifest


def saved(image, kind="PNG", **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def plain(kind="PNG", size=(6, 4), color=(10, 200, 30), **options):
  return saved(Image.new("RGB", size, color), kind, **options)


def quick(source, out, **options):
  return build(source, out, workers=1, progress=False, **options)


def write(root, files):
  """Files by name, a .txt beside each but text files; and two good pairs."""
  for name, data in {"good0.png": plain(), "good1.png": plain(), **files}.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if path.suffix not in (".txt", ".TXT", ".jsonl") and not path.with_suffix(".txt").exists():
      path.with_suffix(".txt").write_bytes(files.get(str(path.stem) + ".txt", b"a caption"))
  return root


def keys(out):
  found = []
  for split in read_manifest(out)["splits"]:
    source = ShardSource(out, split)
    found += [source[i] for i in range(len(source))]
  return {record.key: record for record in found}


def skipped(out):
  rows = map(json.loads, (out / "skipped.jsonl").read_text("utf-8").splitlines())
  return {row["item"]: row["reason"] for row in rows}


def built(tmp_path, files, source=Folder, **options):
  """The records and the skipped items of a folder of these files."""
  write(tmp_path / "in", files)
  quick(source(str(tmp_path / "in")), tmp_path / "out", **options)
  return keys(tmp_path / "out"), skipped(tmp_path / "out")


def tar(members, mode="w", **options):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode=mode, **options) as file:
    for name, data in members:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      file.addfile(info, io.BytesIO(data))
  return buffer.getvalue()


def pairs(n, prefix=""):
  return [(f"{prefix}{i}.{e}", d) for i in range(n) for e, d in (("png", plain()), ("txt", b"c"))]
