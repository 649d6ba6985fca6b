"""Images in the prompts of published pipelines, up to what the networks are given. On the host."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from t2i_jax.errors import ConfigError, PromptError, RestoreError
from t2i_jax.towers.qwen_vision import mrope_positions
from t2i_jax.towers.tokenizers import FolderTokenizer
from t2i_jax.towers.vision_language import Seen

SIDE = 32  # of resized images, a multiple of this
IMAGE_PAD = "<|image_pad|>"
THINNEST = 200  # the largest ratio of an image's sides
# Of Qwen2VLImageProcessor, where its file does not say.
PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
FIXED = {
  "do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True,
  "resample": 3, "rescale_factor": 1 / 255,
}  # fmt: skip
FILES = ("preprocessor_config.json", "processor_config.json")  # since transformers 5: the second


class ImageRule(NamedTuple):
  """What a pipeline does to the images of a prompt.

  area    in pixels, to which they are resized for the autoencoder, their shape kept
  prompt  in pixels, likewise for the text encoder; 0: it is given what the autoencoder is given
  each    text of each image before the caption, with {} for its number
  most    of images
  """

  area: int = 1024**2
  prompt: int = 0
  each: str = ""
  most: int = 1


def size_of_area(size: tuple[int, int], area: int) -> tuple[int, int]:
  """The height and width of about this area, in pixels, nearest in shape to an image's `size`.

  Both are multiples of SIDE. Source: calculate_dimensions of diffusers' pipeline_qwenimage_edit.py
  """
  ratio = size[1] / size[0]
  width = math.sqrt(area * ratio)
  sides = (round(side / SIDE) * SIDE for side in (width / ratio, width))
  height, width = (max(SIDE, side) for side in sides)
  return height, width


def resized(image: np.ndarray, area: int) -> np.ndarray:
  """An image scaled to `size_of_area`, uint8 [H, W, 3]."""
  height, width = size_of_area(image.shape[:2], area)
  return _scaled(image, height, width, Image.Resampling.LANCZOS)


def _scaled(image: np.ndarray, height: int, width: int, how: Image.Resampling) -> np.ndarray:
  return np.asarray(Image.fromarray(image).resize((width, height), how))


class Processor(NamedTuple):
  """transformers' Qwen2VLImageProcessor, as it is with PIL.

  side         of a token of an image, in pixels
  least, most  pixels of an image
  mean, std    by which it is normalised
  """

  side: int
  least: int
  most: int
  mean: tuple[float, ...] = CLIP_MEAN
  std: tuple[float, ...] = CLIP_STD

  def size(self, height: int, width: int) -> tuple[int, int]:
    """The sides to which an image is scaled. Raises ConfigError for one that is too thin."""
    if max(height, width) > THINNEST * min(height, width):
      raise ConfigError(
        f"an image of {height} x {width} (height x width): one side may be {THINNEST} times the "
        "other at most. Crop it."
      )
    whole = lambda how, scale: [
      max(1, how(length * scale / self.side)) * self.side for length in (height, width)
    ]
    sides = whole(round, 1)
    if math.prod(sides) > self.most:
      sides = whole(math.floor, math.sqrt(self.most / (height * width)))
    elif math.prod(sides) < self.least:
      sides = whole(math.ceil, math.sqrt(self.least / (height * width)))
    return sides[0], sides[1]

  def __call__(self, image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> float32 [H', W', 3], scaled and normalised. Raises ConfigError."""
    image = _scaled(image, *self.size(*image.shape[:2]), Image.Resampling.BICUBIC)
    unit = image.astype(np.float32) * np.float32(1 / 255)
    return (unit - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)


def read_processor(folder: str | Path) -> Processor:
  """The image processor in a folder. Raises RestoreError where it is missing, or another one."""
  paths = [path for path in (Path(folder) / name for name in FILES) if path.is_file()]
  if not paths:
    raise RestoreError(f"{folder} has no {FILES[0]}. Copy the whole folder of the model again.")
  path = paths[0]
  try:
    content = json.loads(path.read_text("utf-8"))
    k: dict[str, Any] = content.get("image_processor", content)
    kind = str(k.get("image_processor_type"))
    pixels = PIXELS | (k.get("size") or {})
    # transformers has the older min_pixels and max_pixels take the place of `size`.
    least = k.get("min_pixels") or pixels["shortest_edge"]
    most = k.get("max_pixels") or pixels["longest_edge"]
    made = Processor(
      int(k.get("patch_size", 14)) * int(k.get("merge_size", 2)),
      int(least),
      int(most),
      tuple(k.get("image_mean") or CLIP_MEAN),
      tuple(k.get("image_std") or CLIP_STD),
    )
  except (OSError, ValueError, TypeError, AttributeError) as error:
    raise RestoreError(f"{path} cannot be read: {error}. Copy it again.") from error
  wrong = [f"{key} = {k[key]!r}" for key, value in FIXED.items() if k.get(key) not in (None, value)]
  if not kind.startswith("Qwen2VLImageProcessor"):
    wrong.append(f"image_processor_type = {kind!r}")
  if wrong:
    raise RestoreError(f"{path}: {', '.join(wrong)} is not supported.")
  return made


class ShownImages(NamedTuple):
  """Images in the prompts of one text encoder."""

  rule: ImageRule
  processor: Processor
  tokenizer: FolderTokenizer

  def for_backbone(self, images: np.ndarray) -> np.ndarray:
    """[n, H, W, 3] uint8 -> the same images as the autoencoder is given them."""
    return np.stack([resized(image, self.rule.area) for image in images])

  def encode(
    self, texts: Sequence[str], images: Sequence[np.ndarray], length: int
  ) -> tuple[np.ndarray, np.ndarray, Seen]:
    """ids [n, T] int32, mask [n, T] bool and Seen of n captions.

    images  [n, H, W, 3] uint8, each in all of the captions
    length  of the text with one token an image; T has as many more as the images have
    Raises ConfigError for no image, too many or other arrays; PromptError.
    """
    if not 0 < len(images) <= self.rule.most:
      limit = "one image" if self.rule.most == 1 else f"1 to {self.rule.most} images"
      raise ConfigError(
        f"this model edits {limit} and was given {len(images)}. Give it with --reference=FILE; in "
        "Python: draw(..., references=[uint8 [n, H, W, 3]])."
      )
    for one in images:
      if one.dtype != np.uint8 or one.shape != (len(texts), *one.shape[1:3], 3):
        raise ConfigError(
          f"an image to edit is uint8 [{len(texts)}, H, W, 3], not {one.dtype} {one.shape}."
        )
    shown = tuple(np.stack([self.processor(self._of_prompt(one)) for one in i]) for i in images)
    sizes = [tuple(side // self.processor.side for side in one.shape[1:3]) for one in shown]
    before = "".join(self.rule.each.format(i + 1) for i in range(len(images)))
    given = self.tokenizer.encode([before + text for text in texts], length)
    ids, mask, which = self._expanded(texts, *given, [rows * cols for rows, cols in sizes])
    positions = mrope_positions(which, mask, [sizes] * len(texts))
    return ids, mask, Seen(shown, which, positions)

  def _of_prompt(self, image: np.ndarray) -> np.ndarray:
    return resized(image, self.rule.prompt or self.rule.area)

  def _expanded(
    self, texts: Sequence[str], ids: np.ndarray, mask: np.ndarray, counts: list[int]
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids and mask with counts[i] tokens in place of image i's one, and Seen.which; padding last.

    Raises PromptError for a caption that has tokens of images itself.
    """
    pad = self.tokenizer.id_of(IMAGE_PAD)
    n, length = len(ids), ids.shape[1] + sum(counts) - len(counts)
    found = np.full((n, length), self.tokenizer.pad, np.int32)
    real, which = np.zeros((n, length), bool), np.full((n, length), -1, np.int32)
    for row, text in enumerate(texts):
      tokens = ids[row][mask[row]]
      is_image = tokens == pad
      if is_image.sum() != len(counts):
        raise PromptError(f"{text!r} contains {IMAGE_PAD}, which stands for images. Remove it.")
      repeats = np.ones(len(tokens), int)
      repeats[is_image] = counts
      tokens = np.repeat(tokens, repeats)
      found[row, : len(tokens)], real[row, : len(tokens)] = tokens, True
      which[row, : len(tokens)][tokens == pad] = np.arange(sum(counts))
    return found, real, which
