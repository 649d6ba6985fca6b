"""Qwen-Image as diffusers' QwenImageTransformer2DModel.

Its pipelines pack patches of latents into channels, ordered (channel, row, column).
"""

from typing import Any

from t2i_jax.models.qwen_image import QwenImage, QwenImageConfig
from t2i_jax.pretrained.names import (
  Chunks,
  Entry,
  adaln,
  dense,
  embedder,
  gain,
  heads,
  heads_out,
  mlp,
  packed_in,
  packed_out,
)
from t2i_jax.pretrained.spec import Spec, whole

BLOCK = "transformer_blocks.{i}"


def entries(c: QwenImageConfig) -> list[Entry]:
  time, attn = "time_text_embed.timestep_embedder", f"{BLOCK}.attn"
  return [
    *packed_in("patch_in", "img_in", c.patch),
    *gain("text_gain", "txt_norm.weight"),
    *dense("text_in", "txt_in"),
    *embedder("time_in", f"{time}.linear_1", f"{time}.linear_2"),
    *adaln("image_adaln", Chunks(f"{BLOCK}.img_mod.1", 6)),
    *adaln("text_adaln", Chunks(f"{BLOCK}.txt_mod.1", 6)),
    *heads(
      "blocks/image/heads", f"{attn}.to_q", f"{attn}.to_k", f"{attn}.to_v",
      (f"{attn}.norm_q.weight", f"{attn}.norm_k.weight"), rope=True,
    ),
    *heads_out("blocks/image/out", f"{attn}.to_out.0"),
    *mlp("blocks/image/mlp", f"{BLOCK}.img_mlp.net.0.proj", f"{BLOCK}.img_mlp.net.2"),
    *heads(
      "blocks/text/heads", f"{attn}.add_q_proj", f"{attn}.add_k_proj", f"{attn}.add_v_proj",
      (f"{attn}.norm_added_q.weight", f"{attn}.norm_added_k.weight"), rope=True,
    ),
    *heads_out("blocks/text/out", f"{attn}.to_add_out"),
    *mlp("blocks/text/mlp", f"{BLOCK}.txt_mlp.net.0.proj", f"{BLOCK}.txt_mlp.net.2"),
    *adaln("final_adaln", Chunks("norm_out.linear", 2, swapped=c.width)),
    *packed_out("head", "proj_out", c.patch),
  ]  # fmt: skip


def read(k: dict[str, Any]) -> QwenImageConfig:
  return QwenImageConfig(
    width=k["num_attention_heads"] * k["attention_head_dim"],
    depth=k["num_layers"],
    heads=k["num_attention_heads"],
    patch=k["patch_size"],
    channels=whole("in_channels", k["in_channels"], k["patch_size"] ** 2),
    out=k["out_channels"] or k["in_channels"],
    text_width=k["joint_attention_dim"],
    rope_axes=k["axes_dims_rope"],
  )


def write(c: QwenImageConfig) -> dict[str, Any]:
  return {
    "patch_size": c.patch,
    "in_channels": c.patch**2 * c.channels,
    "out_channels": c.out,
    "num_layers": c.depth,
    "attention_head_dim": c.width // c.heads,
    "num_attention_heads": c.heads,
    "joint_attention_dim": c.text_width,
    "axes_dims_rope": list(c.rope_axes),
  }


QWEN_IMAGE = Spec(
  hf_class="QwenImageTransformer2DModel",
  module=QwenImage,
  config=QwenImageConfig,
  keys={
    "patch_size": 2,
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 60,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 3584,
    "axes_dims_rope": (16, 56, 56),
  },
  fixed={
    "guidance_embeds": False,
    "zero_cond_t": False,
    "use_additional_t_cond": False,
    "use_layer3d_rope": False,
  },
  ignored={},
  read=read,
  write=write,
  entries=entries,
)
