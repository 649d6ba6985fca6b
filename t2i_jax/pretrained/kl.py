"""diffusers' AutoencoderKL and AutoencoderKLFlux2."""

from typing import Any

import numpy as np

from t2i_jax.autoencoders.kl import (
  COLOURS,
  PATCH,
  AutoencoderKL,
  AutoencoderKLFlux2,
  Flux2KLConfig,
  KLConfig,
)
from t2i_jax.autoencoders.measured import refuse
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
from t2i_jax.pretrained.names import Entry, gain
from t2i_jax.pretrained.spec import Spec, whole


def _both(c: KLConfig | Flux2KLConfig) -> list[Entry]:
  found = encoder(c.encoder) + decoder(c.decoder)
  found += pointwise("quant", "quant_conv") if c.quant else []
  return found + (pointwise("post_quant", "post_quant_conv") if c.post_quant else [])


def _entries_2(c: Flux2KLConfig) -> list[Entry]:
  return [*_both(c), *gain("mean", "bn.running_mean"), *gain("var", "bn.running_var")]


def _read(k: dict[str, Any]) -> dict[str, Any]:
  """Fields that both classes have."""
  return {
    "attends": read_levels(k),
    "widths": k["block_out_channels"],
    "layers": k["layers_per_block"],
    "groups": k["norm_num_groups"],
    "quant": k["use_quant_conv"],
    "post_quant": k["use_post_quant_conv"],
    "mid_attention": k["mid_block_add_attention"],
    "sample_size": whole("sample_size", k["sample_size"], 1),
  }


def _read_1(k: dict[str, Any]) -> KLConfig:
  return KLConfig(
    channels=k["latent_channels"],
    scale=k["scaling_factor"],
    shift=k["shift_factor"],
    latents_mean=k["latents_mean"],
    latents_std=k["latents_std"],
    **_read(k),
  )


def _read_2(k: dict[str, Any]) -> Flux2KLConfig:
  return Flux2KLConfig(
    channels=PATCH**2 * k["latent_channels"],
    decoder_widths=k["decoder_block_out_channels"] or (),
    eps=k["batch_norm_eps"],
    **_read(k),
  )


def _write(c: KLConfig | Flux2KLConfig) -> dict[str, Any]:
  return write_levels(c.encoder) | {
    "norm_num_groups": c.groups,
    "use_quant_conv": c.quant,
    "use_post_quant_conv": c.post_quant,
    "sample_size": c.sample_size,
  }


def _write_1(c: KLConfig) -> dict[str, Any]:
  refuse(c)
  return _write(c) | {
    "latent_channels": c.channels,
    "scaling_factor": c.scale,
    "shift_factor": c.shift,
    "latents_mean": None if c.latents_mean is None else list(c.latents_mean),
    "latents_std": None if c.latents_std is None else list(c.latents_std),
  }


def _write_2(c: Flux2KLConfig) -> dict[str, Any]:
  return _write(c) | {
    "latent_channels": c.channels // PATCH**2,
    "decoder_block_out_channels": list(c.decoder_widths) or None,
    "batch_norm_eps": c.eps,
  }


FIXED = {"in_channels": COLOURS, "out_channels": COLOURS, "act_fn": "silu"}

KL = Spec(
  hf_class="AutoencoderKL",
  module=AutoencoderKL,
  config=KLConfig,
  keys={
    "down_block_types": (DOWN,),
    "up_block_types": (UP,),
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
  },
  fixed=FIXED,
  ignored={"force_upcast": True},  # activations are float32 unless config.activations differs
  read=_read_1,
  write=_write_1,
  entries=_both,
  renamed=new_name,
  squeezed=is_attention_matrix,
)

KL_FLUX2 = Spec(
  hf_class="AutoencoderKLFlux2",
  module=AutoencoderKLFlux2,
  config=Flux2KLConfig,
  keys={
    "down_block_types": (DOWN,) * 4,
    "up_block_types": (UP,) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "decoder_block_out_channels": None,
    "layers_per_block": 2,
    "latent_channels": 32,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
    "batch_norm_eps": 1e-4,
  },
  fixed=FIXED | {"patch_size": (PATCH, PATCH)},
  ignored={"batch_norm_momentum": 0.1},
  legacy={"force_upcast": True},
  read=_read_2,
  write=_write_2,
  entries=_entries_2,
  constants={"bn.num_batches_tracked": np.zeros((), np.int64)},
  renamed=new_name,
  squeezed=is_attention_matrix,
)
