"""DiT as diffusers' DiTTransformer2DModel, and as the Transformer2DModel of older folders."""

from typing import Any

from t2i_jax.models.class_dit import ClassDiT, ClassDiTConfig
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
from t2i_jax.pretrained.spec import Spec, must_be

BLOCK = "transformer_blocks.{i}"


def entries(c: ClassDiTConfig) -> list[Entry]:
  time, attn = f"{BLOCK}.norm1.emb.timestep_embedder", f"{BLOCK}.attn1"
  table = Part(f"{BLOCK}.norm1.emb.class_embedder.embedding_table.weight", "n d -> n d")
  return [
    *conv_patches("patch_in", "pos_embed.proj", c.patch),
    # Every block stores its own copy of the two embedders; the copies are equal.
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
  own = {"classes": k["num_embeds_ada_norm"], "side": k["sample_size"], "mlp_eps": k["norm_eps"]}
  return ClassDiTConfig(**read_sizes(k), **own)


def write(c: ClassDiTConfig) -> dict[str, Any]:
  must_be("less", c.less, 1)
  own = {"num_embeds_ada_norm": c.classes, "sample_size": c.side, "norm_eps": c.mlp_eps}
  return write_sizes(c) | own


CLASS_DIT = Spec(
  hf_class="DiTTransformer2DModel",
  module=ClassDiT,
  config=ClassDiTConfig,
  keys=SIZES
  | {"out_channels": None, "sample_size": 32, "num_embeds_ada_norm": 1000, "norm_eps": 1e-5},
  fixed=FIXED | {"norm_type": "ada_norm_zero"},
  ignored={"norm_num_groups": 32, "upcast_attention": False},
  read=read,
  write=write,
  entries=entries,
  buffers=lambda c: {"pos_embed.pos_embed": sincos_buffer(c.width, c.side, c.patch)},
  legacy={"attention_type": "default"},
)
