"""ControlNets of Stable Diffusion 3 and FLUX.1: an image that conditions, as residuals of blocks.

    the first blocks of the model, of the tokens of x_t + those of the image's latents
    -> a matrix, zero at the start, of the image's tokens after every block

Sources: [2302.05543 sec. 3], and diffusers' SD3ControlNetModel and FluxControlNetModel, whose
modules these are.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.conditioning import Conditioning
from t2i_jax.models.flux import FluxConfig, FluxStem
from t2i_jax.models.layers import Dense, patchify
from t2i_jax.models.params import scan_blocks, stack_blocks, zeros
from t2i_jax.models.sd3 import SD3Config, SD3Stem
from t2i_jax.models.stack import Stacks
from t2i_jax.models.streams import Both
from t2i_jax.ranges import Whole


def zero_matrices(width: int, count: int, rngs: nnx.Rngs) -> nnx.Module:
  """Of `count` blocks, [width, width] each."""
  return stack_blocks(lambda r: Dense(r, width, width, ("embed", "mlp"), init=zeros), count, rngs)


def of_blocks(matrices: nnx.Module, kept: jax.Array) -> jax.Array:
  """The residual of each block.   kept: tokens after it   # [K, B, L, D]"""
  return scan_blocks(matrices, None, lambda matrix, x, one: (x, matrix(one)), kept)[1]


def scaled_blocks(residuals: dict[str, Any], scale: jax.Array) -> dict[str, Any]:
  """Each residual times its scale.   residuals: [K, B, L, D] each;   scale: [B, all K]"""
  found, first = {}, 0
  for name, tree in residuals.items():
    (leaf,) = jax.tree.leaves(tree)
    own = scale[:, first : first + len(leaf)].T[..., None, None].astype(leaf.dtype)  # [K, B, 1, 1]
    found[name] = jax.tree.map(lambda r, own=own: r * own, tree)
    first += len(leaf)
  return found


@dataclass(frozen=True)
class SD3ControlNetConfig(SD3Config):
  """As the model that it controls, with fewer blocks; `out` is not used.

  extra        channels of the condition besides those of latents, as a mask
  zero_pooled  it was trained with zeros for the pooled text, on latents that were not shifted
  """

  base: ClassVar[type] = SD3Config
  reads_latents: ClassVar[bool] = True

  extra: Whole = 0
  zero_pooled: bool = True

  def check_dual(self) -> None:
    if not 0 <= self.dual_blocks <= self.depth:
      raise ConfigError(f"dual_blocks = {self.dual_blocks} of depth = {self.depth} blocks.")

  def make(self, rngs: nnx.Rngs) -> "SD3ControlNet":
    return SD3ControlNet(self, rngs)

  @property
  def joint_blocks(self) -> int:
    return self.depth - self.dual_blocks

  @property
  def unshifted(self) -> bool:
    """Whether its latents are those of the autoencoder without the shift."""
    return self.zero_pooled

  @property
  def counts(self) -> dict[str, int]:
    """Residuals by the name under which the backbone takes them."""
    return {"blocks": self.depth}

  @property
  def residual_count(self) -> int:
    """Residuals, each of which has a scale: one of each block."""
    return self.depth

  def compared(self, backbone: SD3Config, factor: int) -> dict[str, tuple[Any, Any]]:
    """As models.controlnet.ControlNetConfig has it."""
    return {
      "channels of x_t": (self.channels, backbone.channels),
      "width of the blocks": (self.width, backbone.width),
      "patch": (self.patch, backbone.patch),
      "width of the text (joint_attention_dim)": (self.text_width, backbone.text_width),
      "width of the pooled text": (self.pooled_width, backbone.pooled_width),
      "channels besides the latents of the condition (extra_conditioning_channels)": (
        self.extra,
        0,
      ),
    }


class SD3ControlNet(SD3Stem):
  """(x_t [B, H, W, C], model_time [B], Conditioning, hint) -> residuals of SD3: {"blocks"}.

  hint  [B, L, D], of `embed`: it is the same for all times
  """

  config: SD3ControlNetConfig

  def __init__(self, config: SD3ControlNetConfig, rngs: nnx.Rngs):
    c, d = config, config.width
    super().__init__(c, rngs)
    inputs = c.patch * c.patch * (c.channels + c.extra)
    self.hint_in = Dense(rngs, inputs, d, ("conv_in", "embed"), init=zeros)
    self.residual = zero_matrices(d, c.depth, rngs)

  def embed(self, latents: jax.Array) -> jax.Array:
    """Those of a condition image [B, h, w, C + extra] -> hint [B, L, D]."""
    return self.hint_in(patchify(latents, self.config.patch))

  def __call__(
    self, x_t: jax.Array, model_time: jax.Array, cond: Conditioning, hint: jax.Array
  ) -> dict[str, Any]:
    c, text = self.config, cond.towers["text"]
    if c.zero_pooled and text.pooled is not None:
      text = text._replace(pooled=jnp.zeros_like(text.pooled))
    stacks = Stacks(c)
    self.blocks(x_t, model_time, text, stacks, hint)
    kept = jnp.concatenate(list(stacks.skips.values()))  # [K, B, L, D]
    return {"blocks": of_blocks(self.residual, kept)}

  scaled = staticmethod(scaled_blocks)


@dataclass(frozen=True)
class FluxControlNetConfig(FluxConfig):
  """As the FLUX.1 that it controls, with fewer blocks; `out` is not used."""

  base: ClassVar[type] = FluxConfig
  reads_latents: ClassVar[bool] = True
  unshifted: ClassVar[bool] = False

  def make(self, rngs: nnx.Rngs) -> "FluxControlNet":
    return FluxControlNet(self, rngs)

  @property
  def counts(self) -> dict[str, int]:
    """Residuals by the stack that takes them."""
    stacks = {"double": self.double_blocks, "single": self.single_blocks}
    return {name: count for name, count in stacks.items() if count}

  @property
  def residual_count(self) -> int:
    """Residuals, each of which has a scale: of the double-stream blocks, then the single ones."""
    return self.layers

  def compared(self, backbone: FluxConfig, factor: int) -> dict[str, tuple[Any, Any]]:
    """As models.controlnet.ControlNetConfig has it."""
    found: dict[str, tuple[Any, Any]] = {
      "channels of x_t": (self.channels, backbone.channels),
      "width of the blocks": (self.width, backbone.width),
      "width of the text (joint_attention_dim)": (self.text_width, backbone.text_width),
      "width of the pooled text": (self.pooled_width, backbone.pooled_width),
    }
    for name in ("double_blocks", "single_blocks"):
      own, most = getattr(self, name), getattr(backbone, name)
      found[f"{name}, at most"] = (own, min(own, most))
    return found


class FluxControlNet(FluxStem):
  """(x_t [B, H, W, C], model_time [B], Conditioning, hint) -> residuals of FLUX.1's two stacks.

  hint  [B, L, D], of `embed`: it is the same for all times
  """

  config: FluxControlNetConfig

  def __init__(self, config: FluxControlNetConfig, rngs: nnx.Rngs):
    c, d = config, config.width
    super().__init__(c, rngs)
    self.hint_in = Dense(rngs, c.patch * c.patch * c.channels, d, ("conv_in", "embed"), init=zeros)
    if c.double_blocks:
      self.double_residual = zero_matrices(d, c.double_blocks, rngs)
    if c.single_blocks:
      self.single_residual = zero_matrices(d, c.single_blocks, rngs)

  def embed(self, latents: jax.Array) -> jax.Array:
    """Those of a condition image [B, h, w, C] -> hint [B, L, D]."""
    return self.hint_in(patchify(latents, self.config.patch))

  def __call__(
    self, x_t: jax.Array, model_time: jax.Array, cond: Conditioning, hint: jax.Array
  ) -> dict[str, Any]:
    stacks, found = Stacks(self.config), dict[str, Any]()
    self.blocks((x_t,), model_time, cond, stacks, hint)
    if self.config.double_blocks:
      found["double"] = Both(None, of_blocks(self.double_residual, stacks.skips["double"]))
    if self.config.single_blocks:
      found["single"] = of_blocks(self.single_residual, stacks.skips["single"])
    return found

  scaled = staticmethod(scaled_blocks)
