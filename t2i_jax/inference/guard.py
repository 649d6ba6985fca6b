"""What a policy needs of a model: features of texts by its own encoders."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.evaluation.guard import EmbedText
from t2i_jax.inference.open import Model
from t2i_jax.systems.parts import only

ROWS = 32  # texts at once, so that one program serves any number


def text_features(model: Model) -> EmbedText:
  """Of all encoders of a model: the sum of a text's tokens less that of "", of length 1 for each
  encoder, side by side, and the whole of length 1.

  What all texts have in common, as the tokens of begin and end, says nothing of what they mean.
  Raises PromptError for a text that an encoder cannot encode.
  """
  system: Any = model.system
  params = only(model.params, system.text)

  def run(params: Any, text: Any) -> jax.Array:
    unit = lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    sums = [
      jnp.sum(jnp.where(tower.mask[..., None], tower.tokens.astype(jnp.float32), 0), axis=1)
      for tower in system.towers(params, text).values()
    ]
    return unit(jnp.concatenate([unit(one[1:] - one[:1]) for one in sums], axis=1))

  compiled = jax.jit(run)

  def embed(texts: Sequence[str]) -> np.ndarray:
    found = []
    for start in range(0, len(texts), ROWS):
      part = ["", *texts[start : start + ROWS]]
      filled = part + [""] * (ROWS + 1 - len(part))
      text = {name: encoder.encode(filled) for name, encoder in system.text.items()}
      with jax.set_mesh(model.mesh):
        found.append(np.asarray(compiled(params, text))[: len(part) - 1])
    return np.concatenate(found)

  return embed
