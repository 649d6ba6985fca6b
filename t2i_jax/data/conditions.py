"""Condition images of a record, for a ControlNet: made where its image is decoded.

What needs more than the batch's pixels, or a library of the host; systems.conditions has those that
the device makes of pixels alone, and all names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
from PIL import Image

from t2i_jax.data.images import decode
from t2i_jax.data.record import Record
from t2i_jax.data.scenes import Object, objects_from_json, order, outlines, strokes
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.ranges import Range

OBJECTS = "objects"  # in the metadata of a record of scenes
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


def _canny(
  low: float, high: float, record: Record, image: Image.Image, place: Place
) -> np.ndarray:
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


# By name, beside those of systems.conditions.
OF_RECORDS: dict[str, Callable[..., OfRecord]] = {
  "canny": canny,
  "outlines": of_scene(outlines),
  "order": of_scene(order),
  "strokes": of_scene(strokes),
}
