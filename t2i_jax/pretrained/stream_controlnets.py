"""ControlNets of Stable Diffusion 3 and FLUX.1 as diffusers' SD3ControlNetModel and
FluxControlNetModel.
"""

from functools import partial
from typing import Any

from t2i_jax.models.stream_controlnets import (
  FluxControlNet,
  FluxControlNetConfig,
  SD3ControlNet,
  SD3ControlNetConfig,
)
from t2i_jax.pretrained import flux, sd3
from t2i_jax.pretrained.names import Entry, conv_patches, dense, packed_in
from t2i_jax.pretrained.spec import Spec, must_be, refuse


def _sd3_entries(c: SD3ControlNetConfig) -> list[Entry]:
  return [
    *sd3.stem(c),
    *conv_patches("hint_in", "pos_embed_input.proj", c.patch),
    *dense("residual", "controlnet_blocks.{i}"),
  ]


def _read_sd3(k: dict[str, Any]) -> SD3ControlNetConfig:
  if k["joint_attention_dim"] is None:
    raise refuse(
      "joint_attention_dim = None: one of single-stream blocks, as of Stable Diffusion 3.5 large, "
      "is not supported"
    )
  # Those of the model that it was copied from, which has more blocks.
  dual = tuple(layer for layer in k["dual_attention_layers"] if layer < k["num_layers"])
  return SD3ControlNetConfig(
    **sd3.fields(k | {"dual_attention_layers": dual}),
    extra=k["extra_conditioning_channels"],
    zero_pooled=k["force_zeros_for_pooled_projection"],
  )


def _write_sd3(c: SD3ControlNetConfig) -> dict[str, Any]:
  return sd3.write(c) | {
    "extra_conditioning_channels": c.extra,
    "force_zeros_for_pooled_projection": c.zero_pooled,
  }


SD3_CONTROLNET = Spec(
  hf_class="SD3ControlNetModel",
  module=SD3ControlNet,
  config=SD3ControlNetConfig,
  keys=sd3.KEYS | {"extra_conditioning_channels": 0, "force_zeros_for_pooled_projection": True},
  fixed={"pos_embed_type": "sincos", "use_pos_embed": True},
  ignored={},
  read=_read_sd3,
  write=_write_sd3,
  entries=_sd3_entries,
  buffers=lambda c: {sd3.TABLE: sd3.positions(c)},
  infer_from_tensors=partial(sd3.infer_positions, sd3.TABLE),
)


def _flux_entries(c: FluxControlNetConfig) -> list[Entry]:
  found = [*flux.stem(c), *packed_in("hint_in", "controlnet_x_embedder", c.patch)]
  if c.double_blocks:
    found += dense("double_residual", "controlnet_blocks.{i}")
  if c.single_blocks:
    found += dense("single_residual", "controlnet_single_blocks.{i}")
  return found


def _write_flux(c: FluxControlNetConfig) -> dict[str, Any]:
  must_be("out", c.out, c.channels)
  return {key: value for key, value in flux.write_1(c).items() if key != "out_channels"}


FLUX_CONTROLNET = Spec(
  hf_class="FluxControlNetModel",
  module=FluxControlNet,
  config=FluxControlNetConfig,
  keys=flux.KEYS,
  # Modes are of a union of several ControlNets; embedding channels of one that reads pixels.
  fixed={"patch_size": 1, "num_mode": None, "conditioning_embedding_channels": None},
  ignored={},
  dropped=("out_channels",),
  read=partial(flux.read, FluxControlNetConfig, flux.PATCH, flux.GUIDANCE),
  write=_write_flux,
  entries=_flux_entries,
)
