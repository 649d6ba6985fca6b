"""Image files that a drawing starts from, and masks of what is to be filled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t2i_jax.data.images import decode, encode, is_latent, read_latent
from t2i_jax.data.transforms import fit, fit_image
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.pretrained.pipelines import read_index
from t2i_jax.towers.published import PUBLISHED
from t2i_jax.towers.shown import size_of_area

HALF = 128  # grey from which a mask is white


class SourceImage:
  """An image file, read and decoded. Raises DataError naming the file.

  data  its bytes; those of the file by default;   size  height, width
  """

  def __init__(self, path: str, data: bytes | None = None):
    self.path, self.data = path, _read(path) if data is None else data
    try:
      if is_latent(self.data):
        self.size = read_latent(self.data).shape[:2]
      else:
        self.size = decode(self.data).size[::-1]
    except DataError as error:
      raise DataError(f"{path}: {error}") from error

  def fitted(self, image_size: tuple[int, int]) -> np.ndarray:
    """Scaled and cropped to a model's size: uint8 [H, W, 3], or latents. Raises DataError."""
    try:
      return fit_image(self.data, image_size)
    except DataError as error:
      raise DataError(f"{self.path}: {error}") from error


class ConditionImage:
  """An image file for a ControlNet, decoded. Raises DataError naming the file.

  pixels  uint8 [H, W, 3];   size: height, width
  """

  def __init__(self, path: str):
    self.path = path
    try:
      self.pixels = np.asarray(decode(_read(path)))
    except DataError as error:
      raise DataError(f"{path}: {error}") from error
    self.size = self.pixels.shape[:2]


def check_conditions(images: Sequence[ConditionImage], size: tuple[int, int]) -> None:
  """Raises ConfigError for a condition image that has not the size that is drawn."""
  for image in images:
    if image.size != tuple(size):
      raise ConfigError(
        f"--control={image.path} is {image.size[0]} x {image.size[1]}, and {size[0]} x {size[1]} "
        "is drawn (height x width): scale it to that size."
      )


REFERENCE_PIXELS = 1024**2  # the most of a reference image, as FLUX.2's pipeline has it


def fitted_reference(path: str, system: Any) -> np.ndarray:
  """An image file to show a model: uint8 [H, W, 3], of its own size as far as the autoencoder can.

  Larger ones are scaled down to REFERENCE_PIXELS; sides become multiples of the autoencoder's
  factor. A model that edits is given it as it is, or at the size that it draws. Raises DataError,
  ConfigError.
  """
  image = SourceImage(path)
  height, width = image.size
  if any(encoder.shown is not None for encoder in system.text.values()):
    return image.fitted(image.size)
  if not getattr(system.parts["backbone"].config, "references", False):  # of the size it draws
    return image.fitted(system.image_shape[:2])
  autoencoder = system.autoencoder
  scale = min(1.0, (REFERENCE_PIXELS / (height * width)) ** 0.5)
  factor = getattr(autoencoder, "factor", 1)
  sides = tuple(int(side * scale) // factor * factor for side in (height, width))
  if not all(sides):
    raise ConfigError(
      f"{path} is {height} x {width}: a reference image has at least {factor} pixels a side."
    )
  return image.fitted((sides[0], sides[1]))


def edited_size(folder: str, references: list[str]) -> tuple[int, int] | None:
  """Height and width that a published model which edits draws by default: about those of its last
  image. None for another model. Raises ConfigError where there is no image, DataError.
  """
  rule = PUBLISHED.get(read_index(folder).published.text)
  if rule is None or rule.images is None:
    return None
  if not references:
    raise ConfigError(f"{folder} is a model that edits an image. Give it with --reference=FILE.")
  return size_of_area(SourceImage(references[-1]).size, rule.images.area)


def repeated(image: np.ndarray, n: int) -> np.ndarray:
  """n copies.   [...] -> [n, ...]"""
  return np.repeat(image[None], n, 0)


class Mask:
  """What of an image is to be filled.   image: of its size, white where it is

  whole  whether nothing of it may be cropped
  """

  def __init__(self, image: Image.Image, whole: bool = False):
    self.image, self.whole = image, whole

  @classmethod
  def read(cls, path: str, image: SourceImage) -> "Mask":
    """A black and white file of the size of an image. Raises DataError naming the file."""
    try:
      found = decode(_read(path)).convert("L")
    except DataError as error:
      raise DataError(f"{path}: {error}") from error
    size = found.size[::-1]
    if size != image.size:
      raise DataError(
        f"--mask={path} is {size[0]} x {size[1]}, --image={image.path} is {image.size[0]} x "
        f"{image.size[1]} (height x width): a mask has the size of its image."
      )
    return cls(found)

  def fitted(self, image_size: tuple[int, int]) -> np.ndarray:
    """bool [H, W], scaled and cropped as the image is. Raises ConfigError where it may not be."""
    height, width = image_size
    w, h = self.image.size
    # A pixel more or less of what is drawn is a matter of rounding.
    if self.whole and abs(height * w - width * h) > max(w, h):
      raise ConfigError(
        f"--outpaint makes an image of {h} x {w}, and {height} x {width} is drawn (height x "
        "width), which would crop it: choose margins of that shape, or of a published model --size."
      )
    return np.asarray(fit(self.image, image_size)) >= HALF


def outpainted(image: SourceImage, margins: tuple[int, int, int, int]) -> tuple[SourceImage, Mask]:
  """The image with its edge pixels repeated outwards, and the mask of what was added.

  margins  left, top, right, bottom in pixels
  Raises DataError for latents.
  """
  if is_latent(image.data):
    raise DataError(f"--outpaint: {image.path} has latents. Give an image.")
  left, top, right, bottom = margins
  around = ((top, bottom), (left, right))
  pixels = np.pad(np.asarray(decode(image.data)), (*around, (0, 0)), mode="edge")
  mask = np.pad(np.zeros(image.size, np.uint8), around, constant_values=255)
  grown = SourceImage(image.path, encode(Image.fromarray(pixels), format="PNG"))
  return grown, Mask(Image.fromarray(mask), whole=True)


def _read(path: str) -> bytes:
  try:
    return Path(path).read_bytes()
  except OSError as error:
    raise DataError(f"{path} cannot be read: {error.strerror}.") from error
