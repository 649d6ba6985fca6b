"""Sources of tables: Parquet as datasets and img2dataset write it, and sets of tfds."""

import io
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from t2i_jax.data import user_images
from t2i_jax.data.build import build
from t2i_jax.data.from_parquet import Parquet
from t2i_jax.data.from_tfds import Tfds
from t2i_jax.data.images import decode
from t2i_jax.data.source import ShardSource
from t2i_jax.errors import DataError

HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(level):
  out = io.BytesIO()
  Image.fromarray(np.full((9, 8, 3), level, np.uint8)).save(out, "PNG")
  return out.getvalue()


def built(source, out, **how):
  """Records by the first value of their image, and the manifest."""
  manifest = build(source, out, workers=1, progress=False, **how)
  records = [
    ShardSource(out, split)[i]
    for split in manifest["splits"]
    for i in range(manifest["splits"][split]["records"])
  ]
  return {int(np.asarray(decode(r.image))[0, 0, 0]): r for r in records}, manifest


def test_a_set_of_hugging_face(tmp_path):
  """Several files in row groups; a struct of bytes and path; lists of captions, some empty."""
  for part in range(2):
    numbers = range(10 * part, 10 * part + 10)
    images = [{"bytes": png(i), "path": f"{i}.png"} for i in numbers]
    captions = [[f"a {i}", f"b {i}"] for i in numbers]
    if part:
      images[0] = {"bytes": None, "path": "gone.png"}
      captions[1], captions[2] = None, []
    columns = {"image": pa.array(images, HF_IMAGE), "caption": captions, "id": list(numbers)}
    pq.write_table(pa.table(columns), tmp_path / f"train-{part:05d}.parquet", row_group_size=3)
  found, manifest = built(Parquet(str(tmp_path), val_fraction=0.2), tmp_path / "out")
  assert sorted(found) == [*range(10), *range(13, 20)]
  assert found[3].captions == ("a 3", "b 3") and found[3].key == "train-00000/00000003"
  assert found[3].image == png(3)
  assert manifest["skipped"]["reasons"] == {"no caption": 2, "no image": 1}
  assert manifest["account"]["files"] == {"found": 2, "used": 2, "rejected": {}}


def test_a_set_of_img2dataset(tmp_path):
  """Bytes in a column named by their format; a row for each failure; columns passed through."""
  rows = {
    "url": ["http://a", "http://b", "http://c", "http://d"],
    "TEXT": ["zero", "one", "two", "three"],
    "key": ["000000000", "000000001", "000000002", "000000003"],
    "status": ["success", "failed_to_download", "success", "success"],
    "jpg": pa.array([png(0), None, b"no image", png(3)], pa.binary()),
  }
  path = tmp_path / "00000.parquet"
  pq.write_table(pa.table(rows), path)
  found, manifest = built(Parquet(str(path)), tmp_path / "out")
  assert {n: r.captions for n, r in found.items()} == {0: ("zero",), 3: ("three",)}
  assert manifest["skipped"]["count"] == 2
  assert (tmp_path / "out/skipped.jsonl").read_text().count("no image: failed_to_download") == 1


def test_columns_are_given_or_asked_for(tmp_path):
  images = pa.array([png(i) for i in range(3)], pa.binary())
  columns = {"a": images, "b": images, "label": [4, 5, 6], "x": ["u"] * 3, "y": ["v", "w", "z"]}
  path = tmp_path / "t.parquet"
  pq.write_table(pa.table(columns), path)
  for how, words in (
    ({}, "--image=NAME"),
    ({"image": "a"}, "--caption=NAME"),
    ({"image": "x"}, "--image=x is no column of bytes"),
    ({"image": "a", "caption": "b"}, "--caption=b is no column of texts"),
  ):
    with pytest.raises(DataError, match=words):
      built(Parquet(str(path), **how), tmp_path / "none")
  found, _ = built(Parquet(str(path), image="b", caption="y"), tmp_path / "texts")
  assert found[1].captions == ("w",)
  found, _ = built(Parquet(str(path), image="b", caption="label"), tmp_path / "labels")
  assert found[1].captions == ("5",)
  beside = pa.table({"url": ["u"], "key": ["0"], "status": ["success"], "caption": ["c"]})
  pq.write_table(beside, path)
  with pytest.raises(DataError, match="use --from webdataset"):
    built(Parquet(str(path)), tmp_path / "none")
  with pytest.raises(DataError, match=r"no \.parquet found"):
    built(Parquet(str(tmp_path / "nowhere")), tmp_path / "none")


def test_a_damaged_file_is_named_and_the_others_are_read(tmp_path):
  table = pa.table({"image": pa.array([png(i) for i in range(4)]), "text": list("abcd")})
  pq.write_table(table, tmp_path / "a.parquet")
  pq.write_table(table, tmp_path / "b.parquet")
  data = (tmp_path / "b.parquet").read_bytes()
  (tmp_path / "b.parquet").write_bytes(data[: len(data) // 2])
  found, manifest = built(Parquet(str(tmp_path)), tmp_path / "out")
  assert len(found) == 4
  assert manifest["account"]["files"]["rejected"] == {"file is damaged": 1}


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
  with pytest.raises(DataError, match=r"pip install 't2i_jax\[parquet\]'"):
    Parquet("x").total()
  with pytest.raises(DataError, match=r"needs the package no_such"):
    user_images.needed("no_such", "tfds")


@pytest.fixture(scope="module")
def tfds_set(tmp_path_factory):
  """A set that tfds has built, of encoded images: a numpy array would need TensorFlow."""
  import tensorflow_datasets as tfds

  text = tfds.features.Text()
  features = {
    "image": tfds.features.Image(encoding_format="png"),
    "image/filename": text,
    "label": tfds.features.ClassLabel(names=["x", "y"]),
    "captions": tfds.features.Sequence({"id": np.int64, "text": text}),
  }

  class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # it has no folder of its own in a package

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
      return {"train": self._generate_examples(12), "test": self._generate_examples(2)}

    def _generate_examples(self, n):
      for i in range(n):
        captions = [{"id": i, "text": f"a {i}"}, {"id": i, "text": f"b {i}"}]
        image = io.BytesIO(png(i))
        yield i, {"image": image, "image/filename": f"{i}", "label": i % 2, "captions": captions}

  folder = tmp_path_factory.mktemp("tfds")
  builder = Tiny(data_dir=folder, file_format="array_record")
  builder.download_and_prepare()
  return builder.data_dir


def test_a_set_of_tfds(tfds_set, tmp_path):
  path = str(tfds_set)
  found, manifest = built(Tfds(path, val_fraction=0.3), tmp_path / "out")
  assert sorted(found) == list(range(12))
  assert found[7].captions == ("a 7", "b 7") and found[7].image == png(7)
  assert set(manifest["splits"]) == {"train", "val"}
  assert "tensorflow" not in sys.modules
  found, _ = built(Tfds(path, caption="label", part="test"), tmp_path / "labels")
  assert {n: r.captions for n, r in found.items()} == {0: ("0",), 1: ("1",)}
  for how, words in (
    ({"image": "label"}, "--image=label is no feature of images"),
    ({"caption": "captions/id"}, "--caption=captions/id is no feature of texts"),
    ({"part": "none"}, "Its splits: train, test"),
  ):
    with pytest.raises(DataError, match=words):
      built(Tfds(path, **how), tmp_path / "none")
  with pytest.raises(DataError, match=r"has no dataset_info\.json"):
    built(Tfds(str(tmp_path)), tmp_path / "none")
