"""Damaged files through `t2i data build`: each must end as a record or be named with a reason.

  python -m benchmarks.proofs.fuzz_data --count=20000 --to=counts.json

Files of every kind that a build reads are changed at random: flipped bits, cuts, parts of other
files, random headers, large integers, another suffix. A folder or a set of tars of them is built;
a traceback, an item without a place or a build that takes more than its time ends the run.
"""

import argparse
import io
import json
import resource
import tarfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageCms, features

from t2i_jax.data import parallel_map
from t2i_jax.data.build import build
from t2i_jax.data.from_folder import Folder
from t2i_jax.data.from_webdataset import WebDataset
from t2i_jax.data.source import ShardSource, read_manifest

AT_ONCE = 1000  # files of a build
SECONDS = 60  # of an item, until its worker is ended
GOOD = 60  # files that are not changed, beside those of a build: some are for validation


def image_bytes(kind: str, mode: str = "RGB", seed: int = 0, **options) -> bytes:
  """A small image file."""
  rng = np.random.default_rng(seed)
  small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
  image = small.resize((40, 28), Image.Resampling.BICUBIC).convert(mode)
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def sources() -> dict[str, tuple[str, list[bytes]]]:
  """Files by kind: their suffix, and contents."""
  exif = Image.Exif()
  exif[0x0112], exif[0x010E] = 6, "a description"
  icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  array = io.BytesIO()
  np.save(array, np.ones((4, 6, 8), np.float16))
  grey = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
  sixteen = io.BytesIO()
  grey.save(sixteen, "PNG")
  found = {
    "jpeg": ("jpg", [image_bytes("JPEG", exif=exif, icc_profile=icc), image_bytes("JPEG", "L")]),
    "png": (
      "png",
      [
        image_bytes("PNG", "P", transparency=3),
        image_bytes("PNG", "RGBA", icc_profile=icc),
        sixteen.getvalue(),
      ],
    ),
    "webp": ("webp", [image_bytes("WEBP"), image_bytes("WEBP", "RGBA", lossless=True)]),
    "gif": ("gif", [image_bytes("GIF", "P")]),
    "bmp": ("bmp", [image_bytes("BMP")]),
    "tiff": ("tif", [image_bytes("TIFF", compression="tiff_lzw"), image_bytes("TIFF", "CMYK")]),
    "npy": ("npy", [array.getvalue()]),
    "captions": ("txt", ["ein Bär, 熊\nsecond\r\nthird".encode(), "utf-16".encode("utf-16-le")]),
  }
  if features.check("avif"):
    found["avif, named jpg"] = ("jpg", [image_bytes("AVIF")])
  return found


def mutated(data: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
  """The bytes with one to three changes."""
  changed = bytearray(data)
  for _ in range(rng.integers(1, 4)):
    size = len(changed)
    if size < 2:
      break
    place = int(rng.integers(size))
    kind = rng.integers(7)
    if kind <= 1:
      for at in rng.integers(0, size, 1 if kind == 0 else 8):
        changed[at] ^= 1 << int(rng.integers(8))
    elif kind == 2:
      del changed[place:]
    elif kind == 3:
      other = others[rng.integers(len(others))]
      start = int(rng.integers(len(other) or 1))
      changed[place : place + 64] = other[start : start + int(rng.integers(1, 256))]
    elif kind == 4:
      changed[: min(size, 16)] = rng.bytes(min(size, 16))
    elif kind == 5:
      value = [0, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000][rng.integers(5)]
      changed[place : place + 4] = value.to_bytes(4, "big" if rng.random() < 0.5 else "little")
    else:
      del changed[place : place + int(rng.integers(1, 32))]
  return bytes(changed)


def write_folder(root: Path, count: int, rng: np.random.Generator) -> Counter[str]:
  """`count` changed files with captions, rows of a metadata.jsonl among them. Counts by kind."""
  kinds = sources()
  everything = [data for _, files in kinds.values() for data in files]
  counts: Counter[str] = Counter()
  rows = []
  for i in range(count + GOOD):
    kind = list(kinds)[rng.integers(len(kinds))] if i < count else "jpeg"
    suffix, files = kinds[kind]
    data = files[rng.integers(len(files))]
    caption = b"a caption"
    if kind == "captions":
      suffix, data, caption = "jpg", image_bytes("JPEG"), mutated(data, everything, rng)
    elif i < count:
      data = mutated(data, everything, rng)
    (root / f"{i}.{suffix}").write_bytes(data)
    if i < count and i % 10 == 0:
      row = json.dumps({"file_name": f"{i}.{suffix}", "text": "by a row", "n": [i]}).encode()
      rows.append(mutated(row, everything, rng) if i % 20 else row)
      kind = "metadata row"
    else:
      (root / f"{i}.txt").write_bytes(caption)
    counts[kind] += i < count
  (root / "metadata.jsonl").write_bytes(b"\n".join(rows))
  return counts


def tar_bytes(rng: np.random.Generator) -> bytes:
  """A tar of three pairs, plain or compressed, with long names in one of its formats."""
  buffer = io.BytesIO()
  mode = ("w", "w", "w:gz", "w:xz")[rng.integers(4)]
  kind = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)[rng.integers(3)]
  with tarfile.open(fileobj=buffer, mode=mode, format=kind) as tar:
    for i in range(3):
      name = "x" * (60 if kind == tarfile.USTAR_FORMAT else 150) + str(i)
      for suffix, data in (("jpg", image_bytes("JPEG", seed=i)), ("txt", b"a caption")):
        info = tarfile.TarInfo(f"{name}.{suffix}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
  return buffer.getvalue()


def write_tars(root: Path, count: int, rng: np.random.Generator) -> Counter[str]:
  """`count` changed tars."""
  others = [data for _, files in sources().values() for data in files]
  for i in range(count + GOOD // 3):
    data = tar_bytes(rng)
    (root / f"{i}.tar").write_bytes(mutated(data, [*others, data], rng) if i < count else data)
  return Counter(tar=count)


def fuzz(count: int, seed: int, workers: int = 1) -> dict[str, Counter[str]]:
  """Builds `count` changed files, nine tenths in a folder and one tenth tars.

  Raises AssertionError where one has no place.
  Returns counts: by kind of file, and by outcome with the reasons.
  """
  kinds: Counter[str] = Counter()
  outcomes: Counter[str] = Counter()
  done = 0
  while done < count:
    size = min(AT_ONCE, count - done)
    rng = np.random.default_rng((seed, done))
    tars = size // 10
    for n, write, source in ((size - tars, write_folder, Folder), (tars, write_tars, WebDataset)):
      with TemporaryDirectory() as folder:
        kinds += _built(n, write, source, Path(folder), rng, workers, outcomes)
    done += size
  return {"kinds": kinds, "outcomes": outcomes}


def _built(
  count: int,
  write: Callable,
  source: Callable,
  folder: Path,
  rng: np.random.Generator,
  workers: int,
  outcomes: Counter[str],
) -> Counter[str]:
  root = folder / "in"
  root.mkdir()
  kinds = write(root, count, rng)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    build(source(str(root), 100), folder / "out", workers=workers, progress=False)
  manifest = read_manifest(folder / "out")
  lines = (folder / "out" / "skipped.jsonl").read_text("utf-8").splitlines()
  named = {json.loads(line)["item"] for line in lines}
  for split in manifest["splits"]:
    records = ShardSource(folder / "out", split)
    named |= {records[i].key for i in range(len(records))}
  if source is Folder:
    missing = {p.name for p in root.iterdir() if p.suffix not in (".txt", ".jsonl")} - named
    assert not missing, f"neither used nor named: {sorted(missing)[:5]}"
  else:
    tars = manifest["account"]["tars"]
    assert tars["found"] == len(list(root.iterdir())), tars
  outcomes.update(used=manifest["account"]["items"]["used"])
  outcomes.update(manifest["skipped"]["reasons"])
  return kinds


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--count", type=int, default=20_000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--workers", type=int, default=2)
  parser.add_argument("--to", help="a JSON file of the counts")
  args = parser.parse_args()
  parallel_map.LIMIT = SECONDS
  began = time.perf_counter()
  found = fuzz(args.count, args.seed, args.workers)
  for name, counts in found.items():
    print(f"\n{name}")
    for key, n in counts.most_common():
      print(f"  {n:8,}  {key}")
  who = resource.RUSAGE_CHILDREN if args.workers > 1 else resource.RUSAGE_SELF
  peak = resource.getrusage(who).ru_maxrss // 1024
  seconds = time.perf_counter() - began
  print(f"\n{args.count:,} files in {seconds:.0f} s; largest process {peak:,} MiB")
  if args.to:
    summary = {"count": args.count, "seed": args.seed, "seconds": round(seconds), "peak_mib": peak}
    summary |= found
    Path(args.to).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
