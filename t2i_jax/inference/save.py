"""Images as files: PNGs that say how they were made, and a grid; latents as .npy."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from t2i_jax.data.sheet import grid
from t2i_jax.errors import WorkdirError


def check_out(out: Path, flag: str = "--out") -> None:
  """Raises WorkdirError where a folder, which need not exist yet, cannot be written.

  For before the work whose results go there. Leaves nothing behind.
  """
  try:
    there = out.absolute()
    while not there.exists() and not there.is_symlink():
      there = there.parent
    with tempfile.NamedTemporaryFile(dir=there, prefix=".probe-") as probe:
      probe.write(b"0" * 4096)
  except OSError as error:
    raise WorkdirError(f"{flag}={out} cannot be written: {error.strerror}.") from error


def save_png(path: Path, image: np.ndarray, about: Mapping[str, str]) -> None:
  """A PNG with text chunks.   image: uint8 [H, W, 3]     Raises OSError."""
  info = PngInfo()
  for key, value in about.items():
    info.add_itxt(key, value)
  Image.fromarray(image).save(path, pnginfo=info)


def save_images(
  images: np.ndarray,
  prompts: list[str],
  seeds: list[int],
  out: Path,
  config: ConfigDict,
  columns: int = 1,
) -> list[Path]:
  """A PNG an image, with prompt, seed and config in its text chunks, and grid.png.

  images   uint8 [n, H, W, 3]; float32 latents [n, h, w, C] become a .npy each, without a grid
  columns  of the grid; 1: about as many as rows
  Returns the paths. Raises WorkdirError.
  """
  try:
    out.mkdir(parents=True, exist_ok=True)
    stems = [out / f"{i:04d}_seed{seed}" for i, seed in enumerate(seeds)]
    if images.dtype != np.uint8:
      paths = [stem.with_suffix(".npy") for stem in stems]
      for path, latent in zip(paths, images, strict=True):
        np.save(path, latent)
      return paths
    paths = [stem.with_suffix(".png") for stem in stems]
    for path, image, prompt, seed in zip(paths, images, prompts, seeds, strict=True):
      about = {"prompt": prompt, "seed": str(seed), "config": json.dumps(config.to_dict())}
      save_png(path, image, about)
    whole = out / "grid.png"
    columns = columns if columns > 1 else max(1, int(len(images) ** 0.5))
    rows = [list(images[i : i + columns]) for i in range(0, len(images), columns)]
    grid(rows).save(whole)
  except OSError as error:
    raise WorkdirError(f"--out={out} cannot be written: {error}.") from error
  return [*paths, whole]
