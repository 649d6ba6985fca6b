"""Plug-and-Play [2211.12572]: features and self-attention of a source row in its target row.

Rows are pairs, as models.edit_control has them. In the first steps and in chosen layers, the output
of a block is the source's at the tokens of the image [2211.12572 sec. 4.1], and its self-attention
has the queries and keys of the source [2211.12572 sec. 4.2]. In a joint sequence both are those of
the image's tokens; the text's stay the row's own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t2i_jax.models.attention import Visible
from t2i_jax.models.control import Control, Here, chosen_layers
from t2i_jax.models.edit_control import of_text, source_of
from t2i_jax.models.streams import Both

PLUGGED = "plugged"  # of extras


class PluggedRows(NamedTuple):
  """extras["plugged"]: in how many steps each row of R has what of its source.   # [R] int32

  features, attention  steps, from the first;   step: the one now
  """

  features: Any
  attention: Any
  step: Any


def plug_and_play(
  depth: int, stride: int, features: Sequence[int], attention: Sequence[int]
) -> Control:
  """The control. The second row of each pair is changed, under every condition of guidance.

  depth   layers of the model;   features, attention: those in which either is the source's
  stride  conditions of guidance: rows from an image of one condition to the next image
  Raises ConfigError for a layer that does not exist.
  """
  none = jnp.zeros(depth, bool)
  chosen = lambda layers: chosen_layers(layers, depth, "plug-and-play") if layers else none

  def rows(here: Here, layer: jax.Array, steps: jax.Array) -> jax.Array:
    plugged: PluggedRows = here.extras[PLUGGED]
    return layer & (plugged.step < steps)

  def injected(x: jax.Array, rows: jax.Array, text: int) -> jax.Array:
    """The source's x [R, L, ...] in these rows, from token `text` on."""
    image = jnp.arange(x.shape[1]) >= text
    where = rows.reshape(-1, *[1] * (x.ndim - 1)) & image.reshape(1, -1, *[1] * (x.ndim - 2))
    return jnp.where(where, source_of(x, stride), x)

  def swapped(here: Here, site: str, q, k, v, mask: Visible | None) -> jax.Array:
    if site == "cross" or of_text(here):
      return here.attend(q, k, v, mask)
    on = rows(here, here.layer[1], here.extras[PLUGGED].attention)
    q, k = (injected(x, on, here.text) for x in (q, k))
    return here.attend(q, k, v, mask)

  def block(here: Here, before: Any, after: Any) -> Any:
    if of_text(here):
      return after
    on = rows(here, here.layer[0], here.extras[PLUGGED].features)
    if isinstance(after, Both):
      return after._replace(image=injected(after.image, on, 0))
    return injected(after, on, here.text)

  return Control((chosen(features), chosen(attention)), attention=swapped, block=block)
