"""Sheets of word maps: where an image attends to each word, by step and by layer."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from t2i_jax.data.sheet import Band, captioned
from t2i_jax.edit.word_maps import Recorded
from t2i_jax.evaluation.report import Section

MOST = 8  # tiles of a row: steps or layers, evenly spaced
DARK = 0.15  # how bright an image is where there is no attention


def lit(image: np.ndarray, weights: np.ndarray, most: float) -> np.ndarray:
  """An image, bright where a map is high.   # uint8 [H, W, 3]

  image  uint8 [H, W, 3];   weights: [rows, cols] >= 0;   most: the weight of full brightness
  """
  height, width = image.shape[:2]
  unit = np.clip(weights / max(most, 1e-20), 0, 1).astype(np.float32)
  large = Image.fromarray(unit).resize((width, height), Image.Resampling.BILINEAR)
  bright = DARK + (1 - DARK) * np.asarray(large)[..., None]
  return np.round(image * bright).astype(np.uint8)


def sheet(image: np.ndarray, words: Sequence[str], by_step: np.ndarray, by_layer: np.ndarray):
  """A band of each word over steps, and one over layers, beside the image.

  image  uint8 [H, W, 3];   by_step [S, rows, cols, K], by_layer [layers, rows, cols, K]
  """
  bands, plain = [], Image.fromarray(image)
  for k, word in enumerate(words):
    for name, maps in (("step", by_step[..., k]), ("layer", by_layer[..., k])):
      shown = np.unique(np.linspace(0, len(maps) - 1, MOST).round().astype(int))
      most = float(maps.max())
      tiles = [(plain, "the image"), (_lit(image, maps.mean(0)), "mean, brightest = its maximum")]
      tiles += [(Image.fromarray(lit(image, maps[i], most)), f"{name} {i}") for i in shown]
      heading = f"{word}, by {name}: brightest = {most:.3g} of the attention"
      bands.append(Band(heading, tiles, MOST + 2))
  return captioned(bands)


def _lit(image: np.ndarray, maps: np.ndarray) -> Image.Image:
  return Image.fromarray(lit(image, maps, float(maps.max())))


def section(
  title: str, images: np.ndarray, words: Sequence[str], maps: np.ndarray, seeds: Sequence[int]
) -> Section:
  """Of each seed and word the map over all steps and layers.

  images  uint8 [n, H, W, 3];   maps: [n, S, rows, cols, K] by step
  """
  cards = []
  for seed, image, of_image in zip(seeds, images, maps.mean(axis=1), strict=True):
    cards += [
      (f"{word}, seed {seed}", lit(image, of_image[..., k], float(of_image[..., k].max())))
      for k, word in enumerate(words)
    ]
  return title, "Bright where the image attends to the word, over all steps and layers.", cards


def pages(
  images: tuple[np.ndarray, np.ndarray],
  words: tuple[Sequence[str], Sequence[str]],
  recorded: Recorded,
  seeds: Sequence[int],
) -> tuple[list[Section], dict[str, Image.Image]]:
  """Sections of the report, and sheets by file name, of pairs (before, after).

  recorded  leaves [n, 2, ...] of the words, as many as the longer prompt has
  """
  sections, sheets = [], {}
  for side, name in enumerate(("before", "after")):
    steps, layers = (leaf[:, side] for leaf in recorded)
    title = f"Attention to each word, {name}"
    sections.append(section(title, images[side], words[side], steps, seeds))
    for i, seed in enumerate(seeds):
      one = sheet(images[side][i], words[side], steps[i], layers[i])
      sheets[f"maps_{name}_seed{seed}.png"] = one
  return sections, sheets
