"""The batch: output of the data pipeline and input of the train step, with named arrays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Tokens(NamedTuple):
  """Captions tokenized for one text encoder.

  ids [B, T] int32;   mask [B, T] bool, True at tokens, False at padding
  """

  ids: Any
  mask: Any


class Features(NamedTuple):
  """Stored output of a text encoder, in place of Tokens.

  tokens [B, T, D] float32 or float16, 0 at padding;   mask [B, T] bool, True where a token counts
  pooled [B, P], or None
  """

  tokens: Any
  mask: Any
  pooled: Any


class Rows(NamedTuple):
  """Packed documents (data.documents): the content of each of L positions.

  tokens     [B, L] int32, pad at patches and at padding
  hidden     [B, L] bool, where the input of the model is pad instead of the token
  patch      [B, L] int32, index of the patch among the row's images x patches; -1 at tokens
  doc, end   [B, L] int32: models.attention
  positions  [B, L, 2] float32, (row, column); both equal for a token
  starts     [B, N] int32, position of each image's first patch
  left_out   [B] float32, number of documents that did not fit
  """

  tokens: Any
  hidden: Any
  patch: Any
  doc: Any
  end: Any
  positions: Any
  starts: Any
  left_out: Any


class Batch(NamedTuple):
  """B rows of N images each; N is 1 where a row is an image and its caption.

  images        [B, N, H, W, 3] uint8 pixels, or [B, N, h, w, C] float32 latents; of latents with
                their deviation [B, N, h, w, 2C]: mean, deviation
  image_weight  [B, N] float32, weight of an image in the mean loss: 0 or 1
  max_t         [B, N] float32, the largest t at which noise is added to an image; 0 = clean
  text          captions by text encoder, or what it gives for them
  rows          packed documents, or None
  text_weight   [B, L] float32, 1 where the next token counts in the loss, or None
  sizes         [B, N, 4] float32, data.transforms.crop_sizes of each image, or None
  role          [B] int32, number of the split that the row is of, or None: data.roles
  conditions    by ControlNet, condition images of records [B, N, H, W, 3] uint8, or None
  A row maker returns one row, without the leading axis B.
  """

  images: Any
  image_weight: Any
  max_t: Any
  text: dict[str, Tokens | Features]
  rows: Rows | None = None
  text_weight: Any = None
  sizes: Any = None
  role: Any = None
  conditions: dict[str, Any] | None = None


def stack(items: Sequence[Any]) -> Any:
  """Rows as one batch: arrays get a leading axis, named tuples and dicts keep their structure."""
  first = items[0]
  if first is None:
    return None
  if isinstance(first, dict):
    return {key: stack([item[key] for item in items]) for key in first}
  if isinstance(first, tuple):
    return type(first)(*map(stack, zip(*items, strict=True)))
  return np.stack([np.asarray(item) for item in items])


def without_weight(item: Batch) -> Batch:
  """The row with all loss weights 0."""
  weight = None if item.text_weight is None else item.text_weight * 0
  return item._replace(image_weight=item.image_weight * 0, text_weight=weight)
