"""A record of edits to one row of a batch: an image, an instruction, the image after it."""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from t2i_jax.data.batch import Batch, without_weight
from t2i_jax.data.images import decode, is_latent
from t2i_jax.data.lengths import Limit
from t2i_jax.data.record import Record
from t2i_jax.data.source import ShardSource
from t2i_jax.data.transforms import Transform, chosen_caption, placed
from t2i_jax.errors import DataError

BEFORE = "before"  # in Batch.conditions: the image that is edited


class EditRows:
  """([record], rng) -> a row of `Batch` with one edit of the record; can be pickled.

  Its image is that after the edit, its text the instruction; conditions[BEFORE] [1, H, W, C] is the
  image before, or its latents. Of a record of several edits each is as likely. Both images are
  cropped at the same place.

  rows  makes the row of an image and its caption
  Raises DataError as Transform, and for a record that has no edit, or images of two sizes.
  """

  window = 1

  def __init__(self, rows: Transform):
    self.rows = rows

  @property
  def limits(self) -> list[Limit]:
    """The tokens that each encoder takes of an instruction; captions are not read."""
    return [limit._replace(captions=False, instructions=True) for limit in self.rows.limits]

  def __call__(self, records: Sequence[Record], rng: np.random.Generator) -> Batch:
    (record,) = records
    edits = turns_of(record)
    before, after = edits[rng.integers(len(edits))]
    limits = self.rows.limits if self.rows.too_long == "skip" else ()
    instruction = chosen_caption(after, rng, limits)
    at = self.rows.place(rng)
    row = self.rows.row(after, instruction, at)
    image, _ = placed(before, self.rows.image_size, at)
    row = row._replace(conditions={BEFORE: image[None]})
    return without_weight(row) if instruction is None else row


def turns_of(record: Record) -> list[tuple[Record, Record]]:
  """Each edit of a record: the image before as a record, and the one after with the instruction as
  its caption.   Raises DataError for a record that has none, or of images of two sizes."""
  if not record.then:
    raise DataError(
      f"record {record.key!r} has no edit: an instruction model is trained on an image, an "
      "instruction and the image after it, as t2i data build --from edits or t2i data pairs writes "
      "them."
    )
  sizes = {size_of(image) for image in record.images}
  if len(sizes) > 1:
    first, second, *_ = sorted(sizes)
    raise DataError(
      f"record {record.key!r}: its images are {first[0]} x {first[1]} and {second[0]} x {second[1]}"
      ". An edit needs images of one size."
    )
  named = [
    dataclasses.replace(record, image=image, captions=(text,), then=(), features=())
    for text, image in ((record.captions[0], record.image), *record.then)
  ]
  return list(pairwise(named))


def size_of(image: bytes) -> tuple[int, int]:
  """Height and width of an image's file; (0, 0) of latents, whose size is checked where they are
  read. Raises DataError."""
  if is_latent(image):
    return (0, 0)
  width, height = decode(image).size
  return height, width


def check_edits(source: ShardSource, image_size: tuple[int, int]) -> None:
  """Raises DataError where the first record of a split has no edit, or another size."""
  record = source[0]
  try:
    turns_of(record)
  except DataError as error:
    raise DataError(f"data.dir = {str(source.folder)!r}: {error}") from error
  size = size_of(record.image)
  if size not in ((0, 0), tuple(image_size)):
    raise DataError(
      f"data.dir = {str(source.folder)!r} holds edits of images of {size[0]} x {size[1]}, and "
      f"data.image_size is {image_size[0]} x {image_size[1]}. Use data.image_size={size}, or data "
      "of that size."
    )
