"""A text-conditioned DiT: adaLN-Zero, qk-norm, axial rotary positions, any aspect ratio.

Text enters in one of two ways: "cross" adds a cross-attention to every block [2310.00426 sec. 2.2],
"joint" puts the text tokens before the image tokens of one sequence [2403.03206 sec. 4, with one
set of weights]. The backbone itself is [2212.09748 sec. 3].
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import Attention, Mask, attend, padding_mask
from t2i_jax.models.block import block_macs
from t2i_jax.models.conditioning import Conditioning, Tower
from t2i_jax.models.control import Control, Here
from t2i_jax.models.layers import (
  Mlp,
  grid_positions,
  layer_norm,
  modulate,
  patchify,
  project,
  rms_norm,
  rope_angles,
  timestep_embedding,
  unpatchify,
)
from t2i_jax.models.params import REMAT, fan_in, scan_blocks, stack_blocks, weight, zeros
from t2i_jax.parallel import constrain

TEXT_MODES = ("cross", "joint")
TIME_EMBEDDING = 256  # sinusoid width [2212.09748, its code]
ROPE_THETA = 100.0  # axial positions of small grids [2403.13298 sec. 4]


@dataclass(frozen=True)
class DiTConfig:
  """width is of tokens, patch of a side in pixels or latents, channels of x_t.

  out_channels is twice channels where a variance is learned [2212.09748, its code].
  """

  width: int
  depth: int
  heads: int
  patch: int
  channels: int
  out_channels: int
  text: str
  text_width: int
  remat: str = "none"

  def __post_init__(self):
    if self.text not in TEXT_MODES:
      raise ConfigError(f"model.text = {self.text!r} is not one of {', '.join(TEXT_MODES)}.")
    if self.remat not in REMAT:
      raise ConfigError(f"model.remat = {self.remat!r} is not one of {', '.join(REMAT)}.")
    if self.width % (4 * self.heads):
      raise ConfigError(
        f"model.width = {self.width} does not divide into model.heads = {self.heads} heads of a "
        f"multiple of 4 (two axes of rotary pairs). Use width {4 * self.heads} x n."
      )


class Block(nnx.Module):
  """Attention, cross-attention where text enters so, and MLP, modulated by six vectors."""

  def __init__(self, c: DiTConfig, rngs: nnx.Rngs):
    self.attn = Attention(c.width, c.heads, rngs)
    if c.text == "cross":
      self.cross = Attention(c.width, c.heads, rngs, kv_width=c.width)
    self.mlp = Mlp(c.width, rngs)
    self.joint = c.text == "joint"

  def __call__(self, x, modulation, text, mask: Mask, rope, own=attend, cross=attend):
    """own, cross: the two attentions, which a control may replace."""
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation  # 6 x [B, D]
    h = modulate(layer_norm(x), shift_a, scale_a)  # [B, L, D]
    seen = mask if self.joint else None
    x = x + gate_a[:, None] * self.attn(h, rope=rope, mask=seen, attend=own)
    if not self.joint:
      x = x + self.cross(layer_norm(x), kv=text, mask=mask, attend=cross)
    x = x + gate_m[:, None] * self.mlp(modulate(layer_norm(x), shift_m, scale_m))
    return constrain(x, "batch", "sequence", None)


class DiT(nnx.Module):
  """(x_t [B, H, W, C], model_time [B], Conditioning with a "text" tower) -> [B, H, W, out]."""

  def __init__(self, config: DiTConfig, rngs: nnx.Rngs):
    c = self.config = config
    d, p = c.width, c.patch * c.patch * c.channels
    p_out = c.patch * c.patch * c.out_channels
    self.patch_in = weight(rngs, (p, d), ("conv_in", "embed"), fan_in(p))
    self.text_in = weight(rngs, (c.text_width, d), (None, "embed"), fan_in(c.text_width))
    self.time_in = weight(rngs, (TIME_EMBEDDING, d), (None, "embed"), fan_in(TIME_EMBEDDING))
    self.time_out = weight(rngs, (d, d), ("embed", "mlp"), fan_in(d))
    self.pooled_in = weight(rngs, (c.text_width, d), ("embed", "mlp"), fan_in(c.text_width))
    # Zero: every block begins as the identity [2212.09748 sec. 3.2, adaLN-Zero].
    self.adaln = weight(rngs, (c.depth, d, 6, d), ("layers", "mlp", None, "embed"), zeros)
    self.adaln_bias = weight(rngs, (c.depth, 6, d), ("layers", None, "embed"), zeros)
    self.blocks = stack_blocks(lambda r: Block(c, r), c.depth, rngs)
    self.final_adaln = weight(rngs, (d, 2, d), ("mlp", None, "embed"), zeros)
    self.head = weight(rngs, (d, p_out), ("embed", "conv_out"), zeros)

  def __call__(
    self,
    x_t: jax.Array,
    model_time: jax.Array,
    cond: Conditioning,
    control: Control | None = None,
  ) -> jax.Array:
    """control: what is changed inside the blocks, on rows told by cond.extras["role"]."""
    c, text = self.config, cond.towers["text"]
    height, width = x_t.shape[1:3]
    rows, cols = height // c.patch, width // c.patch
    x = project("blp,pd->bld", patchify(x_t, c.patch), self.patch_in)  # [B, L, D]
    tokens = project(
      "btp,pd->btd", rms_norm(text.tokens.astype(x.dtype)), self.text_in
    )  # [B, T, D]

    # These matrices are a third of the weights and see one row an image: gathering the vector
    # and scattering the modulation moves far less over fsdp than gathering them would.
    vector = self.condition_vector(model_time, text, x.dtype)  # [B, D]
    vector = constrain(vector, "batch_data", None)
    modulation = project("bd,ldsk->lsbk", vector, self.adaln)  # [layers, 6, B, D]
    modulation = modulation + self.adaln_bias[...].astype(x.dtype)[:, :, None]
    modulation = constrain(modulation, "layers", None, "batch_data", "embed")
    modulation = constrain(modulation, "layers", None, "batch", None)

    mask, positions = self.layout(text.mask, rows, cols)
    if c.text == "joint":
      x = jnp.concatenate([tokens, x], axis=1)  # [B, T + L, D]
    rope = rope_angles(positions, c.width // c.heads, ROPE_THETA)

    def run(block: Block, x: jax.Array, layer: tuple) -> jax.Array:
      modulation, controlled = layer
      if control is None:
        return block(x, modulation, tokens, mask, rope)
      here = Here(controlled, cond.extras["role"], x.shape[1] - rows * cols)
      own, cross = (control.attending(here, site) for site in ("self", "cross"))
      return control.block(here, x, block(x, modulation, tokens, mask, rope, own, cross))

    xs = (modulation, None if control is None else control.layers)
    x = scan_blocks(self.blocks, constrain(x, "batch", "sequence", None), run, xs, c.remat)
    x = x[:, -rows * cols :]  # [B, L, D]
    final = project("bd,dsk->sbk", vector, self.final_adaln)
    final = constrain(constrain(final, None, "batch_data", "embed"), None, "batch", None)
    shift, scale = final
    x = project("bld,dp->blp", modulate(layer_norm(x), shift, scale), self.head)
    return unpatchify(x.astype(jnp.float32), c.patch, height, width)

  def condition_vector(self, model_time: jax.Array, text: Tower, dtype) -> jax.Array:
    """Time and pooled text as one vector, after the SiLU that precedes adaLN.   # [B, D]"""
    embedding = timestep_embedding(model_time, TIME_EMBEDDING).astype(dtype)
    hidden = jax.nn.silu(project("be,ed->bd", embedding, self.time_in))
    vector = project("bd,dk->bk", hidden, self.time_out)
    if text.pooled is not None:
      vector = vector + project("bp,pk->bk", rms_norm(text.pooled.astype(dtype)), self.pooled_in)
    return jax.nn.silu(vector)

  def layout(self, text_mask: jax.Array, rows: int, cols: int) -> tuple[Mask, jax.Array]:
    """Who sees whom, and where each token sits: (row, column) of a patch, of a word (-i, -i)."""
    grid = grid_positions(rows, cols)  # [L, 2]
    image = jnp.ones((text_mask.shape[0], rows * cols), bool)
    if self.config.text == "cross":
      return padding_mask(image, text_mask), grid
    words = -1 - jnp.arange(text_mask.shape[1])[:, None] * jnp.ones((1, 2), jnp.int32)
    both = jnp.concatenate([text_mask, image], axis=1)  # [B, T + L]
    return padding_mask(both, both), jnp.concatenate([words, grid])


def forward_flops(c: DiTConfig, image_tokens: int, text_tokens: int) -> int:
  """Matmul and attention FLOPs of one forward pass of one image (2 a multiply-add)."""
  d = c.width
  p = c.patch * c.patch * c.channels
  p_out = c.patch * c.patch * c.out_channels
  length = image_tokens + (text_tokens if c.text == "joint" else 0)
  block = block_macs(d, length)
  if c.text == "cross":
    block += 2 * image_tokens * d * d + 2 * text_tokens * d * d
    block += 2 * image_tokens * text_tokens * d
  vectors = TIME_EMBEDDING * d + d * d + c.text_width * d + 6 * c.depth * d * d + 2 * d * d
  ends = image_tokens * (p + p_out) * d + text_tokens * c.text_width * d
  return 2 * (c.depth * block + vectors + ends)
