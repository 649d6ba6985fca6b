"""The one attention. Its masks are integers of each token, never an N x N array.

    allowed(i, j) = doc_q[i] == doc_kv[j] and j <= end[i]

covers padding (another doc), causality (end[i] = i), packing, and bidirectional images inside a
causal row (end = the image's last index).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from t2i_jax.models.layers import BlockConfig, Dense, rms_norm
from t2i_jax.models.params import ones, weight
from t2i_jax.models.positions import rotate


class Visible(Protocol):
  """A mask: which queries attend to which keys."""

  def allowed(self) -> jax.Array:
    """[B, Lq, Lkv] bool, or a shape that broadcasts to it."""


class Mask(NamedTuple):
  """doc_q [B, Lq], doc_kv [B, Lkv] int; end [B, Lq] int, or None where nothing is causal."""

  doc_q: jax.Array
  doc_kv: jax.Array
  end: jax.Array | None = None

  def allowed(self) -> jax.Array:
    """The predicate for short rows.   # [B, Lq, Lkv] bool"""
    same = self.doc_q[:, :, None] == self.doc_kv[:, None, :]
    if self.end is None:
      return same
    return same & (jnp.arange(self.doc_kv.shape[1]) <= self.end[:, :, None])


def padding_mask(mask_q: jax.Array, mask_kv: jax.Array) -> Mask:
  """Tokens attend to tokens, padding to padding, so that no row of softmax is empty."""
  return Mask(mask_q.astype(jnp.int32), mask_kv.astype(jnp.int32))


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: Visible | None = None) -> jax.Array:
  """Scaled dot-product attention; scores and softmax in float32.   # [B, Lq, N, K]

      softmax(q k / sqrt(K)) v        [1706.03762 eq. 1]

  q [B, Lq, N, K]; k, v [B, Lkv, Nkv, K] with N a multiple of Nkv (grouped queries).
  A query that attends to no key averages all values: give padding a document of its own.
  """
  out = weighted_values(q, k, v, None if mask is None else mask.allowed())
  return checkpoint_name(out, "attention")


def weighted_values(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  allowed: jax.Array | None,
  *,
  bias: jax.Array | None = None,
  scale: float | None = None,
) -> jax.Array:
  """`attend`, of a mask as a predicate [B, Lq, Lkv], without its name for rematerialisation.

  bias   [N, Lq, Lkv] float32, added to the scores
  scale  of the scores; None: 1 / sqrt(K)
  """
  return applied(attention_weights(q, k, allowed, bias=bias, scale=scale), v)


def attention_weights(
  q: jax.Array,
  k: jax.Array,
  allowed: jax.Array | None,
  *,
  bias: jax.Array | None = None,
  scale: float | None = None,
) -> jax.Array:
  """The softmax of the scores, by heads of k and the queries' heads of each of these, float32.

  # [B, Nkv, N / Nkv, Lq, Lkv]   Arguments as of `weighted_values`.
  """
  groups = q.shape[2] // k.shape[2]
  q = q.reshape(*q.shape[:2], k.shape[2], groups, q.shape[3])
  scores = _einsum("bqngk,bsnk->bngqs", q, k, jnp.float32)
  scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
  if bias is not None:
    scores = scores + bias.reshape(scores.shape[1:3] + bias.shape[1:])
  if allowed is not None:
    scores = jnp.where(allowed[:, None, None], scores, -1e30)
  return jax.nn.softmax(scores, axis=-1)


def applied(weights: jax.Array, v: jax.Array) -> jax.Array:
  """Values [B, Lkv, Nkv, K], weighted as `attention_weights` gives them.   # [B, Lq, N, K]"""
  out = _einsum("bngqs,bsnk->bqngk", weights.astype(v.dtype), v, v.dtype)
  return out.reshape(*out.shape[:2], -1, out.shape[-1])


def _einsum(equation: str, a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
  """einsum(equation, a, b) to a dtype, on a CPU with the operands changed round.

  jnp.einsum multiplies its second operand by its first. For scores that transposes all of them on a
  CPU: four times the time of attention over 1,024 tokens (jax 0.10.2), where a TPU's compiler
  chooses layouts itself and needs up to twice the memory in the other order (v5e).
  """
  inputs, output = equation.split("->")
  first, second = inputs.split(",")
  as_given = partial(jnp.einsum, equation, preferred_element_type=dtype)
  changed = partial(jnp.einsum, f"{second},{first}->{output}", preferred_element_type=dtype)
  on_cpu = lambda a, b: changed(b, a)
  return jax.lax.platform_dependent(a, b, cpu=on_cpu, default=as_given)


# (q, k, v, mask) -> [B, Lq, N, K]: `attend`, or what a control puts in its place.
Attend = Callable[[jax.Array, jax.Array, jax.Array, Visible | None], jax.Array]
Rope = tuple[jax.Array, jax.Array]  # cos, sin [L, K / 2], or [B, L, K / 2]


class Heads(nnx.Module):
  """q, k and v of one stream of tokens, of another one's k and v where `kv` is given.

  qk_norm: RMS norm of each head's q and k with a learned gain [2302.05442 sec. 2; RMS for LN].
  """

  def __init__(self, c: BlockConfig, rngs: nnx.Rngs, *, kv_width: int | None = None):
    d, n, k = c.width, c.heads, c.head_width
    axes, bias = ("embed", "heads", "head_dim"), c.bias or c.qkv_bias
    self.q = Dense(rngs, d, (n, k), axes, bias=bias, matrix=((0,), (1, 2)))
    self.kv = Dense(
      rngs, kv_width or d, (2, c.kv_heads or n, k), ("embed", None, "kv_heads", "head_dim"),
      bias=bias, matrix=((0,), (2, 3)), slots=True,
    )  # fmt: skip
    self.eps, self.qk_norm = c.qk_eps, c.qk_norm
    if c.qk_norm:
      self.q_gain = weight(rngs, (k,), ("head_dim",), ones)
      self.k_gain = weight(rngs, (k,), ("head_dim",), ones)

  def __call__(
    self, x: jax.Array, rope: Rope | None = None, kv: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x [B, L, D], kv [B, T, Dkv] -> q [B, L, N, K], k and v [B, T, Nkv, K]"""
    q, pair = self.q(x), self.kv(x if kv is None else kv)  # pair [B, T, 2, Nkv, K]
    k, v = pair[:, :, 0], pair[:, :, 1]
    if self.qk_norm:
      q, k = rms_norm(q, self.q_gain, self.eps), rms_norm(k, self.k_gain, self.eps)
    if rope is not None:
      q, k = rotate(q, *rope), rotate(k, *rope)
    return tuple(checkpoint_name(part, "qkv") for part in (q, k, v))


def heads_out(c: BlockConfig, rngs: nnx.Rngs, *, bias: bool | None = None) -> Dense:
  """The projection [N, K] -> D of the attention output."""
  n, k = c.heads, c.head_width
  axes = ("heads", "head_dim", "embed")
  bias = c.bias if bias is None else bias
  return Dense(rngs, (n, k), c.width, axes, bias=bias, matrix=((0, 1), (2,)))


class Attention(Heads):
  """Self-attention, or cross-attention where `kv` is given, with its output projection."""

  def __init__(self, c: BlockConfig, rngs: nnx.Rngs, *, kv_width: int | None = None):
    super().__init__(c, rngs, kv_width=kv_width)
    self.out = heads_out(c, rngs)

  def __call__(  # type: ignore[override]
    self,
    x: jax.Array,  # [B, L, D]
    *,
    kv: jax.Array | None = None,  # [B, T, Dkv]
    rope: Rope | None = None,
    mask: Visible | None = None,
    attend: Attend = attend,
  ) -> jax.Array:
    return self.out(attend(*super().__call__(x, rope, kv), mask))


def attend_jointly(
  text: tuple[jax.Array, ...], image: tuple[jax.Array, ...], mask: Visible | None, attend: Attend
) -> tuple[jax.Array, jax.Array]:
  """One attention over text and image tokens, text first, given the (q, k, v) of each stream.

  Source: [2403.03206 sec. 4]
  """
  q, k, v = (jnp.concatenate(pair, axis=1) for pair in zip(text, image, strict=True))
  out = attend(q, k, v, mask)
  length = text[0].shape[1]
  return out[:, :length], out[:, length:]
