"""What a policy needs of a model: features of texts by its own encoders."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.evaluation.guard import EmbedText
from t2i_jax.inference.open import Model
from t2i_jax.systems.parts import only


def text_features(model: Model) -> EmbedText:
  """Of all encoders of a model: the mean of a text's tokens less that of "", each of length 1,
  side by side, and the whole of length 1.

  What all texts have in common, as the tokens of begin and end, says nothing of what they mean.
  Raises PromptError for a text that an encoder cannot encode.
  """
  system, params = model.system, only(model.params, model.system.text)

  @jax.jit
  def run(text):
    found = [
      jnp.sum(jnp.where(tower.mask[..., None], tower.tokens.astype(jnp.float32), 0), axis=1)
      / jnp.maximum(tower.mask.sum(axis=1, keepdims=True), 1)
      for tower in system.towers(params, text).values()
    ]
    found = [mean[1:] - mean[:1] for mean in found]  # less that of ""
    unit = lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    return unit(jnp.concatenate([unit(one) for one in found], axis=1))

  def embed(texts: Sequence[str]) -> np.ndarray:
    text = {name: encoder.encode(["", *texts]) for name, encoder in system.text.items()}
    with jax.set_mesh(model.mesh):
      return np.asarray(run(text))

  return embed
