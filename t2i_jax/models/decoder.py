"""A language model's stack of blocks: RMS norms with gains, grouped queries, SwiGLU, RoPE.

Llama [2302.13971 sec. 2.2], Qwen3 with qk-norm [2505.09388 sec. 2]. Used with a cache of keys and
values or without.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.attention import Attention, Mask, Rope, Visible, attend
from t2i_jax.models.layers import BlockConfig, FeedForward, rms_norm
from t2i_jax.models.params import ones, scan_blocks, weight
from t2i_jax.models.stack import At
from t2i_jax.parallel import constrain


class DecoderBlock(nnx.Module):
  """x + attention, x + MLP, each of x normed by a gain of its own.

  eps  of the norms
  """

  def __init__(self, c: BlockConfig, rngs: nnx.Rngs, eps: float):
    self.attn = Attention(c, rngs)
    self.mlp = FeedForward(c, rngs)
    self.attn_gain = weight(rngs, (c.width,), ("embed",), ones)
    self.mlp_gain = weight(rngs, (c.width,), ("embed",), ones)
    self.eps = eps

  def __call__(
    self,
    x: jax.Array,  # [B, L, D]
    at: At,
    rope: Rope,
    mask: Visible | None,
    modulation: jax.Array | None = None,  # [6, B, L, D], by position
  ) -> jax.Array:
    shift, scale, gate, *of_mlp = (0,) * 6 if modulation is None else modulation
    h = rms_norm(x, self.attn_gain, self.eps) * (1 + scale) + shift
    x = x + self.attn(h, rope=rope, mask=mask, attend=at("self")) * (1 + gate)
    shift, scale, gate = of_mlp
    h = rms_norm(x, self.mlp_gain, self.eps) * (1 + scale) + shift
    x = x + self.mlp(h) * (1 + gate)
    return constrain(x, "batch", "sequence", None)


def by_position(modulation: jax.Array, which: jax.Array) -> jax.Array:
  """modulation [6, B, N, D] of N images, laid out by position: 0 where which = -1.

  which [B, L] -> [6, B, L, D]
  """
  found = jnp.take_along_axis(modulation, jnp.maximum(which, 0)[None, :, :, None], axis=2)
  return jnp.where((which >= 0)[None, :, :, None], found, 0)


class Cache(NamedTuple):
  """Keys and values of what has been read, of all layers, and the next position of each row.

  k, v      [layers, B, M, Nkv, K]
  used      [B] int32, slots in use
  position [B] float32, the rotary position of the next token
  """

  k: Any
  v: Any
  used: Any
  position: Any

  @classmethod
  def empty(cls, c: BlockConfig, layers: int, rows: int, slots: int, dtype: Any) -> "Cache":
    zeros = jnp.zeros((layers, rows, slots, c.kv_heads or c.heads, c.head_width), dtype)
    return cls(zeros, zeros, jnp.zeros(rows, jnp.int32), jnp.zeros(rows, jnp.float32))


def extend_cache(
  blocks: nnx.Module,
  x: jax.Array,
  cache: Cache,
  rope: Rope,
  bidirectional: bool,
  modulation: tuple[jax.Array, jax.Array] | None = None,
) -> tuple[jax.Array, Cache]:
  """x [B, S, D] after the tokens of the cache: the last block's x, and the cache with x's k and v.

  `used` is unchanged: the caller adds how many of the S slots are in use. The others are masked,
  and overwritten later.

  modulation  of all layers [layers, 6, B, N, D], and which of the N each position takes [B, S]
  """
  length = x.shape[1]
  slots = cache.used[:, None] + jnp.arange(length)  # [B, S]
  end = jnp.broadcast_to(slots[:, -1:], slots.shape) if bidirectional else slots
  one_document = jnp.zeros((len(x), cache.k.shape[2]), jnp.int32)
  mask = Mask(jnp.zeros_like(slots), one_document, end)
  rows = jnp.arange(len(x))[:, None]

  def call(block, x, layer):
    (k_old, v_old), of_layer = layer
    new: list[Any] = []

    def attention(q, k, v, mask):
      k = k_old.at[rows, slots].set(k.astype(k_old.dtype))
      v = v_old.at[rows, slots].set(v.astype(v_old.dtype))
      new.append((k, v))
      return attend(q, k.astype(q.dtype), v.astype(q.dtype), mask)

    here = None if modulation is None else by_position(of_layer, modulation[1])
    return block(x, lambda site: attention, rope, mask, here), new[0]

  of_layers = None if modulation is None else modulation[0]
  x, (k, v) = scan_blocks(blocks, x, call, ((cache.k, cache.v), of_layers))
  return x, cache._replace(k=k, v=v)
