"""diffusers' AutoencoderKLQwenImage, of which what acts on single frames is read."""

from typing import Any

from t2i_jax.autoencoders.kl import COLOURS
from t2i_jax.autoencoders.qwen import MEAN, STD, AutoencoderKLQwenImage, QwenImageVAEConfig
from t2i_jax.pretrained.coder import (
  Blocks,
  Layout,
  decoder,
  encoder,
  frame_attention,
  frame_conv,
  frame_pointwise,
  rms_norm,
)
from t2i_jax.pretrained.names import Entry
from t2i_jax.pretrained.spec import Spec


def _blocks(level: int, layers: int) -> Blocks:
  """Blocks of all levels, and the convolutions between levels, are one list."""
  first = level * (layers + 1)
  name = "encoder.down_blocks"
  return Blocks(f"{name}.{{i}}", "", first, f"{name}.{first + layers}.resample.1")


def entries(c: QwenImageVAEConfig) -> list[Entry]:
  layout = Layout(
    norm=rms_norm,
    conv=frame_conv,
    pointwise=frame_pointwise,
    attention=frame_attention(c.widths[-1]),
    norm_out="norm_out",
    blocks=_blocks,
    double="upsamplers.0.resample.1",
  )
  return [
    *encoder(c.encoder, layout),
    *decoder(c.decoder, layout),
    *frame_pointwise("quant", "quant_conv"),
    *frame_pointwise("post_quant", "post_quant_conv"),
  ]


def _read(k: dict[str, Any]) -> QwenImageVAEConfig:
  return QwenImageVAEConfig(
    channels=k["z_dim"],
    base=k["base_dim"],
    multipliers=k["dim_mult"],
    layers=k["num_res_blocks"],
    latents_mean=k["latents_mean"],
    latents_std=k["latents_std"],
    halves_time=k["temperal_downsample"],
  )


def _write(c: QwenImageVAEConfig) -> dict[str, Any]:
  return {
    "z_dim": c.channels,
    "base_dim": c.base,
    "dim_mult": list(c.multipliers),
    "num_res_blocks": c.layers,
    "latents_mean": list(c.latents_mean),
    "latents_std": list(c.latents_std),
    "temperal_downsample": list(c.halves_time),
  }


def _acts(name: str) -> str | None:
  """None for the convolutions that change the number of frames."""
  return None if ".time_conv." in name else name


QWEN_VAE = Spec(
  hf_class="AutoencoderKLQwenImage",
  module=AutoencoderKLQwenImage,
  config=QwenImageVAEConfig,
  keys={
    "z_dim": 16,
    "base_dim": 96,
    "dim_mult": (1, 2, 4, 4),
    "num_res_blocks": 2,
    "latents_mean": MEAN,
    "latents_std": STD,
    "temperal_downsample": (False, True, True),
  },
  fixed={"attn_scales": (), "input_channels": COLOURS},
  ignored={"dropout": 0.0},
  read=_read,
  write=_write,
  entries=entries,
  renamed=_acts,
  unwritten=(
    "of its 3-D convolutions only what acts on a single frame is read. Copy the folder that the "
    "weights are from."
  ),
)
