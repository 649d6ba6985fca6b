"""Published autoencoders at tiny sizes, their published sizes, and the images that they are given.

Nothing of it needs torch: autoencoder_parity has the other side. docs/parity_autoencoders.md and
tests/parity run these same cases.
"""

from typing import Any

import numpy as np

from t2i_jax.autoencoders import Flux2KLConfig, KLConfig, QwenImageVAEConfig, VQConfig

BOUND = 1e-4  # relative to the largest value
BLOCKS = {
  "block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2,
  "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4, "sample_size": 16,
}  # fmt: skip
THREE = {
  "block_out_channels": (8, 8, 16), "down_block_types": ("DownEncoderBlock2D",) * 3,
  "up_block_types": ("UpDecoderBlock2D",) * 3,
}  # fmt: skip
ATTENDS = {
  "layers_per_block": 2,
  "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
  "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
}
NO_QUANT = {"use_quant_conv": False, "use_post_quant_conv": False}
STATISTICS = {"latents_mean": [0.5, -1.0, 0.25, 2.0], "latents_std": [0.5, 2.0, 1.5, 3.0]}
SD3 = {"latent_channels": 6, "scaling_factor": 1.5305, "shift_factor": 0.0609}
FLUX = {"latent_channels": 6, "scaling_factor": 0.3611, "shift_factor": 0.1159}
# Name -> class in diffusers, and what differs from its defaults.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
  "sd": ("AutoencoderKL", BLOCKS | {"layers_per_block": 2}),
  "sd3": ("AutoencoderKL", BLOCKS | NO_QUANT | THREE | SD3),
  "flux2": (
    "AutoencoderKLFlux2",
    BLOCKS | {"latent_channels": 3, "layers_per_block": 1, "decoder_block_out_channels": (12, 8)},
  ),
  "qwen": (
    "AutoencoderKLQwenImage",
    STATISTICS | {"base_dim": 6, "z_dim": 4, "dim_mult": [1, 2], "temperal_downsample": [True]},
  ),
  "vq": (
    "VQModel",
    BLOCKS | ATTENDS | {"latent_channels": 4, "vq_embed_dim": 3, "num_vq_embeddings": 24},
  ),
}
# Other choices of the same classes, for `make proof` and the page.
MORE: dict[str, tuple[str, dict[str, Any]]] = {
  "sdxl": ("AutoencoderKL", BLOCKS | STATISTICS | {"scaling_factor": 0.13025}),
  "flux": ("AutoencoderKL", BLOCKS | NO_QUANT | FLUX | {"layers_per_block": 2}),
  "no attention": ("AutoencoderKL", BLOCKS | {"mid_block_add_attention": False}),
  "attention in a level": ("AutoencoderKL", BLOCKS | ATTENDS),
  "flux2, equal widths": (
    "AutoencoderKLFlux2",
    BLOCKS | {"layers_per_block": 2} | NO_QUANT | {"latent_channels": 3},
  ),
  "qwen, one block": (
    "AutoencoderKLQwenImage",
    STATISTICS
    | {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2], "num_res_blocks": 1}
    | {"temperal_downsample": [False, True]},
  ),
  "vq, three levels": ("VQModel", BLOCKS | THREE | {"lookup_from_codebook": True}),
}
ALL = CASES | MORE
# Our config, and parameters of the class of diffusers. Of Qwen-Image's, what acts on a single
# frame is read.
SIZES: dict[str, tuple[Any, int]] = {
  "SD 1.5": (KLConfig(), 83_653_863),
  "SDXL": (KLConfig(scale=0.13025, sample_size=1024), 83_653_863),
  "SD3": (KLConfig(16, scale=1.5305, shift=0.0609, quant=False, post_quant=False), 83_819_683),
  "FLUX.1": (KLConfig(16, scale=0.3611, shift=0.1159, quant=False, post_quant=False), 83_819_683),
  "FLUX.2": (Flux2KLConfig(), 84_046_115),
  "Qwen-Image": (QwenImageVAEConfig(), 126_892_531),
  "VQ f4": (VQConfig(), 55_322_782),
  "VQ f16": (VQConfig(256, (128, 128, 256, 256, 512), codes=16384, attends=(4,)), 76_073_859),
}
QWEN_IMAGE_READ = 44_599_603


def image_of(height: int, width: int, channels: int = 3) -> np.ndarray:
  """Two images of uniform numbers in [-1, 1).   # [2, H, W, C]"""
  return np.random.default_rng(height).uniform(-1, 1, (2, height, width, channels)).astype("f4")
