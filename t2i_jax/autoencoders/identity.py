"""No autoencoder: pixels are diffused as they are, or the data set holds latents already."""

from dataclasses import dataclass

import jax
from flax import nnx


@dataclass(frozen=True)
class IdentityConfig:
  """channels is 3 for pixels, or the latents' own number."""

  channels: int

  def image_shape(self, height: int, width: int) -> tuple[int, int, int]:
    return (height, width, self.channels)

  def latent_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return image_shape

  def make(self, rngs: nnx.Rngs) -> "Identity":
    return Identity()


class Identity(nnx.Module):
  """It has no weights, and is no part of a system."""

  def encode(self, image: jax.Array, key: jax.Array | None = None) -> jax.Array:
    return image

  def decode(self, z: jax.Array) -> jax.Array:
    return z
