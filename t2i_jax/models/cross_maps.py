"""A control that records the attention of the image's tokens over those of the text."""

import jax
import jax.numpy as jnp

from t2i_jax.models.attention import Visible, attention_weights
from t2i_jax.models.control import Control, Here


def cross_maps(depth: int) -> Control:
  """Nothing is changed; of each layer the maps [B, N, L, T] float32 of all heads are recorded.

  In a joint sequence they are the columns of the text, which do not sum to 1. U-Nets have L of
  several sizes, each in the stack where it is. depth: layers of the model
  """

  def record(here: Here, site: str, q, k, v, mask: Visible | None) -> jax.Array | None:
    if site == "self":
      return None
    weights = attention_weights(q, k, None if mask is None else mask.allowed())
    weights = weights.reshape(len(q), -1, *weights.shape[-2:])
    return weights[:, :, here.text :, : here.text] if site == "joint" else weights

  return Control(jnp.zeros(depth, bool), record=record)
