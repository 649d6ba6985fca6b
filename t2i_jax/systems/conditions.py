"""Condition images that training makes of its own images, for a ControlNet that is trained on them.

By the name in an argument of config.controlnets: "of_backbone(condition='edges')". Those here are
functions of images [R, H, W, 3] float32 in [0, 1], red, green, blue, and give the same; those of
data.conditions are made of records.
"""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp

from t2i_jax.data.conditions import OF_RECORDS, OfRecord
from t2i_jax.errors import ConfigError
from t2i_jax.ranges import Range

Condition = Callable[[jax.Array], jax.Array] | OfRecord
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue: ITU-R BT.601


def _grey(image: jax.Array) -> jax.Array:
  return image @ jnp.array(LUMINANCE, image.dtype)  # [R, H, W]


def _thrice(x: jax.Array) -> jax.Array:
  return jnp.broadcast_to(x[..., None], (*x.shape, 3))


def grey() -> Condition:
  """The luminance: such a ControlNet colours."""
  return lambda image: _thrice(_grey(image))


def edges() -> Condition:
  """Sobel's gradient of the luminance: 0 where it is even, 1 at a step from black to white."""

  def condition(image: jax.Array) -> jax.Array:
    x = jnp.pad(_grey(image), ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]  # smoothed over three rows
    cols = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]
    across, down = rows[:, :, 2:] - rows[:, :, :-2], cols[:, 2:] - cols[:, :-2]
    return _thrice(jnp.minimum(jnp.sqrt(across**2 + down**2) / 4, 1))

  return condition


def blurred(factor: Annotated[int, Range("[2, 64]")] = 8) -> Condition:
  """Means over factor x factor pixels: such a ControlNet adds detail."""

  def condition(image: jax.Array) -> jax.Array:
    r, h, w, c = image.shape
    if h % factor or w % factor:
      raise ConfigError(f"blurred(factor={factor}): {factor} does not divide {h} x {w} pixels.")
    means = image.reshape(r, h // factor, factor, w // factor, factor, c).mean((2, 4))
    return jnp.repeat(jnp.repeat(means, factor, 1), factor, 2)

  return condition


CONDITIONS: dict[str, Callable[..., Condition]] = {
  "edges": edges,
  "grey": grey,
  "blurred": blurred,
  **OF_RECORDS,
}
