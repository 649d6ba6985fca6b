"""A contact sheet: images of a built folder with their captions."""

from pathlib import Path

import numpy as np
from PIL import Image

from t2i_jax.data.images import decode, is_latent, read_latent
from t2i_jax.data.sheet import Band, captioned
from t2i_jax.data.source import ShardSource, read_manifest


def contact_sheet(
  folder: str | Path, split: str | None = None, n: int = 24, columns: int = 6
) -> Image.Image:
  """n records spread over a split, each with its first caption; captions are wrapped.

  split  None: the manifest's first
  Latents are shown as their first three channels, scaled to the full range.
  Raises DataError.
  """
  manifest = read_manifest(folder)
  source = ShardSource(folder, split or next(iter(manifest["splits"])))
  records = source.spread(n)
  tiles = [(record_image(record.image), record.captions[0]) for record in records]
  heading = f"{Path(folder).name}, {source.split}: {len(records)} of {len(source):,} records"
  return captioned([Band(heading, tiles, columns)], manifest["attribution"])


def record_image(data: bytes) -> Image.Image:
  """A record's image at its original size."""
  if not is_latent(data):
    return decode(data)
  x = read_latent(data)
  low, high = x.min(), max(x.max(), x.min() + 1e-6)
  x = np.repeat(x, 3, axis=2) if x.shape[2] < 3 else x
  return Image.fromarray(((x[:, :, :3] - low) / (high - low) * 255).astype(np.uint8))
