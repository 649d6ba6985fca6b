"""A record to one row of a batch: decode, resize and crop, choose a caption, tokenize."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from t2i_jax.data.batch import Batch, Features, Tokens, without_weight
from t2i_jax.data.conditions import OfRecord, condition_images
from t2i_jax.data.features import StoredText, features_of
from t2i_jax.data.images import decode, is_latent, read_latent
from t2i_jax.data.lengths import Limit
from t2i_jax.data.record import Record
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import DataError, PromptError

CENTRE = (0.5, 0.5)
SIZES = "sizes"  # in the metadata of a record of latents
Crop = Literal["centre", "random"]


class Caption(NamedTuple):
  """The tokenizer of a text encoder, and its maximum number of tokens."""

  tokenizer: Tokenizer
  length: int


class Transform:
  """([record], rng) -> a row of `Batch` with one image; can be pickled.

  image_size  height, width in pixels, or in latent cells for records of latents
  captions    by text encoder; all of them encode the same caption
  too_long    what is done with a caption that has more tokens than an encoder takes: "error",
              "truncate", or "skip": another caption of the record is used, and without one that
              fits the row has no weight
  stored      text encoders whose features are read, in place of token ids
  crop        of an image that is scaled to cover image_size
  sizes       whether the row has the image's sizes
  conditions  by ControlNet, what makes its condition images of a record
  Raises DataError naming the record for an image that cannot be decoded, latents of another size,
  or a caption that is too long.
  """

  window = 1  # records per row

  def __init__(
    self,
    image_size: Sequence[int],
    captions: Mapping[str, Caption],
    too_long: str = "error",
    stored: Mapping[str, StoredText] | None = None,
    crop: Crop = "centre",
    sizes: bool = False,
    conditions: Mapping[str, OfRecord] | None = None,
  ):
    height, width = image_size
    self.image_size = (int(height), int(width))
    self.captions, self.too_long, self.stored = dict(captions), too_long, dict(stored or {})
    self.crop, self.sizes, self.conditions = crop, sizes, dict(conditions or {})

  @property
  def limits(self) -> list[Limit]:
    """The tokens that each encoder takes."""
    return [Limit(*caption) for caption in self.captions.values()]

  def __call__(self, records: Sequence[Record], rng: np.random.Generator) -> Batch:
    (record,) = records
    caption = chosen_caption(record, rng, self.limits if self.too_long == "skip" else ())
    row = self.row(record, caption, self.place(rng))
    return without_weight(row) if caption is None else row

  def place(self, rng: np.random.Generator) -> tuple[float, float]:
    """Where an image is cropped: `fit`."""
    return (rng.random(), rng.random()) if self.crop == "random" else CENTRE

  def row(self, record: Record, caption: str | None, at: tuple[float, float]) -> Batch:
    """The row of one of a record's captions; None: of none."""
    text: dict[str, Tokens | Features] = {}
    number = 0 if caption is None else record.captions.index(caption)
    try:
      for name, (tokenizer, length) in self.captions.items():
        if name in self.stored:
          text[name] = features_of(record, number, name, self.stored[name])
          continue
        ids, mask = tokenizer.encode([caption or ""], length, self.too_long == "truncate")
        text[name] = Tokens(ids[0], mask[0])
      image, sizes = placed(record, self.image_size, at)
      made = conditions_of(record, self.conditions, self.image_size, at)
      if self.sizes and sizes is None:
        raise DataError(
          f"its latents have no {SIZES!r} in their metadata, which `crop_sizes` makes and t2i data "
          "encode stores. Encode the images again."
        )
    except PromptError as error:
      raise DataError(f"record {record.key!r}: its caption {error}") from error
    except DataError as error:
      raise DataError(f"record {record.key!r}: {error}") from error
    one = np.ones(1, np.float32)
    conditions = {name: made[name][None] for name in made} or None
    sizes = sizes if self.sizes else None
    return Batch(image[None], one, one, text, sizes=sizes, conditions=conditions)


def chosen_caption(record: Record, rng: np.random.Generator, limits: Sequence[Limit]) -> str | None:
  """One of a record's captions at random; of those that fit where the first choice does not.

  limits  that a caption has to fit; () for any caption
  Returns None where none fits.
  """
  fits = lambda text: all(limit.tokenizer.lengths([text])[0] <= limit.length for limit in limits)
  caption = record.captions[rng.integers(len(record.captions))]
  if fits(caption):
    return caption
  short = [text for text in record.captions if fits(text)]
  return short[rng.integers(len(short))] if short else None


def placed(
  record: Record, image_size: tuple[int, int], at: tuple[float, float] = CENTRE
) -> tuple[np.ndarray, np.ndarray | None]:
  """A record's image as `fit_image` gives it, and its `crop_sizes` [1, 4], or None.

  Latents have those of the image that they were encoded of. Raises DataError.
  """
  if is_latent(record.image):
    sizes, latent = record.meta.get(SIZES), fit_image(record.image, image_size)
    return latent, None if sizes is None else np.array([sizes], np.float32)
  image = decode(record.image)
  return np.asarray(fit(image, image_size, at)), crop_sizes(image.size[::-1], image_size, at)[None]


def conditions_of(
  record: Record,
  conditions: Mapping[str, OfRecord],
  image_size: tuple[int, int],
  at: tuple[float, float] = CENTRE,
) -> dict[str, np.ndarray]:
  """A record's condition images by name, uint8 [H, W, 3], placed as its image. Raises DataError."""
  return condition_images(record, conditions, lambda image: fit(image, image_size, at))


def fit_image(data: bytes, image_size: tuple[int, int]) -> np.ndarray:
  """The bytes of an image as uint8 [H, W, 3], or of latents as float32 [H, W, C].

  Raises DataError on what cannot be decoded, and on latents of another size.
  """
  if not is_latent(data):
    return np.asarray(fit(decode(data), image_size))
  latent = read_latent(data)
  if latent.shape[:2] != image_size:
    raise DataError(
      f"its latents are {latent.shape[0]} x {latent.shape[1]}, data.image_size is "
      f"{image_size[0]} x {image_size[1]}. Use data.image_size="
      f"({latent.shape[0]}, {latent.shape[1]})."
    )
  return latent


def fit(
  image: Image.Image, image_size: tuple[int, int], at: tuple[float, float] = CENTRE
) -> Image.Image:
  """Scales to cover (height, width) and crops, in one antialiased Lanczos pass.

  at  of what is cropped, the share that lies above and to the left of the result
  An image of that size is returned unchanged.
  """
  height, width = image_size
  if image.size == (width, height):
    return image
  scale = max(width / image.width, height / image.height)
  w, h = width / scale, height / scale  # of the crop, in pixels of the original
  left, top = (image.width - w) * at[1], (image.height - h) * at[0]
  box = (max(left, 0.0), max(top, 0.0), min(left + w, image.width), min(top + h, image.height))
  return image.resize((width, height), Image.Resampling.LANCZOS, box=box)


def crop_sizes(
  original: tuple[int, int], image_size: tuple[int, int], at: tuple[float, float] = CENTRE
) -> np.ndarray:
  """Four of SDXL's conditions of an image that `fit` makes [2307.01952 sec. 2.2].   # [4] float32

  Height and width of the original, then top and left of the crop after scaling; in pixels.
  """
  scale = max(new / old for new, old in zip(image_size, original, strict=True))
  corner = (
    round((old * scale - new) * share)
    for new, old, share in zip(image_size, original, at, strict=True)
  )
  return np.array([*original, *corner], np.float32)
