"""Condition images of a record, for a ControlNet: made where its image is decoded.

What needs more than the batch's pixels, or a library of the host; systems.conditions has those that
the device makes of pixels alone, and all names.
"""

from collections.abc import Callable, Mapping, Sequence
from colorsys import hsv_to_rgb
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
from PIL import Image, ImageDraw

from t2i_jax.data.images import decode
from t2i_jax.data.record import Record
from t2i_jax.data.scenes import Object, objects_from_json, order, outlines, strokes
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.ranges import Range

OBJECTS = "objects"  # in the metadata of a record of scenes
KEYPOINTS = "keypoints"  # in the metadata of a record: see `skeleton`
# Between which of COCO's 17 keypoints a person's limbs are, and the head's lines: nose, eyes, ears,
# shoulders, elbows, wrists, hips, knees, ankles, the left before the right one.
POINTS = 17
LIMBS = (
  (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
  (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
Place = Callable[[Image.Image], Image.Image]  # scales and crops as the record's image


@dataclass(frozen=True)
class OfRecord:
  """A condition image of a record.

  make  (record, its image as stored, Place) -> uint8 [H, W, 3]; can be pickled. Raises DataError.
  """

  make: Callable[[Record, Image.Image, Place], np.ndarray]


def condition_images(
  record: Record, conditions: Mapping[str, OfRecord], place: Place
) -> dict[str, np.ndarray]:
  """By the name of each condition. Raises DataError for what the record does not have."""
  if not conditions:
    return {}
  image = decode(record.image)
  return {name: condition.make(record, image, place) for name, condition in conditions.items()}


def _of_scene(
  paint: Callable[[Sequence[Object], int], np.ndarray],
  record: Record,
  image: Image.Image,
  place: Place,
) -> np.ndarray:
  if OBJECTS not in record.meta:
    raise DataError(
      f"its metadata has no {OBJECTS!r}, of which its condition image is drawn: t2i data build "
      "--from scenes stores them. Build the data again, or use a condition of pixels."
    )
  drawn = paint(objects_from_json(record.meta[OBJECTS]), image.width)
  return np.asarray(place(Image.fromarray(drawn)))


def of_scene(paint: Callable[[Sequence[Object], int], np.ndarray]) -> Callable[[], OfRecord]:
  """(objects, side in pixels) -> image, of the scene's objects that a record holds."""
  return lambda: OfRecord(partial(_of_scene, paint))


Threshold = Annotated[float, Range("[0, 1e4]")]


def canny(low: Threshold = 100.0, high: Threshold = 200.0) -> OfRecord:
  """Canny's edges, white on black, as OpenCV finds them in the image that is trained on.

  low, high  of the gradient's size: edges begin above high and go on above low
  Source: Canny, IEEE Trans. Pattern Anal. Mach. Intell. 8 (1986) 679-698.
  """
  return OfRecord(partial(_canny, low, high))


def _canny(low: float, high: float, record: Record, image: Image.Image, place: Place) -> np.ndarray:
  """Raises ConfigError where OpenCV is not installed."""
  try:
    import cv2
  except ImportError as error:
    raise ConfigError(
      f"condition 'canny' needs the package cv2, which cannot be imported ({error}). Install it: "
      "pip install 't2i_jax[canny]'"
    ) from error
  edges = cv2.Canny(np.asarray(place(image)), low, high)  # [H, W]
  return np.repeat(edges[..., None], 3, axis=-1)


def checked_keypoints(people: Any) -> list[list[Any]]:
  """Keypoints as `skeleton` reads them. Raises DataError on another form."""
  is_point = lambda p: p is None or (len(p) == 2 and all(0 <= float(x) <= 1 for x in p))
  try:
    right = all(len(person) == POINTS and all(map(is_point, person)) for person in people)
  except (TypeError, ValueError):
    right = False
  if not right:
    raise DataError(
      f"bad {KEYPOINTS}: they are a list of people, each of {POINTS} points [x, y], fractions of "
      "width and height, or null"
    )
  return list(people)


def skeleton() -> OfRecord:
  """Lines between the keypoints of people, each limb of one hue, on black [1405.0312].

  Of the metadata "keypoints": for each person COCO's 17 points [x, y], fractions of the upright
  image's width and height, or None where one is not seen.
  """
  return OfRecord(_skeleton)


def _skeleton(record: Record, image: Image.Image, place: Place) -> np.ndarray:
  if KEYPOINTS not in record.meta:
    raise DataError(
      f"its metadata has no {KEYPOINTS!r}, of which its condition image is drawn: a metadata.jsonl "
      "of t2i data build --from folder gives them. Or use a condition of pixels."
    )
  drawn = Image.new("RGB", image.size)
  pen, width = ImageDraw.Draw(drawn), max(1, min(image.size) // 64)
  for person in record.meta[KEYPOINTS]:
    at = [None if p is None else (p[0] * image.width, p[1] * image.height) for p in person]
    for i, (a, b) in enumerate(LIMBS):
      start, end = at[a], at[b]
      if start is not None and end is not None:
        hue = tuple(round(255 * x) for x in hsv_to_rgb(i / len(LIMBS), 1, 1))
        pen.line([start, end], fill=hue, width=width)
  return np.asarray(place(drawn))


# By name, beside those of systems.conditions.
OF_RECORDS: dict[str, Callable[..., OfRecord]] = {
  "canny": canny,
  "outlines": of_scene(outlines),
  "order": of_scene(order),
  "strokes": of_scene(strokes),
  "skeleton": skeleton,
}
