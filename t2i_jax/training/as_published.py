"""Whether a config trains a published model as it was trained: process, times and null.

A backbone that starts in a pipeline's folder is for one process, one shift of its times, and one
null by encoder. Others train, and give a model that neither samples as before nor as it is trained.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.pretrained.folder import open_folder
from t2i_jax.pretrained.pipelines import INDEX
from t2i_jax.systems import System, make_system
from t2i_jax.systems.folder import folder_config
from t2i_jax.systems.parts import split_start
from t2i_jax.towers import TextEncoder

NAMES = ("kind", "prediction")
QUANTILES = np.linspace(0.01, 0.99, 50, dtype=np.float32)


def check_published(c: ConfigDict, system: System) -> None:
  """Raises ConfigError naming each key in which a config differs from its backbone's folder."""
  if not c.train.as_published or "backbone" not in system.parts:
    return
  kind, path = split_start(system.parts["backbone"].start, "parts.backbone.start")
  root = Path(path).parent
  if kind != "folder" or not (root / INDEX).is_file():
    return
  factor = open_folder(root / "vae")[1].factor
  height, width, _ = system.x_shape
  published = folder_config(root, (factor * height, factor * width))
  reference = make_system(published, Tokenizer.load("", published.text.tokenizer))
  wrong = _of_process(c, system, published, reference) + _of_null(c, system, published, reference)
  if wrong:
    raise ConfigError(
      f"{'; '.join(wrong)} in {root}, where the backbone starts. Set what is there, or "
      "train.as_published=False to train another model from its weights."
    )


def _of_process(
  c: ConfigDict, system: System, published: ConfigDict, reference: System
) -> list[str]:
  keys = [k for k in NAMES if _name(c.process[k]) != _name(published.process[k])]
  own, other = system.mixing, reference.mixing
  if not np.allclose(own.law(jnp.asarray(QUANTILES)), other.law(jnp.asarray(QUANTILES)), atol=1e-5):
    keys.append("timesteps")
  if not np.isclose(own.shift, other.shift, rtol=1e-5):
    keys.append("shift")
  return [
    f"process.{key} = {c.process[key]!r}, and it is {published.process[key]!r}" for key in keys
  ]


def _of_null(c: ConfigDict, system: System, published: ConfigDict, reference: System) -> list[str]:
  if set(system.text) != set(reference.text):
    names = lambda one: ", ".join(sorted(one.text))
    return [f"text.towers has {names(system)}, and there are {names(reference)}"]
  differ = [
    name
    for name, encoder in system.text.items()
    if not np.array_equal(_null(encoder), _null(reference.text[name]))
  ]
  return [
    f"text.towers.{name} = {c.text.towers[name]!r} has another null, and it is "
    f"{published.text.towers[name]!r}"
    for name in differ
  ]


def _null(encoder: TextEncoder) -> np.ndarray:
  """The token ids of the null, without padding."""
  ids, mask, *_ = encoder.null
  return np.asarray(ids)[np.asarray(mask)]


def _name(text: str) -> str:
  return text.partition("(")[0]
