"""Networks whose hidden states compare images, as an autoencoder's perceptual loss takes them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx


class Features(NamedTuple):
  """One network.

  part    its name in a run
  layers  (network, images [B, H, W, 3] in [-1, 1]) -> features [B, ..., D] of its layers
  least   side of images, in pixels, of which every layer has features
  """

  part: str
  make: Callable[[nnx.Rngs], nnx.Module]
  config: Any
  layers: Callable[[Any, jax.Array], list[jax.Array]]
  least: int = 1
