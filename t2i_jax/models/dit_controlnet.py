"""ControlNet of a DiT: an image that conditions, as residuals of the backbone's first blocks.

    x' = embedded x_t + projected condition image
    x' = block'_i(x'),   x = block_i(x) + projection_i(x'),   i < K

block' are copies of the backbone's first K blocks; the projections are zero at the start. Source:
[2401.05252], its ControlNet-Transformer, whose copies share the backbone's embeddings. Here they
have copies of these, as diffusers' SD3ControlNetModel.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.conditioning import Conditioning
from t2i_jax.models.controlnet import COLOURS
from t2i_jax.models.dit import DiTConfig, DiTStem
from t2i_jax.models.layers import Dense, patchify
from t2i_jax.models.params import zeros
from t2i_jax.models.stack import BlockOutput, Stacks
from t2i_jax.models.stream_controlnets import of_blocks, zero_matrices
from t2i_jax.ranges import Count, Depth


@dataclass(frozen=True)
class DiTControlNetConfig(DiTConfig):
  """As the DiT that it controls, with fewer blocks.

  base_depth  blocks of the DiT, of which the first `depth` are copied
  factor      pixels of the condition image along a side of one latent
  """

  base: ClassVar[type] = DiTConfig

  base_depth: Depth = 1
  factor: Count = 1

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.depth > self.base_depth:
      raise ConfigError(
        f"depth = {self.depth}: the backbone has {self.base_depth} blocks that a ControlNet can "
        f"copy. Use a depth of at most {self.base_depth}."
      )
    if self.times != 1:
      raise ConfigError(
        "a ControlNet takes one time, and this backbone two, as train.objective='meanflow' has it. "
        "Train it on a backbone of model.times=1."
      )

  def make(self, rngs: nnx.Rngs) -> "DiTControlNet":
    return DiTControlNet(self, rngs)

  @property
  def residual_count(self) -> int:
    """Residuals, each of which has a scale."""
    return self.depth

  def compared(self, backbone: DiTConfig, factor: int) -> dict[str, tuple[Any, Any]]:
    """What has to be equal of this and of the backbone that it is given for, by its name.

    factor  pixels along a side of the backbone's latents
    """
    same = ("channels", "width", "heads", "patch", "text", "text_width", "absolute", "times")
    found = {f"model.{name}": (getattr(self, name), getattr(backbone, name)) for name in same}
    found["blocks of the backbone"] = (self.base_depth, backbone.depth)
    found["pixels of the condition image along a side of a latent"] = (self.factor, factor)
    return found


class DiTControlNet(DiTStem):
  """(x_t [B, H, W, C], model_time [B], Conditioning, hint) -> residuals of a DiT.

  hint  [B, L, D], of `embed`: it is the same for all times
  The residuals are "blocks" [base_depth, B, L, D], zero after the first `depth`.
  """

  config: DiTControlNetConfig

  def __init__(self, config: DiTControlNetConfig, rngs: nnx.Rngs):
    super().__init__(config, rngs)
    c, d, side = config, config.width, config.factor * config.patch
    self.hint_in = Dense(rngs, side * side * COLOURS, d, ("conv_in", "embed"), init=zeros)
    self.outputs = zero_matrices(d, c.depth, rngs)

  def embed(self, image: jax.Array) -> jax.Array:
    """A condition image [B, H, W, 3] in [0, 1], red, green, blue -> hint [B, L, D]."""
    return self.hint_in(patchify(image, self.config.factor * self.config.patch))

  def __call__(
    self, x_t: jax.Array, model_time: jax.Array, cond: Conditioning, hint: jax.Array
  ) -> dict[str, jax.Array]:
    x, vector, words, block_of = self.entered(x_t, model_time, cond, hint)

    def call(*block: Any) -> BlockOutput:
      x = block_of(*block)
      return BlockOutput(x, skip=x[:, words:])

    stacks = Stacks(self.config)
    stacks.run("blocks", self.blocks, x, call, self.adaln(vector), words)
    return {"blocks": self._in_base(of_blocks(self.outputs, stacks.skips["blocks"]))}

  def scaled(self, residuals: dict[str, jax.Array], scale: jax.Array) -> dict[str, jax.Array]:
    """Each residual times its scale.   scale: [B, residual_count]"""
    found = residuals["blocks"]
    return {"blocks": found * self._in_base(scale.T)[..., None, None].astype(found.dtype)}

  def _in_base(self, x: jax.Array) -> jax.Array:
    """With zeros for the blocks that are not copied.   [depth, ...] -> [base_depth, ...]"""
    others = self.config.base_depth - self.config.depth
    return jnp.pad(x, [(0, others), *[(0, 0)] * (x.ndim - 1)])
