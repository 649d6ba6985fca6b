"""A text-conditioned DiT: adaLN-Zero, qk-norm, axial rotary positions, any aspect ratio.

Text enters in one of three ways: "cross" adds a cross-attention to every block [2310.00426 sec.
2.2], "joint" puts the text tokens before the image tokens of one sequence [2403.03206 sec. 4, with
one set of weights], "pooled" leaves it at the one vector that the others take besides. The backbone
itself is [2212.09748 sec. 3].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.adaln_block import AdaLNBlock
from t2i_jax.models.attention import Mask, padding_mask
from t2i_jax.models.backbone import Backbone, PatchConfig
from t2i_jax.models.conditioning import Conditioning, Tower
from t2i_jax.models.layers import (
  BlockConfig,
  Dense,
  Modulation,
  TimeEmbedder,
  final_layer,
  patchify,
  rms_norm,
)
from t2i_jax.models.params import stack_blocks, zeros
from t2i_jax.models.positions import grid_positions, rope_angles, sincos_grid
from t2i_jax.models.streams import joined, joint_mask
from t2i_jax.parallel import constrain
from t2i_jax.ranges import Count, Width

TEXT_MODES = ("cross", "joint", "pooled")
ROPE_THETA = 100.0  # axial positions of small grids [2403.13298 sec. 4]


@dataclass(frozen=True)
class DiTConfig(PatchConfig):
  """text is one of TEXT_MODES, text_width the width of its tower.

  absolute  adds fixed sin-cos positions to the patches [2212.09748 sec. 3.2]; rotary angles alone
            tell distances, not where in the image a patch of noise is
  times     2: the network also takes the time at which a step ends [2505.13447 sec. 4.3]
  """

  text: str
  text_width: Width
  absolute: bool = False
  times: Count = 1

  def __post_init__(self):
    super().__post_init__()
    if self.times not in (1, 2):
      raise ConfigError(
        f"model.times = {self.times}: write 1, or 2 for train.objective='meanflow'."
      )
    if self.text not in TEXT_MODES:
      raise ConfigError(f"model.text = {self.text!r} is not one of {', '.join(TEXT_MODES)}.")
    if self.width % (4 * self.heads):
      raise ConfigError(
        f"model.width = {self.width} does not divide into model.heads = {self.heads} heads of a "
        f"multiple of 4 (two axes of rotary pairs). Use width {4 * self.heads} x n."
      )


class Entered(NamedTuple):
  """What the blocks are run on.

  x       [B, L, D], with text tokens before the image's where text is "joint"
  vector  [B, D] of adaLN;   words: text tokens in x
  call    of a block, as Stacks.run takes it
  """

  x: jax.Array
  vector: jax.Array
  words: int
  call: Callable[..., jax.Array]


class DiTStem(nnx.Module):
  """The embeddings and the blocks."""

  config: DiTConfig
  span_in: TimeEmbedder  # of a DiT of two times

  def __init__(self, config: DiTConfig, rngs: nnx.Rngs):
    c = self.config = config
    d, p = c.width, c.patch * c.patch
    block = BlockConfig(d, c.heads)
    cross = "normed" if c.text == "cross" else ""
    self.patch_in = Dense(rngs, p * c.inputs, d, ("conv_in", "embed"), bias=False)
    if c.text != "pooled":
      self.text_in = Dense(rngs, c.text_width, d, (None, "embed"), bias=False)
    self.time_in = TimeEmbedder(rngs, d, bias=False)
    self.pooled_in = Dense(rngs, c.text_width, d, ("embed", "mlp"), bias=False)
    self.adaln = Modulation(rngs, d, 6, d, layers=c.depth)
    self.blocks = stack_blocks(lambda r: AdaLNBlock(block, r, cross=cross), c.depth, rngs)

  def entered(
    self, x_t: jax.Array, model_time: jax.Array, cond: Conditioning, hint: jax.Array | None = None
  ) -> Entered:
    """hint  [B, L, D], added to the patches"""
    c, text = self.config, cond.towers["text"]
    rows, cols = (side // c.patch for side in x_t.shape[1:3])
    x = self.patch_in(patchify(x_t, c.patch))  # [B, L, D]
    if c.absolute:
      x = x + sincos_grid(rows, cols, (1, 1), c.width).astype(x.dtype)
    if hint is not None:
      x = x + hint.astype(x.dtype)
    words = text.mask.shape[1] if c.text == "joint" else 0
    end = cond.extras.get("end", model_time)
    vector = self.condition_vector(model_time, text, x.dtype, end)  # [B, D]
    mask, positions = self.layout(text.mask, rows, cols)
    rope = rope_angles(positions, c.width // c.heads, ROPE_THETA)

    where: dict[str, Any] = {}
    if c.text != "pooled":
      tokens = self.text_tokens(text, x.dtype)
      where = {"text": tokens, "text_mask": mask}
    if c.text == "joint":
      x = joined(tokens, x)  # [B, T + L, D]
      where = {"site": "joint", "mask": mask}
    call = lambda block, x, modulation, at: block(x, modulation, at, rope=rope, **where)
    return Entered(constrain(x, "batch", "sequence", None), vector, words, call)

  def text_tokens(self, text: Tower, dtype: Any) -> jax.Array:
    """The text as attention reads it.   # [B, T, D]"""
    return self.text_in(rms_norm(text.tokens.astype(dtype)))

  def condition_vector(
    self, model_time: jax.Array, text: Tower, dtype, end: jax.Array
  ) -> jax.Array:
    """Times and pooled text as one vector, after the SiLU that precedes adaLN.   # [B, D]

    end  model_time at which the step ends, read where times = 2
    """
    vector = self.time_in(model_time, dtype)
    if self.config.times == 2:
      vector = vector + self.span_in(model_time - end, dtype)
    if text.pooled is not None:
      vector = vector + self.pooled_in(rms_norm(text.pooled.astype(dtype)))
    return jax.nn.silu(vector)

  def layout(self, text_mask: jax.Array, rows: int, cols: int) -> tuple[Mask, jax.Array]:
    """The mask, and the position of each token: (row, column) of a patch, (-i, -i) of text."""
    grid = grid_positions(rows, cols)  # [L, 2]
    if self.config.text != "joint":
      image = jnp.ones((text_mask.shape[0], rows * cols), bool)
      return padding_mask(image, text_mask), grid
    words = -1 - jnp.arange(text_mask.shape[1])[:, None] * jnp.ones((1, 2), jnp.int32)
    return joint_mask(text_mask, rows * cols), jnp.concatenate([words, grid])


class DiT(DiTStem, Backbone):
  """(x_t [B, H, W, C], model_time [B], Conditioning with a "text" tower) -> [B, H, W, out]."""

  def __init__(self, config: DiTConfig, rngs: nnx.Rngs):
    super().__init__(config, rngs)
    c, d = config, config.width
    self.final_adaln = Modulation(rngs, d, 2, d, bias=False)
    outputs = c.patch * c.patch * c.out
    self.head = Dense(rngs, d, outputs, ("embed", "conv_out"), bias=False, init=zeros)
    if c.times == 2:  # of no effect at first: a start from a network of one time is that network
      self.span_in = TimeEmbedder(rngs, d, bias=False)
      self.span_in.second = Dense(rngs, d, d, ("embed", "mlp"), bias=False, init=zeros)

  def predict(self, x_t, model_time, cond, stacks) -> jax.Array:
    (x, vector, words, call), (height, width) = self.entered(x_t, model_time, cond), x_t.shape[1:3]
    x = stacks.run("blocks", self.blocks, x, call, self.adaln(vector), words)
    patch = self.config.patch
    return final_layer(x[:, words:], self.final_adaln(vector), self.head, patch, height, width)
