"""A language model as a text encoder: its hidden states at some of its layers.

Qwen2.5-VL (text alone) for Qwen-Image, Qwen3 for Z-Image and FLUX.2 klein, Mistral for FLUX.2. It
ends after the last layer that is taken: later layers are neither declared nor read from a folder.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import Mask, Visible, attend
from t2i_jax.models.conditioning import Tower
from t2i_jax.models.decoder import DecoderBlock
from t2i_jax.models.layers import BlockConfig, rms_norm
from t2i_jax.models.params import fan_in, ones, scan_blocks, stack_blocks, weight
from t2i_jax.models.positions import rope_angles
from t2i_jax.parallel import constrain
from t2i_jax.towers.qwen_vision import ImageTokens, mrope_angles


@dataclass(frozen=True)
class LanguageModelConfig:
  """vocab: rows of the embedding;   depth: blocks of the published model.

  layers    hidden states that are concatenated on the feature axis: 0 is the embedding, i the
            output of block i, `depth` that of the last block, normed; negative: from the end, so
            that -1 is `depth`
  hidden    width inside the MLP
  qkv_bias  biases of q, k and v; the other matrices have none
  window    positions that a token attends to, its own included; 0: all before it. Longer texts are
            refused, so that no attention has to be cut
  rope_sections  of a head's frequencies, those of each axis of multimodal positions; () = one axis
  """

  vocab: int
  width: int
  depth: int
  heads: int
  kv_heads: int
  head_dim: int
  hidden: int
  qk_norm: bool = False
  qkv_bias: bool = False
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-6
  window: int = 0
  rope_sections: tuple[int, ...] = ()
  layers: tuple[int, ...] = (-1,)

  def __post_init__(self) -> None:
    """Raises ConfigError for layers that do not exist and heads that do not divide."""
    wrong = [layer for layer in self.layers if not -self.depth - 1 <= layer <= self.depth]
    if wrong or not any(self.taken):
      raise ConfigError(
        f"layers = {self.layers} of a language model of {self.depth} blocks: give numbers from "
        f"{-self.depth - 1} to {self.depth}, of which one is not the embedding, 0."
      )
    if self.rope_sections and 2 * sum(self.rope_sections) != self.head_dim:
      raise ConfigError(
        f"rope_sections = {self.rope_sections} of a language model whose heads have "
        f"{self.head_dim // 2} frequencies: they must add up to that."
      )
    if self.heads % self.kv_heads or self.head_dim % 2:
      raise ConfigError(
        f"heads = {self.heads} of width {self.head_dim} and kv_heads = {self.kv_heads}: heads must "
        "be a multiple of kv_heads, and their width even."
      )

  @property
  def taken(self) -> tuple[int, ...]:
    """`layers` counted from the embedding, 0."""
    return tuple(layer + self.depth + 1 if layer < 0 else layer for layer in self.layers)

  @property
  def run(self) -> int:
    """Blocks that are run: those up to the last one that is taken."""
    return max(self.taken)

  @property
  def widths(self) -> dict[str, int]:
    return {"text_width": len(self.layers) * self.width}

  @property
  def block(self) -> BlockConfig:
    return BlockConfig(
      self.width,
      self.heads,
      self.hidden,
      "swiglu",
      qk_norm=self.qk_norm,
      qk_eps=self.norm_eps,
      kv_heads=self.kv_heads,
      head_dim=self.head_dim,
      qkv_bias=self.qkv_bias,
    )

  def make(self, rngs: nnx.Rngs) -> "LanguageModel":
    return LanguageModel(self, rngs)


class LanguageModel(nnx.Module):
  """(ids [B, T] int32, mask [B, T] bool) -> Tower of tokens [B, T, len(layers) D], without pooled.

  Padding may be on either side. It is no key, but its rows are computed too: published models pass
  them on (FLUX.2). Positions are those in the row, padding included, as transformers counts them.
  """

  def __init__(self, config: LanguageModelConfig, rngs: nnx.Rngs):
    c = self.config = config
    self.table = weight(rngs, (c.vocab, c.width), ("vocab", "embed"), fan_in(c.width))
    block = c.block
    self.blocks = stack_blocks(lambda r: DecoderBlock(block, r, c.norm_eps), c.run, rngs)
    if c.run == c.depth:
      self.gain = weight(rngs, (c.width,), ("embed",), ones)

  def __call__(
    self, ids: jax.Array, mask: jax.Array, dtype=jnp.float32, images: ImageTokens | None = None
  ) -> Tower:
    """Raises ConfigError for a text that is longer than the model's window, and for positions of
    images that it does not have.

    images  tokens of images in place of some of the text's
    """
    c = self.config
    length = ids.shape[1]
    if 0 < c.window < length:
      raise ConfigError(
        f"a text of {length} tokens for a language model with a sliding window of {c.window}: "
        f"use a length of {c.window} at most."
      )
    x = constrain(self.table[...], None, None)[ids].astype(dtype)  # [B, T, D]
    rope = rope_angles(jnp.arange(length)[:, None], c.head_dim, c.rope_theta)
    if images is not None:
      index = images.which[:, :, None]
      placed = jnp.take_along_axis(images.tokens.astype(dtype), jnp.maximum(index, 0), axis=1)
      x = jnp.where(index >= 0, placed, x)
      if images.positions is not None and not c.rope_sections:
        raise ConfigError("positions of images for a language model without rope_sections.")
      if images.positions is not None:
        rope = mrope_angles(images.positions, c.head_dim, c.rope_theta, c.rope_sections)
    x = constrain(x, "batch", "sequence", None)
    causal = causal_mask(mask)
    seen = (jnp.cumsum(mask, axis=1) > 0)[:, :, None, None]

    def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: Visible | None) -> jax.Array:
      # A row without keys, of padding on the left, is 0 in torch's scaled_dot_product_attention.
      return jnp.where(seen, attend(q, k, v, mask), 0)

    wanted = jnp.array(c.taken)[:, None, None, None]

    def call(block, state, layer):
      x, states = state
      x = block(x, lambda site: attention, rope, causal)
      return (x, jnp.where(wanted == layer, x, states)), None

    start = jnp.where(wanted == 0, x, 0)  # [layers, B, T, D]
    (x, states), _ = scan_blocks(self.blocks, (x, start), call, jnp.arange(1, c.run + 1))
    if c.run == c.depth:
      states = jnp.where(wanted == c.depth, rms_norm(x, self.gain, c.norm_eps), states)
    return Tower(jnp.moveaxis(states, 0, 2).reshape(*ids.shape, -1), mask, None)


def causal_mask(mask: jax.Array) -> Mask:
  """Each token, padding included, attends to the tokens at and before it.   mask [B, T] bool"""
  index = jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
  return Mask(jnp.ones(mask.shape, jnp.int32), mask.astype(jnp.int32), index)
