"""CLIP's text encoder [2103.00020 sec. 2.4], as OpenAI and OpenCLIP trained it: L, H, bigG."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import Attention, Mask, attend
from t2i_jax.models.conditioning import Tower
from t2i_jax.models.layers import BlockConfig, Dense, FeedForward, LayerNorm
from t2i_jax.models.params import fan_in, scan_blocks, stack_blocks, weight
from t2i_jax.parallel import constrain

ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu_erf"}  # of transformers -> of layers.MLPS
POOLED = ("eos", "projected")
HIGHEST = 2  # as `eos`: the end of a caption is its highest id


@dataclass(frozen=True)
class ClipConfig:
  """The network, and what is taken from it.

  length      rows of the position embedding, maximum number of tokens of a caption
  hidden      width inside the MLP
  activation  "quick_gelu" or "gelu", the erf form
  projection  width of the projected pooled vector; 0: no projection
  eos         id of the end of a caption, whose first occurrence is pooled. 2: the highest id of a
              row is, as transformers reads the published files that have 2. They differ where
              ids above the end were added to the vocabulary

  No weight depends on these:
  layer   whose output are the tokens: -1 the last, -2 the one before it; -(depth + 1) the embedding
  normed  the final LayerNorm is applied to the tokens; None: to those of the last layer alone.
          SDXL and SD3 take layer=-2. Stable Diffusion 1 with clip_skip=k: layer=-(k + 1) and
          normed=True
  pooled  "eos", the state at the end, or "projected"; after the final LayerNorm, and of the last
          layer whatever `layer` is
  masked  padding is masked. No published pipeline does, but for text encoders whose config.json
          has use_attention_mask
  """

  vocab: int
  length: int
  width: int
  depth: int
  heads: int
  hidden: int
  activation: str = "quick_gelu"
  projection: int = 0
  eos: int = 49407
  layer: int = -1
  normed: bool | None = None
  pooled: str = "eos"
  masked: bool = False

  def __post_init__(self) -> None:
    """Raises ConfigError for values that do not fit each other."""
    if self.width % self.heads:
      raise ConfigError(f"clip: width = {self.width} is not a multiple of heads = {self.heads}.")
    for name, known in (("activation", tuple(ACTIVATIONS)), ("pooled", POOLED)):
      if getattr(self, name) not in known:
        raise ConfigError(
          f"clip: {name} = {getattr(self, name)!r} is not one of {', '.join(known)}."
        )
    if self.pooled == "projected" and not self.projection:
      raise ConfigError("clip: pooled = 'projected' and projection = 0: use pooled = 'eos'.")
    if not -(self.depth + 1) <= self.layer <= -1:
      raise ConfigError(
        f"clip: layer = {self.layer} of {self.depth} layers: use -1, the last, "
        f"to {-(self.depth + 1)}, the embedding."
      )

  @property
  def widths(self) -> dict[str, int]:
    pooled = self.projection if self.pooled == "projected" else self.width
    return {"text_width": self.width, "pooled_width": pooled}

  def make(self, rngs: nnx.Rngs) -> "Clip":
    return Clip(self, rngs)


class ClipBlock(nnx.Module):
  """x + attention, x + MLP, each of the normed x [2002.04745 fig. 1b]."""

  def __init__(self, c: BlockConfig, rngs: nnx.Rngs):
    self.attn_norm, self.mlp_norm = LayerNorm(c.width, rngs), LayerNorm(c.width, rngs)
    self.attn, self.mlp = Attention(c, rngs), FeedForward(c, rngs)

  def __call__(self, x: jax.Array, mask: Mask) -> jax.Array:
    x = x + self.attn(self.attn_norm(x), mask=mask, attend=attend)
    return constrain(x + self.mlp(self.mlp_norm(x)), "batch", "sequence", None)


class Clip(nnx.Module):
  """(ids [B, T] int32, mask [B, T] bool) -> Tower, with the mask as it is given.

  Where T is a multiple of the config's length, windows of that length are encoded one by one, and
  their tokens follow each other; pooled is that of the first. Raises ConfigError for another T
  greater than the length.
  """

  def __init__(self, config: ClipConfig, rngs: nnx.Rngs):
    c = self.config = config
    block = BlockConfig(
      c.width, c.heads, c.hidden, mlp=ACTIVATIONS[c.activation], bias=True, qk_norm=False
    )
    self.embedding = weight(rngs, (c.vocab, c.width), ("vocab", "embed"), fan_in(1))
    # "sequence" would shard 77 positions over an axis of the mesh that does not divide them.
    self.place = weight(rngs, (c.length, c.width), (None, "embed"), fan_in(1))
    self.blocks = stack_blocks(lambda r: ClipBlock(block, r), c.depth, rngs)
    self.norm = LayerNorm(c.width, rngs)
    if c.projection:
      self.projection = Dense(rngs, c.width, c.projection, ("embed", None), bias=False)

  def __call__(self, ids: jax.Array, mask: jax.Array, dtype=jnp.float32) -> Tower:
    window, (rows, length) = self.config.length, ids.shape
    if length <= window:
      return self._window(ids, mask, dtype)
    if length % window:
      raise ConfigError(f"clip: captions of {length} tokens, and positions for {window} only.")
    tokens, _, pooled = self._window(ids.reshape(-1, window), mask.reshape(-1, window), dtype)
    assert pooled is not None
    return Tower(tokens.reshape(rows, length, -1), mask, pooled[:: length // window])

  def _window(self, ids: jax.Array, mask: jax.Array, dtype: Any) -> Tower:
    c, length = self.config, ids.shape[1]
    # Replicated on every device: otherwise the compiler gathers the rows of the batch instead.
    table, place = (constrain(w[...], None, None) for w in (self.embedding, self.place))
    x = (table[ids] + place[:length]).astype(dtype)  # [B, T, D]
    x = constrain(x, "batch", "sequence", None)
    tokens, last = self._states(x, self._visible(mask))
    normed = self.norm(last)
    if c.layer == -1:
      tokens = last if c.normed is False else normed
    elif c.normed:
      tokens = self.norm(tokens)
    pooled = normed[jnp.arange(len(ids)), self._ends(ids)]  # [B, D]
    return Tower(tokens, mask, self.projection(pooled) if c.pooled == "projected" else pooled)

  def _visible(self, mask: jax.Array) -> Mask:
    """Causal. Keys that are padding have another document where they are masked."""
    one = jnp.ones(mask.shape, jnp.int32)
    end = jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
    return Mask(one, mask.astype(jnp.int32) if self.config.masked else one, end)

  def _states(self, x: jax.Array, mask: Mask) -> tuple[jax.Array, jax.Array]:
    """The output of the layer that is taken, and of the last.   # [B, T, D] each"""
    c = self.config
    taken = c.depth + c.layer  # index of the block

    def call(block, carry, i):
      x, kept = carry
      x = block(x, mask)
      return (x, jnp.where(i == taken, x, kept)), None

    if c.layer == -1:
      x, _ = scan_blocks(self.blocks, x, lambda block, x, _: (block(x, mask), None))
      return x, x
    # Carried through one scan: outputs of all layers, or a second scan over a slice of the
    # weights, would take memory for each layer.
    (x, kept), _ = scan_blocks(self.blocks, (x, x), call, jnp.arange(c.depth))
    return kept, x

  def _ends(self, ids: jax.Array) -> jax.Array:
    """Where each caption ends.   [B, T] -> [B]"""
    eos = self.config.eos
    return jnp.argmax(ids if eos == HIGHEST else ids == eos, axis=1)
