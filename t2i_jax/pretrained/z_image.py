"""Z-Image as diffusers' ZImageTransformer2DModel."""

from typing import Any

from t2i_jax.models.z_image import EPS, ROPE_THETA, ZImage, ZImageConfig
from t2i_jax.pretrained.names import (
  Chunks,
  Entry,
  Part,
  adaln,
  dense,
  embedder,
  gain,
  heads,
  heads_out,
  matrix,
)
from t2i_jax.pretrained.spec import Spec, must_be, refuse


def _stack(path: str, name: str) -> list[Entry]:
  block, attn = f"{name}.{{i}}", f"{name}.{{i}}.attention"
  gate = matrix(f"{block}.feed_forward.w1", "f d -> d 1 f", (1, 0, 1))
  up = matrix(f"{block}.feed_forward.w3", "f d -> d 1 f", (1, 1, 2))
  return [
    *heads(
      f"{path}/attn", f"{attn}.to_q", f"{attn}.to_k", f"{attn}.to_v",
      (f"{attn}.norm_q.weight", f"{attn}.norm_k.weight"), rope=True, bias=False,
    ),
    *heads_out(f"{path}/attn/out", f"{attn}.to_out.0", bias=False),
    Entry(f"{path}/mlp/up/kernel", (gate, up)),
    *dense(f"{path}/mlp/down", f"{block}.feed_forward.w2", bias=False),
    *gain(f"{path}/attn_in", f"{block}.attention_norm1.weight"),
    *gain(f"{path}/attn_out", f"{block}.attention_norm2.weight"),
    *gain(f"{path}/mlp_in", f"{block}.ffn_norm1.weight"),
    *gain(f"{path}/mlp_out", f"{block}.ffn_norm2.weight"),
  ]  # fmt: skip


def entries(c: ZImageConfig) -> list[Entry]:
  size = f"{c.patch}-1"
  final = f"all_final_layer.{size}"
  return [
    *dense("patch_in", f"all_x_embedder.{size}"),
    *gain("text_gain", "cap_embedder.0.weight"),
    *dense("text_in", "cap_embedder.1"),
    Entry("image_pad", (Part("x_pad_token", "1 d -> d"),)),
    Entry("text_pad", (Part("cap_pad_token", "1 d -> d"),)),
    *embedder("time_in", "t_embedder.mlp.0", "t_embedder.mlp.2"),
    *adaln("image_adaln", Chunks("noise_refiner.{i}.adaLN_modulation.0", 4)),
    *_stack("image_refiner", "noise_refiner"),
    *_stack("text_refiner", "context_refiner"),
    *adaln("adaln", Chunks("layers.{i}.adaLN_modulation.0", 4)),
    *_stack("blocks", "layers"),
    *adaln("final_adaln", Chunks(f"{final}.adaLN_modulation.1", 1)),
    *dense("head", f"{final}.linear"),
  ]


def read(k: dict[str, Any]) -> ZImageConfig:
  if len(k["all_patch_size"]) != 1:
    raise refuse(f"all_patch_size = {k['all_patch_size']!r}, of which one size is supported")
  if k["n_kv_heads"] != k["n_heads"]:
    raise refuse(f"n_kv_heads = {k['n_kv_heads']!r}, which must equal n_heads = {k['n_heads']!r}")
  return ZImageConfig(
    width=k["dim"],
    depth=k["n_layers"],
    refiner_blocks=k["n_refiner_layers"],
    heads=k["n_heads"],
    patch=k["all_patch_size"][0],
    channels=k["in_channels"],
    out=k["in_channels"],
    text_width=k["cap_feat_dim"],
    rope_axes=k["axes_dims"],
  )


def write(c: ZImageConfig) -> dict[str, Any]:
  must_be("out", c.out, c.channels)
  return {
    "all_patch_size": [c.patch],
    "in_channels": c.channels,
    "dim": c.width,
    "n_layers": c.depth,
    "n_refiner_layers": c.refiner_blocks,
    "n_heads": c.heads,
    "n_kv_heads": c.heads,
    "cap_feat_dim": c.text_width,
    "axes_dims": list(c.rope_axes),
  }


Z_IMAGE = Spec(
  hf_class="ZImageTransformer2DModel",
  module=ZImage,
  config=ZImageConfig,
  keys={
    "all_patch_size": (2,),
    "in_channels": 16,
    "dim": 3840,
    "n_layers": 30,
    "n_refiner_layers": 2,
    "n_heads": 30,
    "n_kv_heads": 30,
    "cap_feat_dim": 2560,
    "axes_dims": (32, 48, 48),
  },
  fixed={
    "all_f_patch_size": [1],
    "norm_eps": EPS,
    "qk_norm": True,
    "siglip_feat_dim": None,
    "rope_theta": ROPE_THETA,
    "t_scale": 1000.0,
  },
  # The sizes of diffusers' tables of positions; here positions are computed.
  ignored={"axes_lens": [1024, 512, 512]},
  read=read,
  write=write,
  entries=entries,
)
