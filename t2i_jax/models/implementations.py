"""The implementations of the one attention, by the name in config.model.attention.

All agree with "xla" in every row that may see a key. What each is for:

  xla               anything; holds the scores, [B, N, Lq, Lkv] in float32
  chunked           anything; holds the scores of CHUNK queries, recomputes them for the gradient
  by_head           CPUs; chunked, one head of one row at a time: scores that stay in the cache
  splash            TPUs; a fused kernel, which passes over blocks that see nothing of each other
  splash_interpret  the same kernel in Pallas' interpreter, on any device: for tests
  cudnn             NVIDIA GPUs; a fused kernel, bfloat16 or float16
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel import (
  DEFAULT_MASK_VALUE,
  SplashAttentionKernel,
)
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import Attend, Mask, Visible, attend, weighted_values
from t2i_jax.parallel.rules import spec

CHUNK = 256  # queries
LANES = 128  # a TPU's vector: what the kernel's lengths are multiples of
# The largest blocks of queries and keys whose fused backward pass fits 16 MiB of VMEM on a v5p
# with heads of 128 (compiled with libtpu 0.0.42.1).
BLOCK_Q, BLOCK_KV = 768, 1536
NOBODY = -(2**31)  # the document of what pads a length


def chunked(q: jax.Array, k: jax.Array, v: jax.Array, mask: Visible | None = None) -> jax.Array:
  """`attend`, CHUNK queries at a time, each chunk recomputed in the backward pass.

  Memory grows with the length and not with its square, but for a mask that is no `Mask`.
  Source: [2112.05682], chunks of queries alone
  """
  length, chunk = q.shape[1], min(CHUNK, q.shape[1])
  pad = -length % chunk
  parts = lambda x: _padded(x, pad).reshape(len(x), -1, chunk, *x.shape[2:]).swapaxes(0, 1)
  ends: Any = None  # of each chunk: (doc_q, end) of a Mask, or another mask's own rows
  if isinstance(mask, Mask):
    ends = (parts(mask.doc_q), None if mask.end is None else parts(mask.end))
  elif mask is not None:
    allowed = mask.allowed()
    ends = parts(jnp.broadcast_to(allowed, (len(q), length, allowed.shape[-1])))

  @jax.checkpoint
  def one(part, k, v, mask):
    q, ends = part
    if isinstance(mask, Mask):
      ends = Mask(ends[0], mask.doc_kv, ends[1]).allowed()
    return weighted_values(q, k, v, ends)

  out = jax.lax.map(lambda part: one(part, k, v, mask), (parts(q), ends))
  out = out.swapaxes(0, 1).reshape(len(q), length + pad, *q.shape[2:])[:, :length]
  return checkpoint_name(out, "attention")


def by_head(q: jax.Array, k: jax.Array, v: jax.Array, mask: Visible | None = None) -> jax.Array:
  """`attend`, CHUNK queries of one head of one row at a time, recomputed in the backward pass.

  For CPUs, where the scores of all heads leave the cache, and where a matmul whose result is
  [Lkv, K], as the gradients of keys and values are, takes up to ten times as long as one whose
  result is [K, Lkv] (jax 0.10.2): keys and values are [K, Lkv] here. Holds the mask's predicate.
  """

  def own(q: jax.Array, k: jax.Array, v: jax.Array, allowed: jax.Array | None) -> jax.Array:
    length, chunk = q.shape[1], min(CHUNK, q.shape[1])
    pad = -length % chunk
    parts = lambda x: x.reshape(*x.shape[:-2], -1, chunk, x.shape[-1])  # [.., C, chunk, ..]
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    k, v = (jnp.moveaxis(x, 1, 3) for x in (k, v))  # [B, N, K, Lkv]
    rows = (parts(jnp.moveaxis(_padded(q, pad), 1, 2)), k, v)
    seen = None if allowed is None else parts(_padded(allowed, pad))  # [B, C, chunk, Lkv]

    @jax.checkpoint
    def one(q, k, v, allowed):
      scores = jnp.einsum("qk,ks->qs", q, k, preferred_element_type=jnp.float32)
      scores = scores * q.shape[-1] ** -0.5
      if allowed is not None:
        scores = jnp.where(allowed, scores, -1e30)
      return jnp.einsum("qs,ks->qk", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)

    def of_row(row):
      heads, seen = row
      of_head = lambda q, k, v: jax.lax.map(lambda part: one(part[0], k, v, part[1]), (q, seen))
      return jax.lax.map(lambda head: of_head(*head), heads)

    out = jax.lax.map(of_row, (rows, seen))  # [B, N, C, chunk, K]
    out = out.reshape(*out.shape[:2], -1, out.shape[-1])[:, :, :length]
    return jnp.moveaxis(out, 1, 2)

  allowed = None
  if mask is not None:
    allowed = jnp.broadcast_to(mask.allowed(), (len(q), q.shape[1], k.shape[1]))
  return checkpoint_name(_on_each_device(own, q, k, v, allowed), "attention")


def _on_each_device(
  own: Callable[..., jax.Array], q: jax.Array, k: jax.Array, v: jax.Array, mask: Any
) -> jax.Array:
  """own(q, k, v, mask) of each device's share of rows and heads; a mask is shared by rows."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return own(q, k, v, mask)
  of_q, of_kv = (spec(("batch", None, of, None)) for of in ("heads", "kv_heads"))
  rows = of_q[0]
  if len(q) % math.prod(mesh.shape[axis] for axis in rows):
    # A few rows that the mesh does not divide, as when a few images are sampled: all on each.
    rows, of_q, of_kv = None, jax.P(None, *of_q[1:]), jax.P(None, *of_kv[1:])
  shared = jax.shard_map(
    own,
    in_specs=(of_q, of_kv, of_kv, jax.P(rows)),
    out_specs=of_q,
    check_vma=False,  # the kernel does not say over which axes its outputs vary
  )
  return shared(q, k, v, mask)


def _padded(x: jax.Array, pad: int, value: int = 0) -> jax.Array:
  """`pad` more of the second dimension."""
  if not pad:
    return x
  return jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2), constant_values=value)


def _block(length: int, limit: int) -> int:
  """The largest multiple of LANES up to the limit that divides a length."""
  return max(n for n in range(LANES, min(length, limit) + 1, LANES) if length % n == 0)


class Blocks(NamedTuple):
  """The kernel's mask of one row: which blocks of keys its blocks of queries attend to.

  needed    int32 [1, Lq / block, Lkv / block], 1 or 0
  next_kv   the block of keys to fetch: this one, or where it is passed over the next one that is
  next_q    not; the same of queries, for the gradients of keys and values
  """

  needed: jax.Array
  next_kv: jax.Array
  next_q: jax.Array

  @classmethod
  def of(cls, doc_q: jax.Array, doc_kv: jax.Array, end: jax.Array, q: int, kv: int) -> "Blocks":
    """Of blocks of q queries and kv keys: by the ranges of documents and ends in each.

    doc_q, end [Lq], doc_kv [Lkv]: of one row's `Mask`.
    """
    doc_q, doc_kv, end = doc_q.reshape(-1, q), doc_kv.reshape(-1, kv), end.reshape(-1, q)
    needed = (doc_q.min(1)[:, None] <= doc_kv.max(1)) & (doc_q.max(1)[:, None] >= doc_kv.min(1))
    needed &= jnp.arange(len(doc_kv)) * kv <= end.max(1)[:, None]
    # Without a single key the softmax of a row has no sum.
    needed = needed.at[:, 0].set(needed[:, 0] | ~needed.any(1))
    return cls(needed[None].astype(jnp.int32), _next(needed)[None], _next(needed.T).T[None])


def _next(needed: jax.Array) -> jax.Array:
  """Of each place in a row the next one that is needed, or behind it the last.   [A, B] -> int32"""
  places = jnp.arange(needed.shape[1], dtype=jnp.int32)
  beyond = len(places)
  ahead = jax.lax.cummin(jnp.where(needed, places, beyond), axis=1, reverse=True)
  last = jnp.max(jnp.where(needed, places, 0), axis=1, keepdims=True)
  return jnp.where(ahead == beyond, last, ahead)


def _until(end: jax.Array, key: jax.Array) -> jax.Array:
  """The kernel's mask function, of each query's `end` and each key's index."""
  return key <= end


def _kernel(lq: int, lkv: int, mask: Mask | None, interpret: bool) -> SplashAttentionKernel:
  """(q [N, Lq, K], k, v [Nkv, Lkv, K], SegmentIds or None) -> [N, Lq, K], of one row.

  Where a row is causal, blocks that see nothing of each other are passed over.
  """
  q, kv = _block(lq, BLOCK_Q), _block(lkv, BLOCK_KV)
  sizes = splash.BlockSizes(
    block_q=q, block_kv=kv, block_q_dkv=q, block_kv_dkv=kv, use_fused_bwd_kernel=True
  )
  forward = backward = MaskInfo(None, None, None, None, None)
  if mask is not None and mask.end is not None:
    blocks = Blocks.of(mask.doc_q, mask.doc_kv, mask.end, q, kv)
    end: Any = mask.end  # annotated as numpy's there
    forward = MaskInfo(blocks.next_kv, None, blocks.needed, None, end)
    backward = forward._replace(data_next=blocks.next_q)
  return SplashAttentionKernel(
    forward,
    None,
    backward,
    block_sizes=sizes,
    is_mqa=False,
    save_residuals=False,
    mask_value=DEFAULT_MASK_VALUE,
    attn_logits_soft_cap=None,
    # Under this name the kernel's output and its log-sum-exp are both saved by the policies that
    # save "attention": with the output alone, the backward pass would run it a second time.
    residual_checkpoint_name="attention",
    mask_function=None if mask is None or mask.end is None else _until,
    interpret=interpret,
  )


def _splash(
  q: jax.Array, k: jax.Array, v: jax.Array, mask: Visible | None = None, *, interpret: bool
) -> jax.Array:
  """The kernel of jax.experimental.pallas.ops.tpu.splash_attention, on each device's own share.

  Documents become its segments, and what pads a length to a multiple of 128 one of its own. The
  scores are float32, the gradients of q by blocks of keys are summed in q's dtype.
  Raises ConfigError for a mask that is no `Mask`.
  """
  if mask is not None and not isinstance(mask, Mask):
    raise ConfigError(
      "model.attention = 'splash' takes documents (padding, packing, causality) and no other mask. "
      "Use model.attention = 'chunked'."
    )
  lq, lkv = q.shape[1], k.shape[1]
  pad_q, pad_kv = -lq % LANES, -lkv % LANES
  if mask is None and (pad_q or pad_kv):
    mask = Mask(jnp.zeros((len(q), lq), jnp.int32), jnp.zeros((len(q), lkv), jnp.int32))
  if mask is not None:
    end = None if mask.end is None else _padded(mask.end, pad_q, lkv + pad_kv)
    mask = Mask(_padded(mask.doc_q, pad_q, NOBODY), _padded(mask.doc_kv, pad_kv, NOBODY), end)
  q = (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)
  q, k, v = _padded(q, pad_q), _padded(k, pad_kv), _padded(v, pad_kv)

  def of_row(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask | None) -> Any:
    kernel = _kernel(q.shape[1], k.shape[1], mask, interpret)
    return kernel(q, k, v, None if mask is None else splash.SegmentIds(mask.doc_q, mask.doc_kv))

  def own(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask | None) -> jax.Array:
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))  # [B, N, L, K]
    return jax.vmap(of_row)(q, k, v, mask).swapaxes(1, 2)

  return _on_each_device(own, q, k, v, mask)[:, :lq]


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array, mask: Visible | None = None) -> jax.Array:
  """cuDNN's fused attention. Not run: no GPU was at hand when this was written.

  A mask is handed over as [B, 1, Lq, Lkv]: in joint rows, padded text stands before the image, so
  that the kernel's own lengths of rows would not say it.   Raises ConfigError for float32.
  """
  if q.dtype not in (jnp.bfloat16, jnp.float16):
    raise ConfigError(
      f"model.attention = 'cudnn' computes in bfloat16, and model.dtype makes {q.dtype} of it. "
      "Use model.dtype = 'bfloat16', or model.attention = 'chunked'."
    )
  allowed = None if mask is None else mask.allowed()[:, None]
  out = jax.nn.dot_product_attention(q, k, v, mask=allowed, implementation="cudnn")
  return checkpoint_name(out, "attention")


ATTENTIONS: dict[str, Attend] = {
  "xla": attend,
  "chunked": chunked,
  "by_head": by_head,
  "splash": functools.partial(_splash, interpret=False),
  "splash_interpret": functools.partial(_splash, interpret=True),
  "cudnn": cudnn,
}
