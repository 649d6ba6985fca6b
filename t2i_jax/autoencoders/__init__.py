"""Between images and what is diffused. One with weights is the part "vae" of a system.

A config has  image_shape(height, width) -> [H, W, C] of an image in the data set
              latent_shape(image_shape) -> [h, w, C] of its latent
              make(rngs) -> the module
A module has  encode(image [B, H, W, 3] in [-1, 1], keys [B]) -> z [B, h, w, C], about unit variance
              decode(z) -> image
              posterior(image) -> mean and deviation of z, where it has a posterior
"""

from collections.abc import Callable
from typing import Any

from t2i_jax.autoencoders.finite import check_finite, first_not_finite
from t2i_jax.autoencoders.identity import Identity, IdentityConfig
from t2i_jax.autoencoders.kl import (
  AutoencoderKL,
  AutoencoderKLFlux2,
  Flux2KLConfig,
  KLConfig,
  sample,
)
from t2i_jax.autoencoders.lookup_free import FSQConfig, FSQModel, LFQConfig, LFQModel
from t2i_jax.autoencoders.qwen import AutoencoderKLQwenImage, QwenImageVAEConfig
from t2i_jax.autoencoders.tiling import Ratio, tiled
from t2i_jax.autoencoders.vq import Rounded, VQConfig, VQModel

# By the name in config.autoencoder; each takes the channels of the backbone first, and its other
# fields as arguments: "kl(scale=0.13025)".
AUTOENCODERS: dict[str, Callable[..., Any]] = {
  "identity": IdentityConfig,
  "kl": KLConfig,
  "kl_flux2": Flux2KLConfig,
  "qwen_image": QwenImageVAEConfig,
  "vq": VQConfig,
  "fsq": FSQConfig,
  "lfq": LFQConfig,
}

__all__ = [
  "AUTOENCODERS",
  "AutoencoderKL",
  "AutoencoderKLFlux2",
  "AutoencoderKLQwenImage",
  "FSQConfig",
  "FSQModel",
  "Flux2KLConfig",
  "Identity",
  "IdentityConfig",
  "KLConfig",
  "LFQConfig",
  "LFQModel",
  "QwenImageVAEConfig",
  "Ratio",
  "Rounded",
  "VQConfig",
  "VQModel",
  "check_finite",
  "first_not_finite",
  "sample",
  "tiled",
]
