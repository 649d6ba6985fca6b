"""Condition images of records: closed forms of what is drawn, OpenCV's edges, what is missing."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from t2i_jax.config import build
from t2i_jax.data.conditions import LIMBS, OBJECTS, OF_RECORDS, POINTS
from t2i_jax.data.from_edits import Edits
from t2i_jax.data.from_folder import Folder
from t2i_jax.data.from_scenes import Scenes
from t2i_jax.data.items import Made, Skipped
from t2i_jax.data.record import Record, unpack
from t2i_jax.data.scenes import (
  BACKGROUND,
  COLORS,
  Object,
  objects_to_json,
  order,
  outlines,
  strokes,
)
from t2i_jax.data.transforms import Transform, conditions_of
from t2i_jax.errors import ConfigError, DataError

SQUARE = Object("square", "red", "large", 0.5, 0.5, 0.25)  # sides of 0.45, edges 0.275 and 0.725
CIRCLE = Object("circle", "blue", "large", 0.25, 0.25, 0.125)


def record_of(objects, size=40, pixels=None):
  file = io.BytesIO()
  pixels = np.full((size, size, 3), 240, np.uint8) if pixels is None else pixels
  Image.fromarray(pixels).save(file, "PNG")
  meta = {} if objects is None else {OBJECTS: objects_to_json(objects)}
  return Record(file.getvalue(), ("a red square",), "one", meta)


def made(name, record, size=(40, 40), at=(0.5, 0.5)):
  return conditions_of(record, {"net": build(OF_RECORDS, name, "condition")}, size, at)["net"]


def test_outlines_are_lines_of_one_pixel():
  """Edges at 11 and 29 of 40 pixels lie between pixels: half of the line in each."""
  found = outlines([SQUARE], 40)
  assert (found == found[..., :1]).all()
  x = found[..., 0].astype(int)
  assert np.flatnonzero(x[20]).tolist() == [10, 11, 28, 29]
  np.testing.assert_allclose(x[20, [10, 11, 28, 29]], 127.5, atol=1)
  assert (x == x.T).all() and not x[15:25, 15:25].any()
  dx, dy = np.meshgrid(np.arange(40) + 0.5 - 10, np.arange(40) + 0.5 - 10)
  line = np.clip(1 - np.abs(np.hypot(dx, dy) - 5), 0, 1)
  np.testing.assert_allclose(outlines([CIRCLE], 40)[..., 1], 255 * line, atol=0.51)


def test_what_lies_behind_is_hidden():
  front = Object("square", "blue", "large", 0.5, 0.725, 0.25)
  x = outlines([SQUARE, front], 40)[..., 0]
  assert x[19, 20] and not x[28:30, 15:25].any()  # its upper edge; that of the one behind
  grey = order([SQUARE, front], 40)
  assert (grey[15, 20].tolist(), grey[29, 20].tolist()) == ([128] * 3, [255] * 3)
  assert not grey[5].any()


def test_strokes_are_of_the_objects_colours():
  """10 x 4 pixels around the middle of 40, whatever the shape."""
  expected = np.full((40, 40, 3), BACKGROUND, np.uint8)
  expected[18:22, 15:25] = COLORS["red"]
  for shape in ("square", "circle", "triangle"):
    drawn = Object(shape, "red", "large", 0.5, 0.5, 0.25)
    np.testing.assert_array_equal(strokes([drawn], 40), expected)


def test_a_condition_image_is_placed_as_its_image():
  """Drawn where the image's own outline is: of the corner that is cropped, too."""
  record = record_of([CIRCLE], 40)
  whole = made("outlines", record)
  np.testing.assert_array_equal(whole, outlines([CIRCLE], 40))
  half = made("outlines", record, (20, 40), (0.0, 0.5))
  np.testing.assert_array_equal(half, whole[:20])
  transform = Transform((20, 40), {}, crop="random", conditions={"a": OF_RECORDS["order"]()})
  pixels = order([CIRCLE], 40)
  row = transform([record_of([CIRCLE], pixels=pixels)], np.random.default_rng(3))
  assert row.conditions["a"].shape == (1, 20, 40, 3) and row.conditions["a"].dtype == np.uint8
  np.testing.assert_array_equal(row.conditions["a"], row.images)


@pytest.mark.parametrize("source", [Scenes, Edits])
def test_records_of_scenes_hold_their_objects(source):
  record = unpack(source("easy", 32, 1, 0, 0).make(("train", 0, 1))[0].data)
  assert json.loads(json.dumps(record.meta)) == record.meta
  found = made("order", record, (32, 32))
  image = np.asarray(Image.open(io.BytesIO(record.image)))
  np.testing.assert_array_equal(found[..., 0] > 0, (image != BACKGROUND).any(-1))


def test_skeletons_are_lines_between_keypoints():
  """Of one person with an arm alone, as wide as high; nothing is drawn to points not seen."""
  person = [None] * 17
  person[6], person[8], person[0] = [0.25, 0.25], [0.75, 0.25], [0.5, 0.9]
  record = record_of(None)
  record.meta["keypoints"] = [person]
  x = made("skeleton", record)
  assert sorted(zip(*np.nonzero(x.any(-1)), strict=True)) == [(10, i) for i in range(10, 31)]
  assert len(np.unique(x[10, 10:31], axis=0)) == 1
  assert len({limb for pair in LIMBS for limb in pair}) == POINTS


def test_a_metadata_file_gives_keypoints(tmp_path):
  person = [[0.5, 0.5]] * 16 + [None]
  rows = [{"file_name": f"{i}.png", "text": "someone", "keypoints": [person]} for i in range(2)]
  rows[1]["keypoints"] = [[[0.5, 2.0]] * 17]
  (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  for i in range(2):
    Image.new("RGB", (40, 40)).save(tmp_path / f"{i}.png")
  source = Folder(str(tmp_path))
  found = [one for task in source.tasks() for one in source.make(task)]
  (record,) = [unpack(one.data) for one in found if isinstance(one, Made)]
  assert (record.key, record.meta) == ("0.png", {"keypoints": [person]})
  assert any("bad keypoints" in one.reason for one in found if isinstance(one, Skipped))


def test_canny_is_opencvs():
  cv2 = pytest.importorskip("cv2")
  x = np.full((40, 40, 3), 240, np.uint8)
  x[:, 20:] = (215, 25, 35)
  found = made("canny", record_of(None, pixels=x))
  np.testing.assert_array_equal(found[..., 0], cv2.Canny(x, 100, 200))
  assert np.flatnonzero(found[20, :, 0]).tolist() in ([19], [20])
  assert not made("canny(low=9000.0, high=9000.0)", record_of(None, pixels=x)).any()


def test_what_is_missing_is_named(monkeypatch):
  with pytest.raises(DataError, match=r"no 'objects'.*t2i data build --from scenes"):
    made("outlines", record_of(None))
  transform = Transform((40, 40), {}, conditions={"a": OF_RECORDS["strokes"]()})
  with pytest.raises(DataError, match="record 'one': its metadata has no 'objects'"):
    transform([record_of(None)], np.random.default_rng(0))
  monkeypatch.setitem(sys.modules, "cv2", None)
  with pytest.raises(ConfigError, match=r"pip install 't2i_jax\[canny\]'"):
    made("canny", record_of(None))
