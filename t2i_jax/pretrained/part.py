"""Published weights for a part of a system, whatever kind of folder they come in."""

from pathlib import Path
from typing import Any

from t2i_jax.models.params import Params
from t2i_jax.models.transfusion import TransfusionConfig
from t2i_jax.pretrained.folder import load_like
from t2i_jax.pretrained.language_model import OF_WORDS, load_language_model


def read(folder: str | Path, config: Any, shardings: Params) -> Params:
  """The weights of a folder for a network of this config, float32, onto these shardings.

  For a joint model they are those of a language model: the rest of its tree is left out.
  Raises ConfigError for a folder of another model, RestoreError for one that is damaged.
  """
  if isinstance(config, TransfusionConfig):
    own = {name: shardings[name] for name in OF_WORDS if name in shardings}
    return load_language_model(folder, config, own)
  return load_like(folder, config, shardings)
