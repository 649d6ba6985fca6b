"""Transfusion: one decoder over tokens and patches, a language model and a denoiser at once.

Source: [2408.11039]. It reads rows of documents (data.documents): a token is embedded, a patch is
projected, and its output there is projected to the denoiser's prediction.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import Mask
from t2i_jax.models.backbone import PatchConfig
from t2i_jax.models.decoder import Cache, DecoderBlock, by_position, extend_cache
from t2i_jax.models.layers import BlockConfig, Modulation, TimeEmbedder, project, rms_norm
from t2i_jax.models.params import fan_in, ones, stack_blocks, weight
from t2i_jax.models.patches import LinearPatches, UNetPatches
from t2i_jax.models.positions import Theta, check_heads, rope_alternating, sincos_grid
from t2i_jax.models.stack import Answer, Eps, Stacks
from t2i_jax.parallel import constrain
from t2i_jax.ranges import Count, Whole

TIMES = ("added", "adaln")
CHUNK = 512  # positions whose logits are held at once


@dataclass(frozen=True)
class TransfusionConfig(PatchConfig):
  """vocab with BOI and EOI.

  hidden        width inside the MLP, 0 = 8/3 of the width in whole 256s [2302.13971 sec. 2.2]
  rope_scaling  factor, low, high, length of positions.llama3_rope_scaling; () = none
  time          how an image's t reaches its patches: "added" to their projections [2408.11039 sec.
                3.1], or "adaln": shift, scale and gate in every block, at patches alone
  absolute      a patch's position in its own image is added to its projection, as sines and
                cosines: the same in every image of a row [2505.14683, its code]
  tied          the head is the table of tokens
  unet          channels at full size of the U-Net blocks that make patches; 0: one matrix does
  """

  vocab: Count
  kv_heads: Whole = 0
  head_dim: Whole = 0
  hidden: Whole = 0
  qk_norm: bool = False
  rope_theta: Theta = 10_000.0
  rope_scaling: tuple[Theta, ...] = ()
  norm_eps: Eps = 1e-5
  time: str = "added"
  absolute: bool = False
  tied: bool = False
  unet: Whole = 0

  def __post_init__(self):
    super().__post_init__()
    if not self.head_dim:
      check_heads(self.width, self.heads, 2)
    if self.unet and self.patch & (self.patch - 1):
      raise ConfigError(
        f"model.unet = {self.unet}: model.patch = {self.patch} is not a power of two; use 4 or 8."
      )
    if self.time not in TIMES:
      raise ConfigError(f"model.time = {self.time!r} is not one of {', '.join(TIMES)}.")
    if self.absolute and self.width % 4:
      raise ConfigError(f"model.width = {self.width} is not a multiple of 4 (model.absolute=True).")
    if len(self.rope_scaling) not in (0, 4):
      raise ConfigError(
        f"model.rope_scaling = {self.rope_scaling} is not (factor, low, high, length), or ()."
      )
    if self.heads % (self.kv_heads or self.heads):
      raise ConfigError(
        f"model.heads = {self.heads} does not divide into model.kv_heads = {self.kv_heads} groups."
      )

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
  """Rows of documents, as data.documents packs them: all integers, of each position.

  tokens, patch, doc, end  [B, L] int32;   positions [B, L, 2];   starts [B, N] int32
  """

  tokens: jax.Array
  patch: jax.Array
  doc: jax.Array
  end: jax.Array
  positions: jax.Array
  starts: jax.Array


class PatchTokens(NamedTuple):
  """patches [R, P, D], vector [R, D] of t, and the skips to decode_patches."""

  patches: jax.Array
  vector: jax.Array
  skips: Any


class Transfusion(nnx.Module):
  """(Rows, x_t [B, N, H, W, C], model_time [B, N]) -> Answer, whose value is a pair.

  hidden [B, L, D], from which `logits` or `token_losses`, and predictions [B, N, H, W, out].
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

  def __call__(self, rows: Rows, x_t: jax.Array, model_time: jax.Array) -> Answer:
    c = self.config
    b, n, height, width = x_t.shape[:4]
    images = self.embed_patches(x_t.reshape(b * n, *x_t.shape[2:]), model_time.reshape(-1))
    patches, vector = images.patches, images.vector
    count = patches.shape[1]
    patches = patches.reshape(b, n * count, c.width)
    at = jnp.maximum(rows.patch, 0)[:, :, None]
    is_patch = rows.patch >= 0
    x = jnp.where(
      is_patch[:, :, None],
      jnp.take_along_axis(patches, at, axis=1),
      self.embed_tokens(rows.tokens, x_t.dtype),
    )
    x = constrain(x, "batch", "sequence", None)
    rope = self.rope(rows.positions)
    mask = Mask(rows.doc, rows.doc, rows.end)
    which = jnp.where(is_patch, rows.patch // count, -1)
    modulation = self.modulation(vector, (b, n)) if c.time == "adaln" else None

    def call(block, x, layer, at):
      return block(x, at, rope, mask, None if layer is None else by_position(layer, which))

    stacks = Stacks(c)
    x = stacks.run("blocks", self.blocks, x, call, modulation)
    x = rms_norm(x, self.gain, c.norm_eps)
    where = rows.starts[:, :, None] + jnp.arange(count)  # [B, N, P]
    at_patches = jnp.take_along_axis(x, where.reshape(b, -1, 1), axis=1)
    predictions = self.decode_patches(at_patches.reshape(b * n, count, -1), images, (height, width))
    return stacks.answer((x, predictions.reshape(b, n, *predictions.shape[1:])))

  def rope(self, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """positions [B, L, 2] -> cos, sin [B, L, K / 2]"""
    c = self.config
    return rope_alternating(positions, c.block.head_width, c.rope_theta, c.rope_scaling)

  def embed_tokens(self, tokens: jax.Array, dtype: Any) -> jax.Array:
    """[B, L] -> [B, L, D]"""
    return constrain(self.table[...], None, None)[tokens].astype(dtype)

  def embed_patches(self, x_t: jax.Array, model_time: jax.Array) -> PatchTokens:
    vector = self.time_in(model_time, x_t.dtype)
    patches, skips = self.patches.tokens(x_t, vector)
    if self.config.absolute:
      rows, cols = (side // self.config.patch for side in x_t.shape[1:3])
      patches = patches + sincos_grid(rows, cols, (1, 1), self.config.width).astype(x_t.dtype)
    if self.config.time == "added":
      patches = patches + vector[:, None]
    return PatchTokens(patches, vector, skips)

  def modulation(self, vector: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """[R, D] -> [layers, 6, B, N, D]"""
    found = self.adaln(jax.nn.silu(vector))
    return found.reshape(*found.shape[:2], *shape, found.shape[-1])

  def decode_patches(self, x: jax.Array, image: PatchTokens, size: tuple[int, int]) -> jax.Array:
    """[R, P, D] -> [R, H, W, out] float32"""
    return self.patches.image(x, image.skips, image.vector, size).astype(jnp.float32)

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
    """The first `count` [B] of tokens [B, S], after the cache: hidden [B, S, D], and the cache."""
    positions = cache.position[:, None] + jnp.arange(tokens.shape[1])
    rope = self.rope(jnp.stack([positions, positions], axis=-1))
    x, cache = extend_cache(self.blocks, self.embed_tokens(tokens, dtype), cache, rope, False)
    moved = cache._replace(used=cache.used + count, position=cache.position + count)
    return rms_norm(x, self.gain, self.config.norm_eps), moved

  def prefill_image(
    self, x_t: jax.Array, model_time: jax.Array, cache: Cache, places: tuple[Any, int]
  ) -> tuple[jax.Array, Cache]:
    """An image [B, H, W, C] after its BOI in the cache: the prediction, and the cache.

    places  positions of the patches from the image's first [P, 2], and of the text after it
    """
    offsets, distance = places
    image = self.embed_patches(x_t, model_time)
    count = image.patches.shape[1]
    rope = self.rope(cache.position[:, None, None] + offsets)
    modulation = None
    if self.config.time == "adaln":
      which = jnp.zeros((len(x_t), count), jnp.int32)
      modulation = (self.modulation(image.vector, (len(x_t), 1)), which)
    x, cache = extend_cache(self.blocks, image.patches, cache, rope, True, modulation)
    x = rms_norm(x, self.gain, self.config.norm_eps)
    moved = cache._replace(used=cache.used + count, position=cache.position + distance)
    height, width = x_t.shape[1:3]
    return self.decode_patches(x, image, (height, width)), moved
