"""ControlNets of Stable Diffusion 1, 2 and SDXL as diffusers' ControlNetModel."""

from typing import Any

from t2i_jax.models.controlnet import COLOURS, ControlNet, ControlNetConfig
from t2i_jax.pretrained.coder import conv, pointwise
from t2i_jax.pretrained.names import Entry
from t2i_jax.pretrained.spec import Spec, refuse
from t2i_jax.pretrained.unet import STEM_FIXED, STEM_KEYS, read_stem, stem, write_stem

ORDERS = ("rgb", "bgr")


def entries(c: ControlNetConfig) -> list[Entry]:
  found, name = stem(c), "controlnet_cond_embedding"
  found += conv("embedding/conv_in", f"{name}.conv_in")
  for i in range(len(c.hint_widths) - 1):
    found += conv(f"embedding/keep{i}", f"{name}.blocks.{2 * i}")
    found += conv(f"embedding/halve{i}", f"{name}.blocks.{2 * i + 1}")
  found += conv("embedding/conv_out", f"{name}.conv_out")
  for i in range(len(c.skip_widths)):
    found += pointwise(f"skip{i}", f"controlnet_down_blocks.{i}")
  return found + pointwise("after_middle", "controlnet_mid_block")


def read(k: dict[str, Any]) -> ControlNetConfig:
  order = k["controlnet_conditioning_channel_order"]
  widths = k["conditioning_embedding_out_channels"]
  if order not in ORDERS:
    raise refuse(f"controlnet_conditioning_channel_order = {order!r}, not 'rgb' or 'bgr'")
  if not isinstance(widths, tuple) or not widths:
    raise refuse(
      f"conditioning_embedding_out_channels = {widths!r}, which must be a list of widths"
    )
  return ControlNetConfig(
    **read_stem(k),
    channels=k["in_channels"],
    hint_widths=widths,
    bgr=order == "bgr",
    global_pool=k["global_pool_conditions"],
  )


def write(c: ControlNetConfig) -> dict[str, Any]:
  return write_stem(c) | {
    "in_channels": c.channels,
    "controlnet_conditioning_channel_order": ORDERS[c.bgr],
    "conditioning_embedding_out_channels": list(c.hint_widths),
    "global_pool_conditions": c.global_pool,
  }


CONTROLNET = Spec(
  hf_class="ControlNetModel",
  module=ControlNet,
  config=ControlNetConfig,
  keys=STEM_KEYS
  | {
    "controlnet_conditioning_channel_order": ORDERS[0],
    "conditioning_embedding_out_channels": (16, 32, 96, 256),
    "global_pool_conditions": False,
  },
  fixed=STEM_FIXED | {"conditioning_channels": COLOURS},
  ignored={"upcast_attention": False},  # of half precision: scores are float32 here
  entries=entries,
  read=read,
  write=write,
)
