"""DiT as diffusers' DiTTransformer2DModel, and as the Transformer2DModel of its older folders."""

from typing import Any

from t2i_jax.models.class_dit import ClassDiT, ClassDiTConfig
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
from t2i_jax.pretrained.spec import Spec, must_be

BLOCK = "transformer_blocks.{i}"


def entries(c: ClassDiTConfig) -> list[Entry]:
  time, attn = f"{BLOCK}.norm1.emb.timestep_embedder", f"{BLOCK}.attn1"
  table = Part(f"{BLOCK}.norm1.emb.class_embedder.embedding_table.weight", "n d -> n d")
  return [
    *conv_patches("patch_in", "pos_embed.proj", c.patch),
    # Every block has its own copy of the two embedders; they are equal.
    *embedder("time_in", f"{time}.linear_1", f"{time}.linear_2", copies=c.depth),
    Entry("label_in", (table,), copies=c.depth),
    *adaln("adaln", Chunks(f"{BLOCK}.norm1.linear", 6)),
    *heads("blocks/attn", f"{attn}.to_q", f"{attn}.to_k", f"{attn}.to_v", None, rope=False),
    *heads_out("blocks/attn/out", f"{attn}.to_out.0"),
    *mlp("blocks/mlp", f"{BLOCK}.ff.net.0.proj", f"{BLOCK}.ff.net.2"),
    *adaln("final_adaln", Chunks("proj_out_1", 2)),
    *dense("head", "proj_out_2"),
  ]


def read(k: dict[str, Any]) -> ClassDiTConfig:
  return ClassDiTConfig(
    width=k["num_attention_heads"] * k["attention_head_dim"],
    depth=k["num_layers"],
    heads=k["num_attention_heads"],
    patch=k["patch_size"],
    channels=k["in_channels"],
    out=k["in_channels"] if k["out_channels"] is None else k["out_channels"],
    classes=k["num_embeds_ada_norm"],
    side=k["sample_size"],
    mlp_eps=k["norm_eps"],
  )


def write(c: ClassDiTConfig) -> dict[str, Any]:
  must_be("less", c.less, 1)
  return {
    "num_attention_heads": c.heads,
    "attention_head_dim": c.width // c.heads,
    "num_layers": c.depth,
    "patch_size": c.patch,
    "in_channels": c.channels,
    "out_channels": c.out,
    "num_embeds_ada_norm": c.classes,
    "sample_size": c.side,
    "norm_eps": c.mlp_eps,
  }


CLASS_DIT = Spec(
  theirs="DiTTransformer2DModel",
  module=ClassDiT,
  config=ClassDiTConfig,
  keys={
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": None,
    "num_layers": 28,
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
    "norm_eps": 1e-5,
  },
  fixed={
    "dropout": 0.0,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
  },
  free={"norm_num_groups": 32, "upcast_attention": False},
  read=read,
  write=write,
  entries=entries,
  buffers=lambda c: {"pos_embed.pos_embed": sincos_buffer(c.width, c.side, c.patch)},
  old={"attention_type": "default"},
)
