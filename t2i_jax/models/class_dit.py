"""DiT: class-conditional, adaLN-Zero, fixed positions [2212.09748 sec. 3].

The label comes as the tower "label": tokens [B, 1, 1], of which `classes` is the null.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.adaln_block import AdaLNBlock
from t2i_jax.models.backbone import Backbone, PatchConfig
from t2i_jax.models.layers import (
  BlockConfig,
  Dense,
  Modulation,
  TimeEmbedder,
  final_layer,
  patchify,
)
from t2i_jax.models.params import fan_in, stack_blocks, weight, zeros
from t2i_jax.models.positions import check_heads, interpolated_grid
from t2i_jax.models.stack import Eps
from t2i_jax.parallel import constrain
from t2i_jax.ranges import Count, Range


@dataclass(frozen=True)
class ClassDiTConfig(PatchConfig):
  """side is that of the latent whose positions lie 1 apart; out counts value and variance.

  mlp_eps  of the norm before the MLP: 1e-5 in diffusers, 1e-6 in the paper's code
  less     of timestep_embedding: 1 in diffusers, 0 in the paper's code
  """

  classes: Count
  side: Count
  mlp_eps: Eps = 1e-5
  less: Annotated[int, Range("[0, 1]")] = 1

  def __post_init__(self):
    super().__post_init__()
    check_heads(self.width, self.heads)


class ClassDiT(Backbone):
  """(x_t [B, H, W, C], model_time [B], Conditioning with a "label") -> [B, H, W, out]."""

  config: ClassDiTConfig

  def __init__(self, config: ClassDiTConfig, rngs: nnx.Rngs):
    c = self.config = config
    d, p = c.width, c.patch * c.patch
    block = BlockConfig(d, c.heads, bias=True, qk_norm=False)
    self.patch_in = Dense(rngs, p * c.inputs, d, ("conv_in", "embed"))
    self.time_in = TimeEmbedder(rngs, d, less=c.less)
    self.label_in = weight(rngs, (c.classes + 1, d), (None, "embed"), fan_in(1))
    self.adaln = Modulation(rngs, d, 6, d, layers=c.depth)
    self.blocks = stack_blocks(lambda r: AdaLNBlock(block, r, mlp_eps=c.mlp_eps), c.depth, rngs)
    self.final_adaln = Modulation(rngs, d, 2, d)
    self.head = Dense(rngs, d, p * c.out, ("embed", "conv_out"), init=zeros)

  def predict(self, x_t, model_time, cond, stacks) -> jax.Array:
    c = self.config
    height, width = x_t.shape[1:3]
    rows, cols = height // c.patch, width // c.patch
    x = self.patch_in(patchify(x_t, c.patch))  # [B, L, D]
    base = c.side // c.patch
    x = x + interpolated_grid(rows, cols, base, c.width).astype(x.dtype)
    label = cond.towers["label"].tokens[:, 0, 0].astype(jnp.int32)
    table = constrain(self.label_in[...], None, None)
    vector = self.time_in(model_time, x.dtype) + table[label].astype(x.dtype)
    vector = jax.nn.silu(vector)  # [B, D]
    call = lambda block, x, modulation, at: block(x, modulation, at)
    x = constrain(x, "batch", "sequence", None)
    x = stacks.run("blocks", self.blocks, x, call, self.adaln(vector))
    return final_layer(x, self.final_adaln(vector), self.head, c.patch, height, width)
