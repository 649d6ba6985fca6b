import io
import shutil

import numpy as np
import pytest
from PIL import Image

from t2i_jax.data.build import build
from t2i_jax.data.from_scenes import Scenes


@pytest.fixture(scope="session")
def scenes_dir(tmp_path_factory):
  """A small built folder that no test changes: 100, 12 and 8 records in shards of 40."""
  out = tmp_path_factory.mktemp("built") / "scenes"
  build(Scenes("easy", None, 100, 12, 8), out, workers=1, shard_records=40, progress=False)
  return out


@pytest.fixture
def scenes_copy(scenes_dir, tmp_path):
  """The same folder, to damage."""
  return shutil.copytree(scenes_dir, tmp_path / "copy")


@pytest.fixture
def noise():
  """noise(h, w) -> uint8 [h, w, 3], smooth enough for JPEG to keep."""
  rng = np.random.default_rng(0)

  def make(height, width):
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))

  return make


@pytest.fixture
def saved():
  """saved(image or array, format, **options) -> the file's bytes."""

  def save(image, kind="PNG", **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()

  return save
