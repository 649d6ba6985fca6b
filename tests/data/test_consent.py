"""Provenance, opt-out lists, substitution; and exposures, against a log of what is read."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dct

from t2i_jax.data.batch import Batch
from t2i_jax.data.build import build
from t2i_jax.data.exposures import Order, changed, exposures
from t2i_jax.data.from_folder import Folder
from t2i_jax.data.images import decode
from t2i_jax.data.loader import Loader
from t2i_jax.data.optout import check_matches, entries_of, match, read_optout
from t2i_jax.data.perceptual import chance, distances, false_matches, perceptual_hash
from t2i_jax.data.provenance import provenance_of, read_provenance
from t2i_jax.data.roles import open_split
from t2i_jax.data.source import MANIFEST, PROVENANCE, ShardSource, manifest_hash
from t2i_jax.data.substitutes import substitutes
from t2i_jax.data.tombstones import joined, read_tombstones, write_tombstones
from t2i_jax.data.verify import verify
from t2i_jax.errors import DataError

AUTHORS = ("Ada", "Ben", "ada ")


def noise(seed, side=32):
  """An image of few frequencies, unlike that of another seed."""
  small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
  return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Twelve images of a user with authors; number 3 is a copy of 2, number 4 was a BMP."""
  root = tmp_path_factory.mktemp("consent")
  (root / "in").mkdir()
  rows = []
  for i in range(12):
    name = f"{i:02d}.{'bmp' if i == 4 else 'png'}"
    noise(2 if i == 3 else i).save(root / "in" / name)
    row = {"file_name": name, "text": f"image {i}", "author": AUTHORS[i % 3]}
    rows.append(json.dumps(row | ({"license": "CC0"} if i == 1 else {})))
  (root / "in/metadata.jsonl").write_text("\n".join(rows))
  build(Folder(str(root / "in"), val_fraction=0.2), root / "data", workers=1, progress=False)
  return root / "data"


def every(folder):
  splits = json.loads((folder / MANIFEST).read_text())["splits"]
  return {split: list(read_provenance(folder, split)) for split in splits}


@pytest.mark.newest
def test_a_folder_says_where_its_records_come_from(folder):
  found = every(folder)
  assert {split: len(one) for split, one in found.items()} == {
    split: len(ShardSource(folder, split)) for split in found
  }
  by_key = {one.key: one for ones in found.values() for one in ones}
  assert by_key["01.png"].licence == "CC0" and by_key["00.png"].licence == ""
  assert [by_key[f"{i:02d}.png"].author for i in range(3)] == ["Ada", "Ben", "ada"]
  for name, one in by_key.items():
    file = (folder.parent / "in" / name).read_bytes()
    assert hashlib.sha256(file).hexdigest() == one.hashes[-1]
    assert len(one.hashes) == (2 if name.endswith(".bmp") else 1)
  assert verify(folder, workers=1, progress=False) == []


def test_a_folder_without_the_file_is_read_from_its_records(folder, tmp_path):
  manifest = json.loads((folder / MANIFEST).read_text())
  for path in folder.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  left = {key: value for key, value in manifest.items() if key != PROVENANCE}
  (tmp_path / MANIFEST).write_text(json.dumps(left))
  for split, found in every(tmp_path).items():
    stored = [one._replace(hashes=one.hashes[:1]) for one in read_provenance(folder, split)]
    assert found == stored
  damaged = tmp_path / manifest[PROVENANCE]["train"]["file"]
  damaged.write_text(damaged.read_text().replace("image", "x").replace("Ada", "Bob"))
  (tmp_path / MANIFEST).write_text(json.dumps(manifest))
  with pytest.raises(DataError, match=r"train\.provenance\.jsonl is not what was built"):
    list(read_provenance(tmp_path, "train"))
  assert "another sha256" in str(verify(tmp_path, workers=1, progress=False)[0])


def test_an_image_that_prohibits_mining_says_so(folder):
  record = ShardSource(folder, "train")[0]
  file = record.image + b"<plus:DataMining>DMI-PROHIBITED-AIMLTRAINING</plus:DataMining>"
  assert provenance_of(record, file).consent == "plus:DataMining DMI-PROHIBITED-AIMLTRAINING"


def test_a_perceptual_hash_is_that_of_its_transform():
  for seed in range(4):
    image = noise(seed, 50)
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), float)
    low = dct(dct(grey, axis=0), axis=1)[:8, :8]  # as imagehash.phash
    bits = "".join("01"[int(bit)] for bit in (low > np.median(low)).ravel())
    assert f"{perceptual_hash(image):064b}" == bits


def test_copies_that_were_scaled_match_and_others_do_not():
  hashes = np.array([perceptual_hash(noise(seed)) for seed in range(40)], np.uint64)
  copies = [perceptual_hash(noise(seed).resize((75, 60))) for seed in range(40)]
  far = distances(hashes, np.array(copies, np.uint64))
  assert far.diagonal().max() <= 6 < far[~np.eye(40, dtype=bool)].min()
  pairs = [bin(int(a) ^ int(b)).count("1") for i, a in enumerate(hashes) for b in hashes[:i]]
  names = [str(i) for i in range(40)]
  for radius in (6, 24, 30):
    hits = sum(bits <= radius for bits in pairs)
    assert false_matches(hashes.tolist(), names, radius) == (hits, len(pairs))
  assert false_matches(hashes.tolist(), ["0", "0", *names[2:]], 64)[1] == len(pairs) - 1
  assert chance(64) == 1 and chance(0) == 2.0**-64
  assert chance(1) == pytest.approx(65 / 2**64)


def test_what_a_list_matches(folder, tmp_path):
  found = every(folder)
  where = {one.key: (s, i) for s, ones in found.items() for i, one in enumerate(ones)}
  name_of = {place: key for key, place in where.items()}
  bmp = hashlib.sha256((folder.parent / "in/04.bmp").read_bytes()).hexdigest()
  copied = perceptual_hash(noise(2).resize((80, 80)))
  text = f"# ours\nAuthor: x\nsha256:{bmp.upper()}  # the file as it was\n"
  (tmp_path / "list").write_text(text)
  with pytest.raises(DataError, match=r"list, line 2: 'Author: x' is no entry"):
    read_optout(tmp_path / "list")
  optout = entries_of([f"sha256:{bmp}", f"phash:{copied:016x}", "author: ADA", "author:Cy"], "x")
  matches = match(optout, folder, list(found))
  keys = sorted(name_of[one.split, one.number] for one in matches.records)
  ada = {f"{i:02d}.png" for i in range(12) if i % 3 != 1 and i != 4}
  assert keys == sorted(ada | {"02.png", "03.png", "04.bmp"})
  assert matches.unmatched == ["author:Cy"]
  why = {one.provenance.key: one.why for one in matches.records}
  assert why["03.png"] == ("author: ADA", f"phash:{copied:016x}")
  assert matches.false == (0, 12 * 11 // 2 - 1)  # the copy is no pair of different images
  other = [f"phash:{copied:016x}", "author:Cy  # again", "author:ada", f"sha256:{bmp}"]
  assert entries_of(other, "y").digest == optout.digest


@pytest.mark.parametrize(
  "lines, words",
  [
    ([], "x has no entry"),
    (["sha256:12"], "write 64 hexadecimal digits after sha256:"),
    (["author:"], "write a name after author:"),
    (["phash:zz"], "write 16 hexadecimal digits"),
    (["author:Nobody"], r"none of the 12 records .* matches one of the 1 entries"),
    (["author:ada", "author:ben"], r"all 12 records .* match the list, the first by 'author:"),
  ],
)
def test_lists_that_are_refused(folder, lines, words):
  with pytest.raises(DataError, match=words):
    check_matches(match(entries_of(lines, "x"), folder, list(every(folder))))


def test_substitutes():
  size, gone = 50, {3, 4, 17, 49}
  found = substitutes(size, gone)
  assert found.keys() == gone and not gone & set(found.values())
  more = substitutes(size, gone | {found[17]})
  assert {i for i in gone if more[i] != found[i]} == {i for i in gone if found[i] == found[17]}
  even = Counter(substitutes(1000, [i])[i] % 4 for i in range(1000))
  assert min(even.values()) > 200  # expected 250, standard deviation 14
  with pytest.raises(DataError, match="all 2 records"):
    substitutes(2, [0, 1])
  with pytest.raises(DataError, match="record 5 is not one of the 5"):
    substitutes(5, [5])


class Keys:
  """Rows that have the indices of their records, in place of images."""

  limits = ()

  def __init__(self, window):
    self.window = window

  def __call__(self, records, rng):
    numbers = np.array([int(record.key.split("/")[-1]) for record in records])
    one = np.ones(1, np.float32)
    return Batch(numbers, one, one, {})


@pytest.mark.parametrize(
  "split, window, processes, without",
  [
    ("train", 1, 1, {}),
    ("train", 3, 2, {"train": (0, 7, 150)}),
    ("val+heldout", 1, 2, {"heldout": (5, 6), "val": (0,)}),
  ],
)
def test_exposures_are_those_of_a_log(easy_data, split, window, processes, without):
  """Every row of every process over more than two epochs, in the order in which it is yielded."""
  source = open_split(easy_data, split, without)
  names, batch, seed = split.split("+"), 6, 4
  sizes = tuple((name, len(ShardSource(easy_data, name))) for name in names)
  steps = 2 * sum(n for _, n in sizes) // (batch * window) + 5
  log = {}
  for process in range(processes):
    rows = np.arange(process, batch, processes)
    loader = Loader(
      source, Keys(window), seed=seed, global_batch=batch, rows=rows, workers=0, prefetch=2
    )
    batches = loader.batches(0)
    for step in range(1, steps + 1):
      made = next(batches)
      for row, indices in enumerate(made.images):
        own = names[int(made.role[row])] if made.role is not None else split
        for index in indices.tolist():
          log.setdefault((own, index), []).append(step)
    batches.close()
  log = {key: sorted(found) for key, found in log.items()}
  order = Order(sizes, seed, batch, window, 0, without)
  wanted = {name: range(size) for name, size in sizes}
  found = {key: at for key, at in exposures(order, wanted, steps).items() if at}
  assert found == log
  assert all(index not in without.get(name, ()) for name, index in log)
  some = {names[0]: [1, 2]}
  assert exposures(order, some, 7) == {
    (names[0], i): [s for s in log[names[0], i] if s <= 7] for i in (1, 2)
  }
  later = exposures(order._replace(since=3), some, 7)
  assert later == {(names[0], i): [s for s in log[names[0], i] if 3 < s <= 7] for i in (1, 2)}


def test_where_an_order_changes():
  order = Order((("train", 40),), 0, 4)
  new = {"train": (3, 9)}
  read = exposures(order, new, 10)
  assert changed(order, new, 10) == read and sum(map(len, read.values())) == 2
  first = min(at[0] for at in read.values())
  assert not any(changed(order, new, first - 1).values())
  assert changed(order._replace(without=new), new, 10) == {}


def test_tombstones_are_of_one_folder(folder, easy_data, tmp_path):
  path = tmp_path / "x/tombstones.json"
  write_tombstones(path, folder, {"train": [2, 1, 2], "val": []}, "digest")
  assert read_tombstones(path, folder) == {"train": (1, 2)} and read_tombstones("", folder) == {}
  with pytest.raises(DataError, match=f"that of .* is {manifest_hash(easy_data)[:12]}"):
    read_tombstones(path, easy_data)
  path.write_text("{}")
  with pytest.raises(DataError, match="cannot be read: it is not of the format"):
    read_tombstones(path, folder)
  assert joined({"a": (1,)}, {"a": (0, 1), "b": (2,)}) == {"a": (0, 1), "b": (2,)}
  source = ShardSource(folder, "train", (0,))
  assert source[0].key == source[substitutes(len(source), (0,))[0]].key
  assert decode(source[0].image).size == (32, 32)
