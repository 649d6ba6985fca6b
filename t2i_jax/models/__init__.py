"""Backbones of stacked, scanned blocks, their layers, the one attention, and Conditioning."""

from typing import Any

from t2i_jax.models.adapters import Adapter, merge_adapters
from t2i_jax.models.attention import Mask, attend
from t2i_jax.models.class_dit import ClassDiT, ClassDiTConfig
from t2i_jax.models.conditioning import Conditioning, Tower
from t2i_jax.models.dit import DiT, DiTConfig
from t2i_jax.models.flops import matmul_flops
from t2i_jax.models.flux import Flux, Flux2Config, FluxConfig
from t2i_jax.models.params import abstract_of, axes_of, init_params, matrices_of, with_params
from t2i_jax.models.pixart import PixArt, PixArtConfig
from t2i_jax.models.qwen_image import QwenImage, QwenImageConfig
from t2i_jax.models.sd3 import SD3, SD3Config
from t2i_jax.models.stack import Answer
from t2i_jax.models.unet import UNet, UNetConfig
from t2i_jax.models.z_image import ZImage, ZImageConfig

# By the name in config.model.kind: the module, and the config that its other keys make.
BACKBONES: dict[str, tuple[Any, Any]] = {
  "dit": (DiT, DiTConfig),
  "class_dit": (ClassDiT, ClassDiTConfig),
  "pixart": (PixArt, PixArtConfig),
  "sd3": (SD3, SD3Config),
  "flux": (Flux, FluxConfig),
  "flux2": (Flux, Flux2Config),
  "qwen_image": (QwenImage, QwenImageConfig),
  "z_image": (ZImage, ZImageConfig),
  "unet": (UNet, UNetConfig),
}

__all__ = [
  "BACKBONES",
  "Adapter",
  "Answer",
  "Conditioning",
  "DiT",
  "Mask",
  "Tower",
  "abstract_of",
  "attend",
  "axes_of",
  "init_params",
  "matmul_flops",
  "matrices_of",
  "merge_adapters",
  "with_params",
]
