"""diffusers' VQModel."""

from typing import Any

from t2i_jax.autoencoders.kl import COLOURS
from t2i_jax.autoencoders.measured import refuse
from t2i_jax.autoencoders.vq import VQConfig, VQModel
from t2i_jax.pretrained.coder import (
  DOWN,
  UP,
  decoder,
  encoder,
  is_attention_matrix,
  new_name,
  pointwise,
  read_levels,
  write_levels,
)
from t2i_jax.pretrained.names import Entry, Part
from t2i_jax.pretrained.spec import Spec, whole


def entries(c: VQConfig) -> list[Entry]:
  return [
    *encoder(c.encoder),
    *decoder(c.decoder),
    *pointwise("quant", "quant_conv"),
    *pointwise("post_quant", "post_quant_conv"),
    Entry("codebook", (Part("quantize.embedding.weight", "k c -> k c"),)),
  ]


def _read(k: dict[str, Any]) -> VQConfig:
  channels = k["vq_embed_dim"] or k["latent_channels"]
  return VQConfig(
    channels=channels,
    widths=k["block_out_channels"],
    layers=k["layers_per_block"],
    groups=k["norm_num_groups"],
    codes=k["num_vq_embeddings"],
    latent=0 if channels == k["latent_channels"] else k["latent_channels"],
    attends=read_levels(k),
    scale=k["scaling_factor"],
    mid_attention=k["mid_block_add_attention"],
    indices=k["lookup_from_codebook"],
    sample_size=whole("sample_size", k["sample_size"], 1),
  )


def _write(c: VQConfig) -> dict[str, Any]:
  refuse(c)
  return write_levels(c.encoder) | {
    "latent_channels": c.latent or c.channels,
    "vq_embed_dim": c.channels if c.latent else None,
    "norm_num_groups": c.groups,
    "num_vq_embeddings": c.codes,
    "scaling_factor": c.scale,
    "lookup_from_codebook": c.indices,
    "sample_size": c.sample_size,
  }


VQ = Spec(
  hf_class="VQModel",
  module=VQModel,
  config=VQConfig,
  keys={
    "down_block_types": (DOWN,),
    "up_block_types": (UP,),
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "latent_channels": 3,
    "sample_size": 32,
    "num_vq_embeddings": 256,
    "norm_num_groups": 32,
    "vq_embed_dim": None,
    "scaling_factor": 0.18215,
    "mid_block_add_attention": True,
    "lookup_from_codebook": False,
  },
  fixed={
    "in_channels": COLOURS,
    "out_channels": COLOURS,
    "act_fn": "silu",
    "norm_type": "group",  # "spatial" is MoVQ's
  },
  ignored={"force_upcast": False},
  read=_read,
  write=_write,
  entries=entries,
  renamed=new_name,
  squeezed=is_attention_matrix,
)
