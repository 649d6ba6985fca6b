"""The encoder of BERT [1810.04805 sec. 3], as sentence encoders and language tasks use it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import Attention, Mask, attend
from t2i_jax.models.conditioning import Tower
from t2i_jax.models.layers import BlockConfig, Dense, FeedForward, LayerNorm
from t2i_jax.models.params import fan_in, scan_blocks, stack_blocks, weight
from t2i_jax.parallel import constrain

EPS = 1e-12  # of the norms
POOLED = ("first", "mean")


@dataclass(frozen=True)
class BertConfig:
  """The network, and what is taken from it.

  length  rows of the position embedding, maximum number of tokens of a caption
  hidden  width inside the MLP
  types   rows of the embedding of token types, of which 0 alone is used: a caption is one text

  No weight depends on these:
  layer   whose output are the tokens: -1 the last; -(depth + 1) the embedding
  pooled  "first": tanh of a Dense of the last state of the first token, [CLS]; "mean": the mean of
          the last states of all tokens but padding [1908.10084 sec. 3]. A sentence encoder compares
          means by their cosine
  masked  padding is masked, as every sentence encoder does
  """

  vocab: int
  length: int
  width: int
  depth: int
  heads: int
  hidden: int
  types: int = 2
  layer: int = -1
  pooled: str = "first"
  masked: bool = False

  def __post_init__(self) -> None:
    """Raises ConfigError for values that do not fit each other."""
    if self.width % self.heads:
      raise ConfigError(f"bert: width = {self.width} is not a multiple of heads = {self.heads}.")
    if self.pooled not in POOLED:
      raise ConfigError(f"bert: pooled = {self.pooled!r} is not one of {', '.join(POOLED)}.")
    if not -(self.depth + 1) <= self.layer <= -1:
      raise ConfigError(
        f"bert: layer = {self.layer} of {self.depth} layers: use -1, the last, "
        f"to {-(self.depth + 1)}, the embedding."
      )

  @property
  def widths(self) -> dict[str, int]:
    return {"text_width": self.width, "pooled_width": self.width}

  def make(self, rngs: nnx.Rngs) -> "Bert":
    return Bert(self, rngs)


class BertBlock(nnx.Module):
  """norm(x + attention(x)), norm(x + MLP(x)) [1706.03762 sec. 3.1], the GELU's erf form."""

  def __init__(self, c: BlockConfig, rngs: nnx.Rngs):
    self.attn, self.mlp = Attention(c, rngs), FeedForward(c, rngs)
    self.attn_norm, self.mlp_norm = LayerNorm(c.width, rngs, EPS), LayerNorm(c.width, rngs, EPS)

  def __call__(self, x: jax.Array, mask: Mask | None) -> jax.Array:
    x = self.attn_norm(x + self.attn(x, mask=mask, attend=attend))
    return constrain(self.mlp_norm(x + self.mlp(x)), "batch", "sequence", None)


class Bert(nnx.Module):
  """(ids [B, T] int32, mask [B, T] bool) -> Tower, with the mask as it is given.

  Raises ConfigError for a T greater than the config's length.
  """

  def __init__(self, config: BertConfig, rngs: nnx.Rngs):
    c = self.config = config
    block = BlockConfig(c.width, c.heads, c.hidden, mlp="gelu_erf", bias=True, qk_norm=False)
    self.embedding = weight(rngs, (c.vocab, c.width), ("vocab", "embed"), fan_in(1))
    self.place = weight(rngs, (c.length, c.width), (None, "embed"), fan_in(1))
    self.type = weight(rngs, (c.types, c.width), (None, "embed"), fan_in(1))
    self.norm = LayerNorm(c.width, rngs, EPS)
    self.blocks = stack_blocks(lambda r: BertBlock(block, r), c.depth, rngs)
    self.pooler = Dense(rngs, c.width, c.width, ("embed", None))

  def __call__(self, ids: jax.Array, mask: jax.Array, dtype=jnp.float32) -> Tower:
    c, length = self.config, ids.shape[1]
    if length > c.length:
      raise ConfigError(f"bert: captions of {length} tokens, and positions for {c.length} only.")
    # Replicated on every device: otherwise the compiler gathers the rows of the batch instead.
    table, place = (constrain(w[...], None, None) for w in (self.embedding, self.place))
    x = self.norm((table[ids] + self.type[0] + place[:length]).astype(dtype))  # [B, T, D]
    tokens, last = self._states(constrain(x, "batch", "sequence", None), mask)
    if c.pooled == "first":
      return Tower(tokens, mask, jnp.tanh(self.pooler(last[:, 0])))
    count = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
    kept = jnp.where(mask[..., None], last.astype(jnp.float32), 0)
    return Tower(tokens, mask, (jnp.sum(kept, axis=1) / count).astype(dtype))

  def _states(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The output of the layer that is taken, and of the last.   # [B, T, D] each"""
    # Padding is seen by no token, and by no padding either, as transformers has it.
    keys = mask.astype(jnp.int32)
    visible = Mask(jnp.ones_like(keys), keys) if self.config.masked else None
    taken = self.config.depth + self.config.layer  # index of the block

    def call(block, carry, i):
      x, kept = carry
      x = block(x, visible)
      return (x, jnp.where(i == taken, x, kept)), None

    if self.config.layer == -1:
      x, _ = scan_blocks(self.blocks, x, lambda block, x, _: (block(x, visible), None))
      return x, x
    (x, kept), _ = scan_blocks(self.blocks, (x, x), call, jnp.arange(self.config.depth))
    return kept, x
