"""Folders of latents, encoded from the images of a built folder: their manifest and keys.

The shards are those of a built folder, with an array of latents as each record's image: float
[h, w, C], or mean and deviation side by side, [h, w, 2C], of which training draws a sample anew in
each epoch. An entry is found by its key, a hash of the image's bytes and of all that made its
latents: what has not changed is not encoded again.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2i_jax.data.images import upright_size
from t2i_jax.data.pieces import KEY_BYTES
from t2i_jax.data.record import Record
from t2i_jax.data.source import changed_hash, read_manifest
from t2i_jax.data.transforms import SIZES, crop_sizes
from t2i_jax.errors import DataError

FORMAT = 1  # of the way from an image to its latents; another one makes other keys
MOMENTS, MODE = "moments", "mode"
DTYPES = ("float32", "float16")
FIT = "scaled to cover by Lanczos, centre crop"
RUNS = ("tiling", "activations", "sample_size")  # fields of an autoencoder's config


@dataclasses.dataclass(frozen=True)
class Latents:
  """What a folder of latents is of: its manifest's entry "latents".

  images       path of the built folder;   images_hash: data.source.manifest_hash of it
  image_size   height, width in pixels
  shape        [h, w, C] of z
  stored       "moments": mean and deviation; "mode": the mean alone
  dtype        of the stored numbers
  autoencoder  path of its folder;   weights: training.checksum.fingerprint of them
  config       network_text of it
  batch        images that were encoded at once on a device
  """

  images: str
  images_hash: str
  image_size: tuple[int, int]
  shape: tuple[int, int, int]
  stored: str
  dtype: str
  autoencoder: str
  weights: str
  config: str
  batch: int

  @property
  def row_shape(self) -> tuple[int, int, int]:
    """Of the array of a record."""
    height, width, channels = self.shape
    return (height, width, channels * (2 if self.stored == MOMENTS else 1))

  @property
  def record_bytes(self) -> int:
    """Of the numbers of a record."""
    return int(np.prod(self.row_shape)) * np.dtype(self.dtype).itemsize

  @property
  def made_by(self) -> str:
    """All that decides an image's latents, as text."""
    of = (FORMAT, FIT, self.image_size, self.stored, self.dtype, self.weights, self.config)
    return json.dumps(of)

  def key(self, image: bytes) -> bytes:
    """Of the entry of an image."""
    return hashlib.sha256(self.made_by.encode() + b"\0" + image).digest()[:KEY_BYTES]


def network_text(config: Any) -> str:
  """An autoencoder's config as text, without what changes how it runs and not what it computes."""
  fields = dataclasses.asdict(config)
  kept = ", ".join(f"{name}={value!r}" for name, value in fields.items() if name not in RUNS)
  return f"{type(config).__name__}({kept})"


def latents_of(folder: str | Path) -> Latents | None:
  """What the latents of a folder are of; None of a folder of images. Raises DataError."""
  entry = read_manifest(folder).get("latents")
  if entry is None:
    return None
  try:
    fields: dict[str, Any] = {
      name: tuple(v) if isinstance(v, list) else v for name, v in entry.items()
    }
    return Latents(**fields)
  except (TypeError, AttributeError) as error:
    raise DataError(
      f"{folder}/manifest.json: its entry latents cannot be read ({error}). Encode it again."
    ) from error


def check_images(folder: str | Path, latents: Latents) -> None:
  """Raises DataError where the images of a folder of latents have changed since.

  Where they are not on this machine any more, nothing can be said.
  """
  now = changed_hash(latents.images, latents.images_hash)
  if now is not None:
    raise DataError(
      f"{folder} holds latents of other images than {latents.images} has now: its manifest.json "
      f"has the hash {now[:12]}, {latents.images_hash[:12]} when they were encoded. "
      f"{encode_again(folder, latents)}"
    )


def check_split(folder: str | Path, latents: Latents, split: str) -> None:
  """Raises DataError where a split is not among the latents."""
  splits = read_manifest(folder)["splits"]
  if split not in splits:
    raise DataError(
      f"{folder} holds no latents of the split {split!r}, only of {', '.join(splits)}. "
      f"{encode_again(folder, latents)} --splits={','.join([*splits, split])}"
    )


def encode_again(folder: str | Path, latents: Latents) -> str:
  """The command that brings a folder up to date, as the end of a message."""
  mode = " --mode" if latents.stored == MODE else ""
  return (
    f"Encode again what changed: t2i data encode --data={latents.images} "
    f"--autoencoder={latents.autoencoder} --to={folder}{mode}"
  )


def npy(x: np.ndarray) -> bytes:
  """An array as the bytes of a .npy file."""
  file = io.BytesIO()
  np.save(file, np.ascontiguousarray(x))
  return file.getvalue()


def with_latents(record: Record, found: Sequence[bytes], size: tuple[int, int]) -> Record:
  """The record with latents in place of its images, and the sizes of its first in the metadata.

  found  latents of each image;   size: height, width that the images were fitted to
  """
  image, *then = found
  turns = tuple((text, new) for (text, _), new in zip(record.then, then, strict=True))
  sizes = crop_sizes(upright_size(record.image), size).tolist()
  return dataclasses.replace(record, image=image, then=turns, meta=record.meta | {SIZES: sizes})
