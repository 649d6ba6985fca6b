"""Published transformers at tiny sizes, and what each case has that is odd.

docs/parity_models.md, tests/parity and the golden files run these cases.
"""

from typing import Any, NamedTuple

from t2i_jax.pretrained import SPECS

TEXT, POOLED = 24, 20  # widths


class Case(NamedTuple):
  """One model.

  theirs      its class in diffusers;   config  what differs from that class's defaults
  shape       channels, height and width of the latent
  said        what is odd about it
  words       of each row, filled up to the longest
  pooled      width of the pooled text;   micro: how many micro-conditions
  references  (height, width) of each image that is shown to the model
  """

  theirs: str
  config: dict[str, Any]
  shape: tuple[int, int, int]
  said: str
  words: tuple[int, int] = (5, 3)
  references: tuple[tuple[int, int], ...] = ()
  pooled: int = POOLED
  micro: int = 6

  @property
  def spec(self) -> Any:
    return SPECS[self.theirs]


HEADS = {"attention_head_dim": 16, "num_attention_heads": 2}
DIT = {
  "in_channels": 4,
  "out_channels": 8,
  "num_layers": 2,
  "sample_size": 8,
  "num_embeds_ada_norm": 10,
  **HEADS,
}
PIXART = {
  "num_attention_heads": 2,
  "attention_head_dim": 24,
  "num_layers": 2,
  "cross_attention_dim": 48,
  "caption_channels": TEXT,
  "sample_size": 8,
  "use_additional_conditions": False,
}
TOLD = {"use_additional_conditions": True}
JOINT = {"joint_attention_dim": TEXT, **HEADS}
SD3 = {
  "sample_size": 8,
  "in_channels": 4,
  "out_channels": 4,
  "num_layers": 3,
  "caption_projection_dim": 32,
  "pooled_projection_dim": POOLED,
  "pos_embed_max_size": 8,
  **JOINT,
}
FLUX = {
  "in_channels": 16, "pooled_projection_dim": POOLED, "axes_dims_rope": (4, 4, 8), **JOINT,
}  # fmt: skip
FLUX2 = {
  "in_channels": 16, "num_layers": 1, "num_single_layers": 2, "axes_dims_rope": (4, 4, 4, 4),
  **JOINT,
}  # fmt: skip
QWEN = {
  "in_channels": 16, "out_channels": 4, "num_layers": 2, "axes_dims_rope": (4, 4, 8), **JOINT,
}  # fmt: skip
Z_IMAGE = {
  "in_channels": 4,
  "dim": 32,
  "n_layers": 2,
  "n_refiner_layers": 1,
  "n_heads": 2,
  "n_kv_heads": 2,
  "cap_feat_dim": TEXT,
  "axes_dims": [4, 4, 8],
  "axes_lens": [256, 32, 32],
}

UNET = {
  "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8,
  "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "sample_size": 8,
  "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": TEXT,
  "attention_head_dim": 4,
}  # fmt: skip
SDXL = UNET | {
  "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
  "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": (2, 4),
  "transformer_layers_per_block": (1, 2), "use_linear_projection": True,
  "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
  "projection_class_embeddings_input_dim": POOLED + 6 * 8,
}  # fmt: skip


def _stem(unet: dict[str, Any], hint: tuple[int, ...]) -> dict[str, Any]:
  """The ControlNet of a U-Net;   hint: widths of what embeds its image"""
  own = {key: value for key, value in unet.items() if key not in ("up_block_types", "sample_size")}
  return own | {"conditioning_embedding_out_channels": hint}


CONTROLNET = _stem(UNET, (8, 16))

CASES = {
  "class_dit": Case(
    "DiTTransformer2DModel", DIT, (4, 8, 8), "a label and the null label"
  ),
  "class_dit_larger": Case(
    "DiTTransformer2DModel", DIT, (4, 12, 12), "larger than its positions were made for"
  ),
  "class_dit_patch4": Case(
    "DiTTransformer2DModel", DIT | {"patch_size": 4}, (4, 16, 16), "patch 4, twice its size"
  ),
  "pixart": Case(
    "PixArtTransformer2DModel", PIXART, (4, 8, 12), "not square; 5 and 3 words"
  ),
  "pixart_sizes": Case(
    "PixArtTransformer2DModel", PIXART | TOLD | {"interpolation_scale": 2}, (4, 8, 8),
    "told size and aspect; interpolation 2",
  ),
  "pixart_larger": Case(
    "PixArtTransformer2DModel", PIXART | TOLD, (4, 12, 20),
    "told size and aspect; not square, larger than its positions; 1 and 7 words", (1, 7),
  ),
  "sd3": Case("SD3Transformer2DModel", SD3, (4, 8, 12), "no norm of q and k; not square"),
  "sd3_dual": Case(
    "SD3Transformer2DModel",
    SD3 | {"qk_norm": "rms_norm", "dual_attention_layers": (0,), "pos_embed_max_size": 9},
    (4, 8, 12), "norm of q and k; 1 of 3 blocks dual; cut out of an odd table",
  ),
  "sd3_all_dual": Case(
    "SD3Transformer2DModel",
    SD3 | {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1), "pos_embed_max_size": 12},
    (4, 20, 4), "norm of q and k; all blocks but the last dual; a narrow image",
  ),
  "flux": Case(
    "FluxTransformer2DModel", FLUX | {"num_layers": 2, "num_single_layers": 3}, (4, 8, 12),
    "no guidance; not square",
  ),
  "flux_guided": Case(
    "FluxTransformer2DModel",
    FLUX | {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True}, (4, 4, 14),
    "told guidance; a wide image",
  ),
  "flux2": Case("Flux2Transformer2DModel", FLUX2, (16, 4, 6), "told guidance; not square"),
  "flux2_unguided": Case(
    "Flux2Transformer2DModel", FLUX2 | {"guidance_embeds": False}, (16, 5, 3),
    "no guidance; odd sides",
  ),
  "flux2_references": Case(
    "Flux2Transformer2DModel", FLUX2, (16, 4, 6), "two reference images of other sizes",
    references=((3, 5), (4, 2)),
  ),
  "qwen_image": Case(
    "QwenImageTransformer2DModel", QWEN, (4, 8, 12), "not square; 5 and 3 words"
  ),
  "qwen_image_odd": Case(
    "QwenImageTransformer2DModel", QWEN, (4, 6, 10), "3 x 5 patches about their centre; 1 and 7 "
    "words", (1, 7),
  ),
  "qwen_image_references": Case(
    "QwenImageTransformer2DModel", QWEN, (4, 8, 6), "two reference images, one of them larger",
    references=((4, 4), (6, 18)),
  ),
  "z_image": Case(
    "ZImageTransformer2DModel", Z_IMAGE, (4, 8, 12), "24 patches, 5 and 3 words: all filled to 32"
  ),
  "z_image_whole": Case(
    "ZImageTransformer2DModel", Z_IMAGE, (4, 8, 16), "32 patches and 32 words: nothing to fill",
    (32, 32),
  ),
  "z_image_uneven": Case(
    "ZImageTransformer2DModel", Z_IMAGE, (4, 10, 14), "35 patches, 33 and 7 words: filled to 64, "
    "64 and 32", (33, 7),
  ),
  "unet": Case("UNet2DConditionModel", UNET, (4, 8, 12), "as SD 1; 5 and 3 words, masked"),
  "unet_odd": Case(
    "UNet2DConditionModel",
    UNET | {
      "block_out_channels": (32, 32, 64), "layers_per_block": 2, "time_cond_proj_dim": 32,
      "down_block_types": ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",), "in_channels": 9,
      "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2,
    },
    (9, 7, 10), "for inpainting; three levels, an odd side; distilled guidance",
  ),
  "unet_sdxl": Case(
    "UNet2DConditionModel", SDXL, (4, 8, 8), "pooled text, sizes and crop; 0 and 2 blocks"
  ),
  "unet_refiner": Case(
    "UNet2DConditionModel",
    SDXL | {
      "transformer_layers_per_block": 2, "projection_class_embeddings_input_dim": TEXT + 5 * 8,
    },
    (4, 6, 8), "an aesthetic score", pooled=TEXT, micro=5,
  ),
  "controlnet": Case(
    "ControlNetModel", CONTROLNET, (4, 8, 12), "as SD 1; its image is not square",
    references=((16, 24),),
  ),
  "controlnet_odd": Case(
    "ControlNetModel",
    CONTROLNET | {
      "block_out_channels": (32, 32, 64), "layers_per_block": 2,
      "down_block_types": ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
      "controlnet_conditioning_channel_order": "bgr", "global_pool_conditions": True,
    },
    (4, 7, 10), "three levels, an odd side; blue first; means over the image",
    references=((14, 20),),
  ),
  "controlnet_sdxl": Case(
    "ControlNetModel", _stem(SDXL, (8, 8, 16)), (4, 4, 4),
    "pooled text, sizes and crop; 0 and 2 blocks", references=((16, 16),),
  ),
  "sd3_controlnet": Case(
    "SD3ControlNetModel",
    SD3 | {
      "qk_norm": "rms_norm", "dual_attention_layers": (0, 5), "num_layers": 3,
      "pos_embed_max_size": 9, "extra_conditioning_channels": 1,
      "force_zeros_for_pooled_projection": False,
    },
    (5, 8, 12), "norm of q and k; 1 of 3 blocks dual; latents and a mask", references=((8, 12),),
  ),
  "sd3_controlnet_plain": Case(
    "SD3ControlNetModel", SD3 | {"num_layers": 2}, (4, 8, 4), "no norm of q and k; no pooled text",
    references=((8, 4),),
  ),
  "flux_controlnet": Case(
    "FluxControlNetModel",
    FLUX | {"num_layers": 2, "num_single_layers": 1, "guidance_embeds": True}, (4, 8, 12),
    "told guidance; not square", references=((8, 12),),
  ),
  "flux_controlnet_double": Case(
    "FluxControlNetModel", FLUX | {"num_layers": 1, "num_single_layers": 0}, (4, 4, 6),
    "no single-stream blocks; no guidance", references=((4, 6),),
  ),
}  # fmt: skip

# One case of each class, the one with the most in it: tests/golden has their answers.
GOLDEN = (
  "class_dit_larger",
  "pixart_larger",
  "sd3_dual",
  "flux_guided",
  "flux2_references",
  "qwen_image_references",
  "z_image_uneven",
  "unet_odd",
  "controlnet_sdxl",
  "sd3_controlnet",
  "flux_controlnet",
)
