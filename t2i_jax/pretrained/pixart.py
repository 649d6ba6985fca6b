"""PixArt-alpha and Sigma as diffusers' PixArtTransformer2DModel."""

from typing import Any

from t2i_jax.models.pixart import PixArt, PixArtConfig
from t2i_jax.pretrained.dit_keys import FIXED, SIZES, read_sizes, write_sizes
from t2i_jax.pretrained.names import (
  Chunks,
  Entry,
  Part,
  adaln,
  conv_patches,
  dense,
  embedder,
  heads,
  heads_out,
  mlp,
)
from t2i_jax.pretrained.positions import sincos_buffer
from t2i_jax.pretrained.spec import Spec, refuse

BLOCK = "transformer_blocks.{i}"


def entries(c: PixArtConfig) -> list[Entry]:
  inner = "adaln_single.emb"
  found = [
    *conv_patches("patch_in", "pos_embed.proj", c.patch),
    *dense("text_in", "caption_projection.linear_1"),
    *dense("text_second", "caption_projection.linear_2"),
    *adaln("adaln", Chunks("adaln_single.linear", 6)),
    Entry("tables", (Part(f"{BLOCK}.scale_shift_table", "s d -> s d"),)),
    *mlp("blocks/mlp", f"{BLOCK}.ff.net.0.proj", f"{BLOCK}.ff.net.2"),
    Entry("final_table", (Part("scale_shift_table", "s d -> s d"),)),
    *dense("head", "proj_out"),
  ]
  embedders = {"time_in": "timestep"}
  if c.sizes:
    embedders |= {"size_in": "resolution", "aspect_in": "aspect_ratio"}
  for path, name in embedders.items():
    prefix = f"{inner}.{name}_embedder"
    found += embedder(path, f"{prefix}.linear_1", f"{prefix}.linear_2")
  for path, name in (("blocks/attn", "attn1"), ("blocks/cross", "attn2")):
    q, k, v = (f"{BLOCK}.{name}.to_{x}" for x in "qkv")
    found += heads(path, q, k, v, None, rope=False)
    found += heads_out(f"{path}/out", f"{BLOCK}.{name}.to_out.0")
  return found


def read(k: dict[str, Any]) -> PixArtConfig:
  sizes, side = read_sizes(k), k["sample_size"]
  if k["cross_attention_dim"] != sizes["width"]:
    raise refuse(
      f"cross_attention_dim = {k['cross_attention_dim']!r}, which must equal the width "
      f"{sizes['width']}"
    )
  if k["caption_channels"] is None:
    raise refuse("caption_channels = None: a model without a caption projection is not supported")
  interpolation, with_sizes = k["interpolation_scale"], k["use_additional_conditions"]
  return PixArtConfig(
    **sizes,
    text_width=k["caption_channels"],
    side=side,
    interpolation=float(max(side // 64, 1) if interpolation is None else interpolation),
    sizes=side == 128 if with_sizes is None else with_sizes,
  )


def write(c: PixArtConfig) -> dict[str, Any]:
  scale = int(c.interpolation) if c.interpolation == int(c.interpolation) else c.interpolation
  return write_sizes(c) | {
    "cross_attention_dim": c.width,
    "sample_size": c.side,
    "interpolation_scale": scale,
    "use_additional_conditions": c.sizes,
    "caption_channels": c.text_width,
  }


PIXART = Spec(
  hf_class="PixArtTransformer2DModel",
  module=PixArt,
  config=PixArtConfig,
  keys=SIZES
  | {
    "out_channels": 8,
    "cross_attention_dim": 1152,
    "sample_size": 128,
    "interpolation_scale": None,
    "use_additional_conditions": None,
    "caption_channels": None,
  },
  fixed=FIXED | {"norm_type": "ada_norm_single", "norm_eps": 1e-6, "attention_type": "default"},
  ignored={"norm_num_groups": 32, "num_embeds_ada_norm": 1000, "upcast_attention": False},
  read=read,
  write=write,
  entries=entries,
  buffers=lambda c: {
    "pos_embed.pos_embed": sincos_buffer(c.width, c.side, c.patch, c.interpolation)
  },
)
