"""Qwen2.5-VL as the text encoder of a model that edits: its prompts have images in them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.conditioning import Tower
from t2i_jax.towers.language_model import LanguageModel, LanguageModelConfig
from t2i_jax.towers.qwen_vision import ImageTokens, QwenVision, QwenVisionConfig


class Seen(NamedTuple):
  """The images of B prompts, as the network is given them.

  images     of each, [B, H, W, 3] float32 of its own size, normalised
  which      [B, T] int32, the token of all images that stands there; -1: one of the text
  positions  [B, T, 3] int32, of qwen_vision.mrope_positions
  """

  images: tuple[Any, ...]
  which: Any
  positions: Any


@dataclass(frozen=True)
class VisionLanguageConfig:
  """Raises ConfigError where the tokens of images have another width than those of the text."""

  text: LanguageModelConfig
  vision: QwenVisionConfig

  def __post_init__(self) -> None:
    if self.vision.out != self.text.width:
      raise ConfigError(
        f"a vision tower of out = {self.vision.out} for a language model of width = "
        f"{self.text.width}: they must be equal."
      )

  @property
  def widths(self) -> dict[str, int]:
    return self.text.widths

  def make(self, rngs: nnx.Rngs) -> "VisionLanguage":
    return VisionLanguage(self, rngs)


class VisionLanguage(nnx.Module):
  """(ids [B, T] int32, mask [B, T] bool, dtype, Seen) -> Tower, as of LanguageModel."""

  def __init__(self, config: VisionLanguageConfig, rngs: nnx.Rngs):
    self.text = LanguageModel(config.text, rngs)
    self.vision = QwenVision(config.vision, rngs)

  def __call__(self, ids: jax.Array, mask: jax.Array, dtype: Any, seen: Seen) -> Tower:
    tokens = [self.vision(images, dtype) for images in seen.images]
    placed = ImageTokens(jnp.concatenate(tokens, axis=1), seen.which, seen.positions)
    return self.text(ids, mask, dtype, placed)
