"""Which ControlNets config.controlnets can name: one of a folder, or a new one to train."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from t2i_jax.config import build
from t2i_jax.errors import ConfigError
from t2i_jax.models.controlnet import ControlNetConfig
from t2i_jax.models.dit import DiTConfig
from t2i_jax.models.dit_controlnet import DiTControlNetConfig
from t2i_jax.models.flux import FluxConfig
from t2i_jax.models.sd3 import SD3Config
from t2i_jax.models.stream_controlnets import FluxControlNetConfig, SD3ControlNetConfig
from t2i_jax.models.unet import StemConfig, UNetConfig
from t2i_jax.pretrained.folder import open_folder
from t2i_jax.ranges import Whole, Width
from t2i_jax.systems.conditions import CONDITIONS, Condition


class Net(NamedTuple):
  """A ControlNet;   condition: what makes its images of those of training, or None"""

  config: Any
  condition: Condition | None


class Base(NamedTuple):
  """config of the backbone;   factor: pixels along a side of a latent"""

  config: Any
  factor: int


def _condition(text: str) -> Condition | None:
  return build(CONDITIONS, text, "condition") if text else None


def folder(base: Base, path: str, condition: str = "") -> Net:
  """The ControlNet in a folder. Raises RestoreError, ConfigError."""
  config = open_folder(path)[1]
  if not hasattr(config, "residual_count"):
    raise ConfigError(f"{path} holds a {type(config).__name__}, which is no ControlNet.")
  runs = {"remat": base.config.remat, "attention": base.config.attention}
  if getattr(config, "guidance", 0) and getattr(base.config, "guidance", 0):
    runs["guidance"] = base.config.guidance  # one scale for both embeddings of it
  return Net(dataclasses.replace(config, **runs), _condition(condition))


def of_backbone(
  base: Base, condition: str, hint_widths: tuple[Width, ...] = (), depth: Whole = 0
) -> Net:
  """A new one of the backbone's sizes, to train.

  condition    one of systems.conditions.CONDITIONS
  hint_widths  of a U-Net's, as in ControlNetConfig; by default the first of the published ones, as
               many as the autoencoder's factor needs
  depth        of a transformer's: blocks that are copied, from the first on; by default half of
               them. Of FLUX.1 they are double-stream blocks
  Raises ConfigError.
  """
  for kind, (make, own) in OF_BACKBONES.items():
    if type(base.config) is kind:
      given = {"hint_widths": hint_widths, "depth": depth}
      others = [name for name, value in given.items() if value and name != own]
      if others:
        raise ConfigError(f"of_backbone: {others[0]} is not of a ControlNet of a {kind.__name__}.")
      return Net(make(base, given[own]), _condition(condition))
  known = " or ".join(kind.__name__.removesuffix("Config") for kind in OF_BACKBONES)
  raise ConfigError(
    f"of_backbone makes the ControlNet of a {known}, and this model's backbone is a "
    f"{type(base.config).__name__}. Use folder(path='PATH')."
  )


def _own(base: Base, kind: type) -> dict[str, Any]:
  """The fields of a config that the backbone's has, too."""
  return {f.name: getattr(base.config, f.name) for f in dataclasses.fields(kind)}


def _of_unet(base: Base, hint_widths: tuple[int, ...]) -> ControlNetConfig:
  published = ControlNetConfig.hint_widths[: base.factor.bit_length()]
  return ControlNetConfig(**_own(base, StemConfig), hint_widths=hint_widths or published)


def _of_dit(base: Base, depth: int) -> DiTControlNetConfig:
  blocks = base.config.depth
  own = _own(base, DiTConfig) | {"depth": depth or -(-blocks // 2)}
  return DiTControlNetConfig(**own, base_depth=blocks, factor=base.factor)


def _of_sd3(base: Base, depth: int) -> SD3ControlNetConfig:
  own = _own(base, SD3Config)
  own["depth"] = depth or -(-base.config.depth // 2)
  own["dual_blocks"] = min(base.config.dual_blocks, own["depth"])
  return SD3ControlNetConfig(**own, zero_pooled=False)


def _of_flux(base: Base, depth: int) -> FluxControlNetConfig:
  own = _own(base, FluxConfig)
  own |= {"double_blocks": depth or -(-base.config.double_blocks // 2), "single_blocks": 0}
  return FluxControlNetConfig(**own)


# By the config of a backbone: the config of a new ControlNet, and the argument that it takes.
OF_BACKBONES: dict[type, tuple[Callable[..., Any], str]] = {
  UNetConfig: (_of_unet, "hint_widths"),
  DiTConfig: (_of_dit, "depth"),
  SD3Config: (_of_sd3, "depth"),
  FluxConfig: (_of_flux, "depth"),
}
# By the name in config.controlnets.
CONTROLNETS: dict[str, Callable[..., Net]] = {"folder": folder, "of_backbone": of_backbone}
