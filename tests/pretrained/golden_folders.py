"""Folders of the tiny pipelines whose figures are stored, and images to train them on."""

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.golden_pipelines import load, write_folder
from t2i_jax.data.build import build
from t2i_jax.data.from_folder import Folder

GOLDEN = Path(__file__).resolve().parents[1] / "inference/pipelines"


def write_golden(root, *names):
  """root/NAME of each that is not there yet."""
  for name in names:
    if not (root / name).exists():
      write_folder(load(GOLDEN / f"{name}.npz"), root / name)


def build_images(root):
  """root/data of twelve images, "image 0" to "image 11"."""
  (root / "in").mkdir()
  rng = np.random.default_rng(0)
  for i in range(12):
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    small.resize((32, 32)).save(root / "in" / f"{i}.png")
    (root / "in" / f"{i}.txt").write_text(f"image {i}")
  build(Folder(str(root / "in"), val_fraction=0.3), root / "data", workers=1, progress=False)
