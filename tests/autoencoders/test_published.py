"""config.json of published autoencoders, as they are on disk: what is read, and what is refused."""

import pytest

from t2i_jax.autoencoders import Flux2KLConfig, KLConfig, QwenImageVAEConfig, VQConfig
from t2i_jax.autoencoders.qwen import MEAN, STD
from t2i_jax.errors import RestoreError
from t2i_jax.pretrained import SPECS
from t2i_jax.pretrained.spec import read_config

BLOCKS = {
  "act_fn": "silu", "block_out_channels": [128, 256, 512, 512], "in_channels": 3,
  "down_block_types": ["DownEncoderBlock2D"] * 4, "layers_per_block": 2, "norm_num_groups": 32,
  "out_channels": 3, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
SD = BLOCKS | {"_class_name": "AutoencoderKL", "latent_channels": 4, "sample_size": 512}
FLUX = SD | {
  "latent_channels": 16, "sample_size": 1024, "scaling_factor": 0.3611, "shift_factor": 0.1159,
  "use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": True,
  "force_upcast": True, "latents_mean": None, "latents_std": None,
}  # fmt: skip
FLUX2 = BLOCKS | {
  "_class_name": "AutoencoderKLFlux2", "batch_norm_eps": 1e-4, "batch_norm_momentum": 0.1,
  "force_upcast": True, "latent_channels": 32, "mid_block_add_attention": True,
  "patch_size": [2, 2], "sample_size": 1024, "use_quant_conv": True, "use_post_quant_conv": True,
}  # fmt: skip
QWEN = {
  "_class_name": "AutoencoderKLQwenImage", "attn_scales": [], "base_dim": 96, "z_dim": 16,
  "dim_mult": [1, 2, 4, 4], "dropout": 0.0, "latents_mean": list(MEAN), "latents_std": list(STD),
  "num_res_blocks": 2, "temperal_downsample": [False, True, True],
}  # fmt: skip
VQ = BLOCKS | {
  "_class_name": "VQModel", "block_out_channels": [128, 256, 512], "latent_channels": 3,
  "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3,
  "num_vq_embeddings": 8192, "sample_size": 256, "vq_embed_dim": 3,
}  # fmt: skip
READ = {
  "SD 1.5, without a scale": (SD, KLConfig()),
  "SDXL": (
    SD | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
    KLConfig(scale=0.13025, sample_size=1024),
  ),
  "FLUX.1": (
    FLUX,
    KLConfig(16, scale=0.3611, shift=0.1159, quant=False, post_quant=False, sample_size=1024),
  ),
  "FLUX.2": (FLUX2, Flux2KLConfig()),
  "Qwen-Image": (QWEN, QwenImageVAEConfig()),
  "VQ f4": (VQ, VQConfig()),
}


def read(content):
  return read_config(SPECS[content["_class_name"]], content, "vae/config.json")


@pytest.mark.parametrize("name", READ)
def test_published_configs(name):
  content, config = READ[name]
  assert read(content) == config


ATTENDS = ["DownEncoderBlock2D"] * 3 + ["AttnDownEncoderBlock2D"]
REFUSED = {
  "another activation": (SD | {"act_fn": "gelu"}, "act_fn = 'gelu'"),
  "attention on one side": (SD | {"down_block_types": ATTENDS}, "up_block_types = .* reversed"),
  "another block": (SD | {"down_block_types": ["DownBlock2D"] * 4}, "with 'DownBlock2D'"),
  "levels": (SD | {"block_out_channels": [128, 256]}, "4 down_block_types.* 2 block_out_channels"),
  "groups": (SD | {"norm_num_groups": 48}, "must be multiples of groups = 48"),
  "statistics in part": (
    SD | {"latents_mean": [0.0] * 4},
    "latents_mean and latents_std must both",
  ),
  "a tile of two sides": (SD | {"sample_size": [512, 256]}, r"sample_size = \(512, 256\)"),
  "MoVQ": (VQ | {"norm_type": "spatial"}, "norm_type = 'spatial'"),
  "alpha": (QWEN | {"input_channels": 4}, "input_channels = 4"),
  "attention in levels": (QWEN | {"attn_scales": [0.5]}, r"attn_scales = \[0.5\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name):
  content, message = REFUSED[name]
  with pytest.raises(RestoreError, match=f"vae/config.json.*{message}"):
    read(content)
