"""The encoder of T5 [1910.10683 sec. 2.1], and of its version 1.1."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import Attend, Attention, Mask, Visible, weighted_values
from t2i_jax.models.conditioning import Tower
from t2i_jax.models.layers import BlockConfig, FeedForward, rms_norm
from t2i_jax.models.params import fan_in, ones, scan_blocks, stack_blocks, weight
from t2i_jax.parallel import constrain

EPS = 1e-6  # of the norms
MLP_KINDS = ("geglu", "relu")


@dataclass(frozen=True)
class T5Config:
  """A tower without a pooled output, for captions of any length.

  head_dim      heads times it may differ from the width
  hidden        width inside the MLP
  mlp           "geglu", tanh form, of version 1.1 [2002.05202 sec. 2]; "relu" of the first
  buckets       of relative positions, half of them for each direction
  max_distance  in tokens, from which on all distances are one bucket
  masked        padding is masked: PixArt does, SD3 and FLUX do not. No weight depends on it
  """

  vocab: int
  width: int
  depth: int
  heads: int
  head_dim: int
  hidden: int
  mlp: str = "geglu"
  buckets: int = 32
  max_distance: int = 128
  masked: bool = False

  def __post_init__(self) -> None:
    """Raises ConfigError for values that do not fit each other."""
    if self.mlp not in MLP_KINDS:
      raise ConfigError(f"t5: mlp = {self.mlp!r} is not one of {', '.join(MLP_KINDS)}.")
    if self.buckets % 4 or self.max_distance <= self.buckets // 4:
      raise ConfigError(
        f"t5: buckets = {self.buckets}, max_distance = {self.max_distance}: buckets must be a "
        "multiple of 4, and max_distance greater than a quarter of them."
      )

  @property
  def widths(self) -> dict[str, int]:
    return {"text_width": self.width}

  def make(self, rngs: nnx.Rngs) -> "T5":
    return T5(self, rngs)


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
  """The bucket of each distance key - query from 1 - length to length - 1.   # [2 length - 1] int32

  Half of the buckets are for keys behind the query. Of each half, the first half is for one
  distance each, and the other's bounds grow geometrically up to max_distance.
  Source: [1910.10683 sec. 2.1], its code
  """
  distance = np.arange(1 - length, length, dtype=np.int32)
  half, single = buckets // 2, buckets // 4
  # float32 as in the published code: in float64 a bound may fall to the other side.
  far = np.log(np.maximum(np.abs(distance), 1).astype(np.float32) / np.float32(single))
  far = far / np.float32(np.log(max_distance / single)) * np.float32(half - single)
  grown = np.minimum(single + far.astype(np.int32), half - 1)
  found = np.where(np.abs(distance) < single, np.abs(distance), grown)
  return (found + half * (distance > 0)).astype(np.int32)


def biased(bias: jax.Array) -> Attend:
  """Attention with this bias [N, T, T] in place of the scale 1 / sqrt(K).

  No kernel of models.implementations takes a bias, and captions are of 512 tokens at most: the
  scores, 64 MiB a row in float32 for 64 heads, are held as `attend` does, whose code this is.
  """

  def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: Visible | None) -> jax.Array:
    return weighted_values(q, k, v, None if mask is None else mask.allowed(), bias=bias, scale=1.0)

  return attend


class T5Block(nnx.Module):
  """x + attention, x + MLP, each of x normed by a gain of its own."""

  def __init__(self, c: BlockConfig, rngs: nnx.Rngs):
    self.attn, self.mlp = Attention(c, rngs), FeedForward(c, rngs)
    self.attn_gain = weight(rngs, (c.width,), ("embed",), ones)
    self.mlp_gain = weight(rngs, (c.width,), ("embed",), ones)

  def __call__(self, x: jax.Array, attend: Attend, mask: Visible | None) -> jax.Array:
    x = x + self.attn(rms_norm(x, self.attn_gain, EPS), mask=mask, attend=attend)
    x = x + self.mlp(rms_norm(x, self.mlp_gain, EPS))
    return constrain(x, "batch", "sequence", None)


class T5(nnx.Module):
  """(ids [B, T] int32, mask [B, T] bool) -> Tower, with the mask as it is given."""

  def __init__(self, config: T5Config, rngs: nnx.Rngs):
    c = self.config = config
    block = BlockConfig(
      c.width, c.heads, c.hidden, mlp=c.mlp, bias=False, qk_norm=False, head_dim=c.head_dim
    )
    self.embedding = weight(rngs, (c.vocab, c.width), ("vocab", "embed"), fan_in(1))
    self.bias_table = weight(rngs, (c.buckets, c.heads), (None, "heads"), fan_in(c.width))
    self.blocks = stack_blocks(lambda r: T5Block(block, r), c.depth, rngs)
    self.gain = weight(rngs, (c.width,), ("embed",), ones)

  def __call__(self, ids: jax.Array, mask: jax.Array, dtype=jnp.float32) -> Tower:
    # Replicated on every device: otherwise the compiler gathers the rows of the batch instead.
    x = constrain(self.embedding[...], None, None)[ids].astype(dtype)  # [B, T, D]
    x = constrain(x, "batch", "sequence", None)
    attend = biased(self._bias(ids.shape[1]))
    # Padding is seen by no token, and by no padding either, as transformers has it.
    keys = mask.astype(jnp.int32)
    visible = Mask(jnp.ones_like(keys), keys) if self.config.masked else None
    call = lambda block, x, _: (block(x, attend, visible), None)
    x = rms_norm(scan_blocks(self.blocks, x, call)[0], self.gain, EPS)
    return Tower(x, mask, None)

  def _bias(self, length: int) -> jax.Array:
    """The bias of each head, the same in all layers.   # [N, T, T] float32"""
    c = self.config
    of_distance = self.bias_table[...][relative_buckets(length, c.buckets, c.max_distance)]
    place = jnp.arange(length)
    index = place[None, :] - place[:, None] + length - 1  # [query, key]
    return of_distance.T[:, index]
