"""A record to the arrays of one row: decode, fit to the size, choose a caption, tokenize."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from t2i_jax.data.images import decode, is_latent, read_latent
from t2i_jax.data.record import Record
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import DataError, PromptError


class Transform:
  """([record], rng) -> {"image", "tokens", "mask", "weight"}; can be pickled.

  image_size  height, width of "image" in pixels, or in latent cells for records of latents
  length      tokens a caption may have, BOS and EOS counted

  image   uint8 [H, W, 3], or float32 [H, W, C] latents
  tokens  int32 [length]
  mask    bool [length], True where there is a token
  weight  float32 [], 1: the row counts
  Raises DataError naming the record, on a picture that cannot be decoded, latents of another size,
  or a caption that does not fit.
  """

  window = 1  # records a row is made of

  def __init__(self, image_size: Sequence[int], tokenizer: Tokenizer, length: int):
    height, width = image_size
    self.image_size = (int(height), int(width))
    self.tokenizer, self.length = tokenizer, length

  def __call__(self, records: Sequence[Record], rng: np.random.Generator) -> dict[str, np.ndarray]:
    (record,) = records
    caption = record.captions[rng.integers(len(record.captions))]
    try:
      ids, mask = self.tokenizer.encode([caption], self.length)
      image = fit_picture(record.image, self.image_size)
    except PromptError as error:
      raise DataError(f"record {record.key!r}: its caption {error}") from error
    except DataError as error:
      raise DataError(f"record {record.key!r}: {error}") from error
    return {"image": image, "tokens": ids[0], "mask": mask[0], "weight": np.float32(1)}


def fit_picture(data: bytes, image_size: tuple[int, int]) -> np.ndarray:
  """The bytes of a picture as uint8 [H, W, 3], or of latents as float32 [H, W, C].

  Raises DataError on what cannot be decoded, and on latents of another size.
  """
  if not is_latent(data):
    return np.asarray(fit(decode(data), image_size))
  latent = read_latent(data)
  if latent.shape[:2] != image_size:
    raise DataError(
      f"its latents are {latent.shape[0]} x {latent.shape[1]}, data.image_size asks for "
      f"{image_size[0]} x {image_size[1]}. Set data.image_size to the first."
    )
  return latent


def fit(image: Image.Image, image_size: tuple[int, int]) -> Image.Image:
  """Scales to cover (height, width) and crops the centre, in one antialiased Lanczos pass.

  A picture of that size comes back as it is, bit for bit.
  """
  height, width = image_size
  if image.size == (width, height):
    return image
  scale = max(width / image.width, height / image.height)
  w, h = width / scale, height / scale  # of the crop, in the picture's own pixels
  left, top = (image.width - w) / 2, (image.height - h) / 2
  box = (max(left, 0.0), max(top, 0.0), min(left + w, image.width), min(top + h, image.height))
  return image.resize((width, height), Image.Resampling.LANCZOS, box=box)
