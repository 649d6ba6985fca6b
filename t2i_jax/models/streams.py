"""Blocks of MM-DiT: two streams that attend to each other, and the one stream they may become.

Source: [2403.03206 sec. 4 and fig. 2]; the single stream is the parallel block of [2302.05442].
"""

from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.attention import (
  Attention,
  Heads,
  Mask,
  Rope,
  Visible,
  attend_jointly,
  heads_out,
  padding_mask,
)
from t2i_jax.models.layers import BlockConfig, FeedForward, layer_norm, modulate
from t2i_jax.models.stack import At
from t2i_jax.parallel import constrain

T = TypeVar("T")


class Both(NamedTuple, Generic[T]):
  """A pair, of the text stream and the image stream."""

  text: T
  image: T


def joined(text: Any, image: Any) -> Any:
  """One sequence, text first, of tokens [B, T or L, D] or of angles [..., T or L, K / 2]."""
  return jax.tree.map(lambda *pair: jnp.concatenate(pair, axis=-2), text, image)


def laid(text: jax.Array, image: jax.Array) -> Both[jax.Array]:
  """Both streams, with their sharding."""
  return Both(*(constrain(part, "batch", "sequence", None) for part in (text, image)))


def joint_mask(text_mask: jax.Array, image_tokens: int) -> Mask:
  """Text and image attend to each other, padding to padding.   text_mask [B, T]"""
  image = jnp.ones((text_mask.shape[0], image_tokens), bool)
  both = jnp.concatenate([text_mask, image], axis=1)
  return padding_mask(both, both)


NO_ROPE: Both[Rope | None] = Both(None, None)


class Stream(nnx.Module):
  """One stream's weights in a double block, before and after the joint attention.

  last  of the text stream of a last block: its q, k and v alone (context_pre_only)
  """

  def __init__(self, c: BlockConfig, rngs: nnx.Rngs, *, last: bool = False):
    self.heads = Heads(c, rngs)
    if not last:
      self.out = heads_out(c, rngs)
      self.mlp = FeedForward(c, rngs)

  def qkv(
    self, x: jax.Array, modulation: jax.Array, rope: Rope | None
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """q, k, v of x [B, L, D];   modulation [6, B, D], of which shift and scale are used here"""
    return self.heads(modulate(layer_norm(x), modulation[0], modulation[1]), rope)

  def attn_residual(self, x: jax.Array, attn: jax.Array, modulation: jax.Array) -> jax.Array:
    return x + modulation[2][:, None] * self.out(attn)

  def mlp_residual(self, x: jax.Array, modulation: jax.Array) -> jax.Array:
    shift, scale, gate = modulation[3:6]
    x = x + gate[:, None] * self.mlp(modulate(layer_norm(x), shift, scale))
    return constrain(x, "batch", "sequence", None)


class DoubleBlock(nnx.Module):
  """Text and image with weights of their own, and one attention over both.

  dual  a second attention of the image alone, under three more chunks of its modulation
        [github.com/Stability-AI/sd3.5, MMDiT-X]
  last  the text is not updated after the attention (context_pre_only)
  """

  def __init__(self, c: BlockConfig, rngs: nnx.Rngs, *, dual: bool = False, last: bool = False):
    self.text = Stream(c, rngs, last=last)
    self.image = Stream(c, rngs)
    if dual:
      self.second = Attention(c, rngs)
    self.dual, self.last = dual, last

  def __call__(
    self,
    x: Both[jax.Array],  # [B, T, D], [B, L, D]
    modulation: Both[jax.Array],  # [6 (image 9 if dual, text 2 if last), B, D]
    at: At,
    rope: Both[Rope | None] = NO_ROPE,
    mask: Visible | None = None,
  ) -> Both[jax.Array]:
    text_qkv = self.text.qkv(x.text, modulation.text, rope.text)
    image_qkv = self.image.qkv(x.image, modulation.image, rope.image)
    attn = attend_jointly(text_qkv, image_qkv, mask, at("joint"))
    image = self.image.attn_residual(x.image, attn[1], modulation.image)
    if self.dual:
      shift, scale, gate = modulation.image[6:9]
      h = modulate(layer_norm(x.image), shift, scale)
      image = image + gate[:, None] * self.second(h, attend=at("self"))
    image = self.image.mlp_residual(image, modulation.image)
    if self.last:
      return Both(x.text, image)
    text = self.text.attn_residual(x.text, attn[0], modulation.text)
    return Both(self.text.mlp_residual(text, modulation.text), image)


class SingleBlock(nnx.Module):
  """Attention and MLP beside each other over one sequence, under one norm and one gate."""

  def __init__(self, c: BlockConfig, rngs: nnx.Rngs):
    self.heads = Heads(c, rngs)
    self.out = heads_out(c, rngs)
    self.mlp = FeedForward(c, rngs, down_bias=False)  # that of `out` is of both

  def __call__(
    self,
    x: jax.Array,  # [B, T + L, D]
    modulation: jax.Array,  # [3, B, D]
    at: At,
    rope: Rope | None = None,
    mask: Visible | None = None,
  ) -> jax.Array:
    shift, scale, gate = modulation
    h = modulate(layer_norm(x), shift, scale)
    attn = self.out(at("joint")(*self.heads(h, rope), mask))
    return constrain(x + gate[:, None] * (attn + self.mlp(h)), "batch", "sequence", None)
