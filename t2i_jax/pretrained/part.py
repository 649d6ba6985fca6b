"""Published weights for a part of a system, from a folder of diffusers or transformers."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp

from t2i_jax.models.params import Params
from t2i_jax.models.transfusion import TransfusionConfig
from t2i_jax.pretrained.folder import load_like
from t2i_jax.pretrained.language_model import DECODER, load_language_model
from t2i_jax.pretrained.qwen_vision import load_qwen_vision
from t2i_jax.towers.vision_language import VisionLanguageConfig


def read(folder: str | Path, config: Any, shardings: Params, dtype: Any = jnp.float32) -> Params:
  """The weights of a folder for a network of this config, placed by these shardings.

  For a joint model they are those of a language model, float32; its other parameters are left out.
  Raises ConfigError for a folder of another model, RestoreError for a damaged one.
  """
  if isinstance(config, TransfusionConfig):
    own = {name: shardings[name] for name in DECODER if name in shardings}
    return load_language_model(folder, config, own)
  if isinstance(config, VisionLanguageConfig):
    text = load_like(folder, config.text, shardings["text"], dtype)
    return {"text": text, "vision": load_qwen_vision(folder, shardings["vision"], dtype)[1]}
  return load_like(folder, config, shardings, dtype)
