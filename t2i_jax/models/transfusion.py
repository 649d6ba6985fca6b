"""Transfusion: one decoder over tokens and patches, which writes the ones and draws the others.

Source: [2408.11039]. A language model reads rows of documents (data.documents); in the place of a
patch stands its projection, and what comes out there is the answer of a denoiser.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import Mask
from t2i_jax.models.conditioning import Conditioning
from t2i_jax.models.decoder import Cache, DecoderBlock, by_position, read_on
from t2i_jax.models.layers import (
  BlockConfig,
  Modulation,
  TimeEmbedder,
  check_heads,
  project,
  rms_norm,
  rope_alternating,
  sincos_grid,
)
from t2i_jax.models.params import fan_in, ones, stack_blocks, weight
from t2i_jax.models.patches import LinearPatches, UNetPatches
from t2i_jax.models.stack import Runs, Stacks
from t2i_jax.parallel import constrain

TIMES = ("added", "adaln")
CHUNK = 512  # positions whose logits are held at once


@dataclass(frozen=True)
class TransfusionConfig(Runs):
  """patch and channels are of a picture, out of the answer; vocab with BOI and EOI.

  hidden        width inside the MLP, 0 = 8/3 of the width in whole 256s [2302.13971 sec. 2.2]
  rope_scaling  factor, low, high and length of layers.slowed, as Llama 3 has them; () = none
  time          how a picture's t reaches its patches: "added" to their projections [2408.11039 sec.
                3.1], or "adaln": shift, scale and gate in every block, at patches alone
  absolute      a patch's place in its own picture is added to its projection, as sines and cosines;
                so it finds the same place of another picture [2505.14683, its code]
  tied          the head is the table of tokens
  unet          channels at full size of the U-Net blocks that make patches; 0: one matrix does
  """

  vocab: int
  width: int
  depth: int
  heads: int
  patch: int
  channels: int
  out: int
  kv_heads: int = 0
  head_dim: int = 0
  hidden: int = 0
  qk_norm: bool = False
  rope_theta: float = 10_000.0
  rope_scaling: tuple[float, ...] = ()
  norm_eps: float = 1e-5
  time: str = "added"
  absolute: bool = False
  tied: bool = False
  unet: int = 0

  def __post_init__(self):
    super().__post_init__()
    if not self.head_dim:
      check_heads(self.width, self.heads, 2)
    if self.unet and self.patch & (self.patch - 1):
      raise ConfigError(f"model.unet halves the picture: model.patch = {self.patch} is no 2^n.")
    if self.time not in TIMES:
      raise ConfigError(f"model.time = {self.time!r} is not one of {', '.join(TIMES)}.")
    if self.absolute and self.width % 4:
      raise ConfigError(f"data.rows: absolute = True needs model.width = {self.width} in fours.")
    if len(self.rope_scaling) not in (0, 4):
      raise ConfigError(
        f"model.rope_scaling = {self.rope_scaling} is not (factor, low, high, length), or ()."
      )
    if self.heads % (self.kv_heads or self.heads):
      raise ConfigError(
        f"model.heads = {self.heads} does not divide into model.kv_heads = {self.kv_heads} groups."
      )

  @property
  def layers(self) -> int:
    return self.depth

  @property
  def block(self) -> BlockConfig:
    hidden = self.hidden or -(-8 * self.width // (3 * 256)) * 256
    return BlockConfig(
      self.width,
      self.heads,
      hidden,
      "swiglu",
      qk_norm=self.qk_norm,
      qk_eps=self.norm_eps,
      kv_heads=self.kv_heads,
      head_dim=self.head_dim,
    )


class Rows(NamedTuple):
  """Rows of documents, as data.documents packs them: integers that say what stands where.

  tokens, patch, doc, end  [B, L] int32;   positions [B, L, 2];   starts [B, N] int32
  """

  tokens: jax.Array
  patch: jax.Array
  doc: jax.Array
  end: jax.Array
  positions: jax.Array
  starts: jax.Array


class Seen(NamedTuple):
  """patches [R, P, D], vector [R, D] of t, and what the way back needs besides."""

  patches: jax.Array
  vector: jax.Array
  kept: Any


class Transfusion(nnx.Module):
  """(Rows, x_t [B, N, H, W, C], model_time [B, N]) -> hidden [B, L, D], answers [B, N, H, W, out].

  What is written comes from `hidden` by `logits`, or by `token_losses`, which holds fewer of them.
  """

  def __init__(self, config: TransfusionConfig, rngs: nnx.Rngs):
    c = self.config = config
    d = c.width
    self.table = weight(rngs, (c.vocab, d), ("vocab", "embed"), fan_in(d))
    shape = (c.patch, c.channels, c.out, d)
    self.patches: Any = UNetPatches(rngs, *shape, c.unet) if c.unet else LinearPatches(rngs, *shape)
    self.time_in = TimeEmbedder(rngs, d)
    if c.time == "adaln":
      self.adaln = Modulation(rngs, d, 6, d, layers=c.depth)
    block = c.block
    self.blocks = stack_blocks(lambda r: DecoderBlock(block, r, c.norm_eps), c.depth, rngs)
    self.gain = weight(rngs, (d,), ("embed",), ones)
    if not c.tied:
      self.head = weight(rngs, (d, c.vocab), ("embed", "vocab"), fan_in(d))

  def __call__(
    self, rows: Rows, x_t: jax.Array, model_time: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    c = self.config
    b, n, height, width = x_t.shape[:4]
    seen = self.seen(x_t.reshape(b * n, *x_t.shape[2:]), model_time.reshape(-1))
    patches, vector = seen.patches, seen.vector
    count = patches.shape[1]
    patches = patches.reshape(b, n * count, c.width)
    at = jnp.maximum(rows.patch, 0)[:, :, None]
    is_patch = rows.patch >= 0
    x = jnp.where(
      is_patch[:, :, None],
      jnp.take_along_axis(patches, at, axis=1),
      self.embedded(rows.tokens, x_t.dtype),
    )
    x = constrain(x, "batch", "sequence", None)
    rope = self.rope(rows.positions)
    mask = Mask(rows.doc, rows.doc, rows.end)
    which = jnp.where(is_patch, rows.patch // count, -1)
    modulation = self.modulation(vector, (b, n)) if c.time == "adaln" else None

    def call(block, x, layer, at):
      return block(x, at, rope, mask, None if layer is None else by_position(layer, which))

    stacks = Stacks(c, None, Conditioning({}, {}))
    x = stacks.run("blocks", self.blocks, x, call, modulation)
    x = rms_norm(x, self.gain, c.norm_eps)
    where = rows.starts[:, :, None] + jnp.arange(count)  # [B, N, P]
    drawn = jnp.take_along_axis(x, where.reshape(b, -1, 1), axis=1)
    answers = self.drawn(drawn.reshape(b * n, count, -1), seen, (height, width))
    return stacks.answer((x, answers.reshape(b, n, *answers.shape[1:])))

  def rope(self, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """positions [B, L, 2] -> cos, sin [B, L, K / 2]"""
    c = self.config
    return rope_alternating(positions, c.block.head_width, c.rope_theta, c.rope_scaling)

  def embedded(self, tokens: jax.Array, dtype: Any) -> jax.Array:
    """[B, L] -> [B, L, D]"""
    return constrain(self.table[...], None, None)[tokens].astype(dtype)

  def seen(self, x_t: jax.Array, model_time: jax.Array) -> Seen:
    vector = self.time_in(model_time, x_t.dtype)
    patches, kept = self.patches.tokens(x_t, vector)
    if self.config.absolute:
      rows, cols = (side // self.config.patch for side in x_t.shape[1:3])
      patches = patches + sincos_grid(rows, cols, (1, 1), self.config.width).astype(x_t.dtype)
    if self.config.time == "added":
      patches = patches + vector[:, None]
    return Seen(patches, vector, kept)

  def modulation(self, vector: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """[R, D] -> [layers, 6, B, N, D]"""
    found = self.adaln(jax.nn.silu(vector))
    return found.reshape(*found.shape[:2], *shape, found.shape[-1])

  def drawn(self, x: jax.Array, seen: Seen, size: tuple[int, int]) -> jax.Array:
    """[R, P, D] -> [R, H, W, out] float32"""
    return self.patches.picture(x, seen.kept, seen.vector, size).astype(jnp.float32)

  def logits(self, hidden: jax.Array) -> jax.Array:
    """[..., D] -> [..., vocab] float32"""
    if self.config.tied:
      return project("...d,vd->...v", hidden, self.table).astype(jnp.float32)
    return project("...d,dv->...v", hidden, self.head).astype(jnp.float32)

  def token_losses(self, hidden: jax.Array, targets: jax.Array) -> jax.Array:
    """-log p(target) in nats, float32, CHUNK positions at a time.   [B, L, D], [B, L] -> [B, L]"""
    length = hidden.shape[1]
    chunk = max(n for n in range(1, min(CHUNK, length) + 1) if length % n == 0)

    @jax.checkpoint
    def of_chunk(part: tuple[jax.Array, jax.Array]) -> jax.Array:
      logits = self.logits(part[0])
      chosen = jnp.take_along_axis(logits, part[1][..., None], axis=-1)[..., 0]
      return jax.nn.logsumexp(logits, axis=-1) - chosen

    split = lambda x: x.reshape(len(x), -1, chunk, *x.shape[2:]).swapaxes(0, 1)
    losses = jax.lax.map(of_chunk, (split(hidden), split(targets)))
    return losses.swapaxes(0, 1).reshape(targets.shape)

  def read_tokens(
    self, tokens: jax.Array, count: jax.Array, cache: Cache, dtype: Any
  ) -> tuple[jax.Array, Cache]:
    """Reads the first `count` [B] of tokens [B, S] on: hidden [B, S, D], and the cache."""
    places = cache.place[:, None] + jnp.arange(tokens.shape[1])
    rope = self.rope(jnp.stack([places, places], axis=-1))
    x, cache = read_on(self.blocks, self.embedded(tokens, dtype), cache, rope, False)
    moved = cache._replace(used=cache.used + count, place=cache.place + count)
    return rms_norm(x, self.gain, self.config.norm_eps), moved

  def read_picture(
    self, x_t: jax.Array, model_time: jax.Array, cache: Cache, places: tuple[Any, int]
  ) -> tuple[jax.Array, Cache]:
    """Reads a picture [B, H, W, C] on, after its BOI: the answer of the denoiser, and the cache.

    places  of the patches from where the picture begins [P, 2], and of the text after it
    """
    offsets, distance = places
    seen = self.seen(x_t, model_time)
    count = seen.patches.shape[1]
    rope = self.rope(cache.place[:, None, None] + offsets)
    modulation = None
    if self.config.time == "adaln":
      which = jnp.zeros((len(x_t), count), jnp.int32)
      modulation = (self.modulation(seen.vector, (len(x_t), 1)), which)
    x, cache = read_on(self.blocks, seen.patches, cache, rope, True, modulation)
    x = rms_norm(x, self.gain, self.config.norm_eps)
    moved = cache._replace(used=cache.used + count, place=cache.place + distance)
    height, width = x_t.shape[1:3]
    return self.drawn(x, seen, (height, width)), moved
