"""Images of prompts as diffusers and transformers resize and normalise them; and those refused."""

import json

import numpy as np
import pytest
from PIL import Image

from t2i_jax.errors import ConfigError, PromptError, RestoreError
from t2i_jax.towers.published import PUBLISHED
from t2i_jax.towers.shown import ShownImages, read_processor, resized, size_of_area
from t2i_jax.towers.tokenizers import FolderTokenizer

pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pipelines = pytest.importorskip("diffusers.pipelines.qwenimage.pipeline_qwenimage_edit")
theirs = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
tiny_tokenizers = pytest.importorskip("benchmarks.tiny_tokenizers")

# Each rule of sizes: as they are, too small, too large, thin.
SIZES = [(64, 96), (20, 30), (300, 200), (29, 400)]
LIMITS = {"size": {"shortest_edge": 56**2, "longest_edge": 168**2}}


def image_of(size):
  return np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)


def their_patches(image, side):
  """An image [H, W, 3] in the order of Qwen2VLImageProcessor's patches, of two equal frames."""
  rows, cols = (length // side for length in image.shape[:2])
  p = side // 2
  x = image.reshape(rows, 2, p, cols, 2, p, 3).transpose(0, 3, 1, 4, 6, 2, 5)
  return np.repeat(x[:, :, :, :, :, None], 2, axis=5).reshape(rows * cols * 4, -1)


@pytest.mark.parametrize("older", [False, True])
def test_the_image_processor_is_theirs(older, tmp_path):
  made = theirs.Qwen2VLImageProcessorPil(**LIMITS, image_mean=[0.4, 0.5, 0.6])
  made.save_pretrained(tmp_path)
  path = tmp_path / "preprocessor_config.json"
  if older:  # as published for transformers 4
    limits = {"min_pixels": 56**2, "max_pixels": 168**2}
    path.write_text(json.dumps(json.loads(path.read_text()) | limits | {"size": {}}))
  ours = read_processor(tmp_path)
  for size in SIZES:
    image = image_of(size)
    want = made(Image.fromarray(image), return_tensors="np")
    found = ours(image)
    assert [2 * length // ours.side for length in found.shape[:2]] == list(
      want["image_grid_thw"][0][1:]
    )
    np.testing.assert_allclose(their_patches(found, ours.side), want["pixel_values"], atol=1e-6)


def test_images_are_resized_as_theirs():
  of_vae = diffusers.image_processor.VaeImageProcessor(vae_scale_factor=16)
  for size in SIZES:
    for area in (96 * 64, 384**2):
      width, height, _ = pipelines.calculate_dimensions(area, size[1] / size[0])
      assert size_of_area(size, area) == (max(32, height), max(32, width))
    image = image_of(size)
    want = of_vae.resize(Image.fromarray(image), *size_of_area(size, 384**2))
    np.testing.assert_array_equal(resized(image, 384**2), np.asarray(want))


@pytest.fixture
def shown(tmp_path):
  """What the text encoder of Qwen-Image-Edit is given, with a small tokenizer."""
  tiny_tokenizers.qwen(tmp_path / "tokenizer")
  theirs.Qwen2VLImageProcessorPil(**LIMITS).save_pretrained(tmp_path)
  row = PUBLISHED["qwen_image_edit"]
  opened = FolderTokenizer(tmp_path / "tokenizer", row.parts[0].rule)
  return ShownImages(row.images._replace(area=64 * 96), read_processor(tmp_path), opened)


def test_what_is_refused(shown, tmp_path):
  image = image_of((64, 96))[None]
  ids, mask, seen = shown.encode(["a", "abc"], [np.repeat(image, 2, 0)], 500)
  assert ids.shape == mask.shape == (2, 505) and (seen.which.max(1) == 5).all()
  assert mask[1].sum() - mask[0].sum() == 2 and (seen.positions[~mask] == 0).all()
  for images in ([], [image, image]):
    with pytest.raises(ConfigError, match=f"edits one image and was given {len(images)}"):
      shown.encode(["a"], images, 500)
  for wrong in (image[0], image.astype(float), np.repeat(image, 2, 0)):
    with pytest.raises(ConfigError, match=r"is uint8 \[1, H, W, 3\]"):
      shown.encode(["a"], [wrong], 500)
  with pytest.raises(PromptError, match="stands for images"):
    shown.encode(["a<|image_pad|>"], [image], 500)
  with pytest.raises(ConfigError, match="8 x 2000"):
    shown.processor.size(8, 2000)
  path = tmp_path / "preprocessor_config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"resample": 2}))
  with pytest.raises(RestoreError, match="resample = 2"):
    read_processor(tmp_path)
  path.unlink()
  with pytest.raises(RestoreError, match=r"no preprocessor_config\.json"):
    read_processor(tmp_path)
