"""Between images and what is diffused. One with weights is the part "vae" of a system.

A config has  image_shape(height, width) -> [H, W, C] of an image in the data set
              latent_shape(image_shape) -> [h, w, C] of its latent
              make(rngs) -> the module
A module has  encode(image [B, H, W, 3] in [-1, 1], key) -> z [B, h, w, C], about unit variance
              decode(z) -> image
"""

from collections.abc import Callable
from typing import Any

from t2i_jax.autoencoders.identity import Identity, IdentityConfig
from t2i_jax.autoencoders.kl import AutoencoderKL, AutoencoderKLFlux2, Flux2KLConfig, KLConfig

# By the name in config.autoencoder; each takes the channels of the backbone first.
AUTOENCODERS: dict[str, Callable[..., Any]] = {
  "identity": IdentityConfig,
  "kl": KLConfig,
  "kl_flux2": Flux2KLConfig,
}

__all__ = [
  "AUTOENCODERS",
  "AutoencoderKL",
  "AutoencoderKLFlux2",
  "Flux2KLConfig",
  "Identity",
  "IdentityConfig",
  "KLConfig",
]
