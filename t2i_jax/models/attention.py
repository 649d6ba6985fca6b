"""The one attention. What may see what is said by integers, never by an N x N array.

    allowed(i, j) = doc_q[i] == doc_kv[j] and j <= end[i]

covers padding (another doc), causality (end[i] = i), packing, and bidirectional images inside a
causal row (end = the image's last index).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.layers import project, rms_norm, rotate
from t2i_jax.models.params import fan_in, ones, weight


class Visible(Protocol):
  """Anything that says what may see what."""

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
  """Real tokens see real tokens; padding sees padding, so that no row of softmax is empty."""
  return Mask(mask_q.astype(jnp.int32), mask_kv.astype(jnp.int32))


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: Visible | None = None) -> jax.Array:
  """Scaled dot-product attention; scores and softmax in float32.   # [B, Lq, N, K]

      softmax(q k / sqrt(K)) v        [1706.03762 eq. 1]

  q [B, Lq, N, K]; k, v [B, Lkv, Nkv, K] with N a multiple of Nkv (grouped queries).
  A query that no key may answer averages all values: give padding a document of its own.
  """
  groups = q.shape[2] // k.shape[2]
  q = q.reshape(*q.shape[:2], k.shape[2], groups, q.shape[3])
  scores = jnp.einsum("bqngk,bsnk->bngqs", q, k, preferred_element_type=jnp.float32)
  scores = scores * q.shape[-1] ** -0.5
  if mask is not None:
    scores = jnp.where(mask.allowed()[:, None, None], scores, -1e30)
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  out = jnp.einsum("bngqs,bsnk->bqngk", weights, v)
  return out.reshape(*out.shape[:2], -1, out.shape[-1])


# (q, k, v, mask) -> [B, Lq, N, K]: `attend`, or what a control puts in its place.
Attend = Callable[[jax.Array, jax.Array, jax.Array, Mask | None], jax.Array]


class Attention(nnx.Module):
  """Projections around `attend`: self-attention, or cross-attention where `kv` is given.

  qk_norm: RMS norm of each head's q and k with a learned gain [2302.05442 sec. 2; RMS for LN].
  """

  def __init__(self, width: int, heads: int, rngs: nnx.Rngs, *, kv_width: int | None = None):
    d, kv_d, k = width, kv_width or width, width // heads
    self.q = weight(rngs, (d, heads, k), ("embed", "heads", "head_dim"), fan_in(d), ((0,), (1, 2)))
    self.kv = weight(
      rngs, (kv_d, 2, heads, k), ("embed", None, "kv_heads", "head_dim"), fan_in(kv_d),
      ((0,), (2, 3)),
    )  # fmt: skip
    self.q_gain = weight(rngs, (k,), ("head_dim",), ones)
    self.k_gain = weight(rngs, (k,), ("head_dim",), ones)
    self.out = weight(
      rngs, (heads, k, d), ("heads", "head_dim", "embed"), fan_in(d), ((0, 1), (2,))
    )

  def __call__(
    self,
    x: jax.Array,  # [B, L, D]
    *,
    kv: jax.Array | None = None,  # [B, T, Dkv]
    rope: tuple[jax.Array, jax.Array] | None = None,  # cos, sin [L, K / 2]
    mask: Mask | None = None,
    attend: Attend = attend,
  ) -> jax.Array:
    q = rms_norm(project("bld,dnk->blnk", x, self.q), self.q_gain)
    pair = project("bld,dcnk->bclnk", x if kv is None else kv, self.kv)  # [B, 2, T, N, K]
    k, v = rms_norm(pair[:, 0], self.k_gain), pair[:, 1]
    if rope is not None:
      q, k = rotate(q, *rope), rotate(k, *rope)
    return project("blnk,nkd->bld", attend(q, k, v, mask), self.out)
