"""Whether a config trains a published model as it was trained: process, times and null.

A backbone that starts in a pipeline's folder is for one process, one shift of its times, and one
null by encoder. Others train, and give a model that neither samples as before nor as it is trained.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from t2i_jax.errors import ConfigError
from t2i_jax.pretrained.folder import open_folder
from t2i_jax.pretrained.pipelines import INDEX, read_index
from t2i_jax.systems import System
from t2i_jax.systems.folder import folder_config
from t2i_jax.systems.make import make_mixing
from t2i_jax.systems.parts import split_start
from t2i_jax.systems.published import null_zeros
from t2i_jax.systems.system import Mixing
from t2i_jax.towers.published import PUBLISHED, tokenizer_of

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
  tokens = height * width // c.model.get("patch", 1) ** 2
  wrong = _of_process(c, system.mixing, published, tokens) + _of_null(c, system, published, root)
  if wrong:
    raise ConfigError(
      f"{'; '.join(wrong)} in {root}, where the backbone starts. Set what is there, or "
      "train.as_published=False to train another model from its weights."
    )


def _of_process(c: ConfigDict, own: Mixing, published: ConfigDict, tokens: int) -> list[str]:
  keys = [k for k in NAMES if _name(c.process[k]) != _name(published.process[k])]
  other, u = make_mixing(published.process, tokens), jnp.asarray(QUANTILES)
  if not np.allclose(own.law(u), other.law(u), atol=1e-5):
    keys.append("timesteps")
  if not np.isclose(own.shift, other.shift, rtol=1e-5):
    keys.append("shift")
  return [
    f"process.{key} = {c.process[key]!r}, and it is {published.process[key]!r}" for key in keys
  ]


def _of_null(c: ConfigDict, system: System, published: ConfigDict, root: Path) -> list[str]:
  theirs = published.text.towers
  if set(system.text) != set(theirs):
    return [f"text.towers has {', '.join(sorted(system.text))}, and there are {', '.join(theirs)}"]
  index = read_index(root)
  if index.published.text not in PUBLISHED:  # classes, whose null is a row of the table
    return []
  row = PUBLISHED[index.published.text]
  found = []
  for part in row.parts:
    if part.weights not in index.parts:
      continue
    ids, mask = tokenizer_of(root, part).encode([row.null.text], part.length)
    mask = mask & (not null_zeros(row, root))
    if not np.array_equal(_ids(system.text[part.weights].null), _ids((ids, mask))):
      found.append(
        f"text.towers.{part.weights} = {c.text.towers[part.weights]!r} has another null, and it is "
        f"{row.null.text!r} as {theirs[part.weights]!r} encodes it"
      )
  return found


def _ids(null: tuple[Any, ...]) -> np.ndarray:
  """The token ids of an encoded caption, without padding."""
  ids, mask, *_ = null
  return np.asarray(ids)[np.asarray(mask)]


def _name(text: str) -> str:
  return text.partition("(")[0]
