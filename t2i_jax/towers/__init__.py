"""Text encoders: captions as token ids in, towers of a Conditioning out."""

from collections.abc import Callable
from typing import Any

from t2i_jax.towers.bag_of_words import BagOfWords, BagOfWordsConfig
from t2i_jax.towers.label import Label, LabelConfig
from t2i_jax.towers.text import TextTower, TextTowerConfig

# By the name in config.text.tower; each takes the tokenizer's vocab and the captions' length first.
TOWERS: dict[str, Callable[..., Any]] = {
  "transformer": TextTowerConfig,
  "bag_of_words": BagOfWordsConfig,
  "label": LabelConfig,
}

__all__ = [
  "TOWERS",
  "BagOfWords",
  "BagOfWordsConfig",
  "Label",
  "LabelConfig",
  "TextTower",
  "TextTowerConfig",
]
