"""Images in the prompts of Qwen2.5-VL: its vision tower, and positions on three axes.

Source: [2502.13923 sec. 2.1].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import Mask, attend
from t2i_jax.models.decoder import DecoderBlock
from t2i_jax.models.layers import BlockConfig, Dense, rms_norm
from t2i_jax.models.params import ones, scan_blocks, stack_blocks, weight
from t2i_jax.models.positions import rope_angles
from t2i_jax.parallel import constrain

ROPE_THETA, EPS = 10_000.0, 1e-6


class ImageTokens(NamedTuple):
  """Tokens of images inside texts.

  tokens     [B, N, D] of a vision tower
  which      [B, T] int32, the one of the N that stands there; -1: the token of the text
  positions  [B, T, 3] of `mrope_positions`; None: those in the row, on all axes
  """

  tokens: jax.Array
  which: jax.Array
  positions: jax.Array | None = None


@dataclass(frozen=True)
class QwenVisionConfig:
  """out: width of the language model;   hidden: width inside the MLP

  patch   side of a patch, in pixels;   frames: equal images in one patch
  merge   side of a square of patches that make one token
  window  side of a window of attention, in pixels
  full    blocks that attend to the whole image, not to windows
  """

  width: int
  depth: int
  heads: int
  hidden: int
  out: int
  patch: int = 14
  merge: int = 2
  frames: int = 2
  channels: int = 3
  window: int = 112
  full: tuple[int, ...] = (7, 15, 23, 31)

  def make(self, rngs: nnx.Rngs) -> "QwenVision":
    return QwenVision(self, rngs)


class QwenVision(nnx.Module):
  """(images [B, H, W, 3]) -> tokens [B, H W / (patch merge)^2, out] in reading order.

  images  normalised as CLIP's, with sides that are multiples of patch x merge
  """

  def __init__(self, config: QwenVisionConfig, rngs: nnx.Rngs):
    c = self.config = config
    d = c.width
    block = BlockConfig(d, c.heads, c.hidden, "swiglu", bias=True, qk_norm=False)
    self.patch_in = Dense(rngs, c.channels * c.frames * c.patch**2, d, (None, "embed"), bias=False)
    self.blocks = stack_blocks(lambda r: DecoderBlock(block, r, EPS), c.depth, rngs)
    self.gain = weight(rngs, (d,), ("embed",), ones)
    self.merge_in = Dense(rngs, c.merge**2 * d, c.merge**2 * d, ("embed", "mlp"))
    self.merge_out = Dense(rngs, c.merge**2 * d, c.out, ("mlp", "embed"))

  def __call__(self, images: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """Raises ConfigError for sides that are not multiples of patch x merge."""
    c = self.config
    b, height, width = images.shape[:3]
    if height % (c.patch * c.merge) or width % (c.patch * c.merge):
      raise ConfigError(
        f"an image of {height} x {width} for a vision tower: its sides must be multiples of "
        f"{c.patch * c.merge}."
      )
    # Patches of one square follow one another.
    patches = rearrange(
      images, "b (h m p) (w n q) c -> b (h w m n) c p q", p=c.patch, q=c.patch, m=c.merge, n=c.merge
    )
    patches = repeat(patches, "b l c p q -> b l (c t p q)", t=c.frames)
    x = constrain(self.patch_in(patches.astype(dtype)), "batch", "sequence", None)
    places = rearrange(
      np.moveaxis(np.indices((height // c.patch, width // c.patch)), 0, -1),
      "(h m) (w n) a -> (h w m n) a", m=c.merge, n=c.merge,
    )  # fmt: skip
    rope = rope_angles(jnp.asarray(places), c.width // c.heads, ROPE_THETA)
    side = c.window // c.patch // c.merge * c.merge  # of a window, in patches
    windows = places // side @ np.array([places[-1, 1] // side + 1, 1])
    windows = jnp.broadcast_to(jnp.asarray(windows), (b, len(places)))

    def call(block, x, full):
      which = jnp.where(full, 0, windows)
      return block(x, lambda site: attend, rope, Mask(which, which)), None

    x, _ = scan_blocks(self.blocks, x, call, jnp.isin(jnp.arange(c.depth), jnp.array(c.full)))
    x = rms_norm(x, self.gain, EPS).reshape(b, -1, c.merge**2 * c.width)
    return self.merge_out(jax.nn.gelu(self.merge_in(x), approximate=False))


def mrope_positions(
  index: np.ndarray, mask: np.ndarray, sizes: Sequence[Sequence[tuple[int, int]]]
) -> np.ndarray:
  """(time, row, column) of each token: equal in text, a grid in an image.   # [B, T, 3] int32

  index  `which` of ImageTokens;   mask [B, T] bool: padding has position 0
  sizes  of each text, (rows, columns) of its images in tokens, in order
  A text after an image goes on at the larger of its sides. Source: [2502.13923 sec. 2.1]
  Raises ConfigError where a text has not as many tokens of images as they are large.
  """
  found = np.zeros((*index.shape, 3), np.int32)
  for row, images in enumerate(sizes):
    is_image = index[row][mask[row]] >= 0
    if is_image.sum() != sum(rows * cols for rows, cols in images):
      raise ConfigError(
        f"text {row} has {is_image.sum()} tokens of images, and images of {list(images)} tokens."
      )
    parts: list[np.ndarray] = []
    start = at = 0
    left = iter(images)
    while at < len(is_image):
      if is_image[at]:
        rows, cols = next(left)
        grid = np.indices((1, rows, cols)).reshape(3, -1).T
        parts.append(grid + start)
        start, at = start + max(rows, cols), at + rows * cols
      else:
        parts.append(np.full((1, 3), start))
        start, at = start + 1, at + 1
    found[row][mask[row]] = np.concatenate(parts)
  return found


def mrope_angles(
  positions: jax.Array, width: int, theta: float, sections: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
  """cos and sin of multimodal rotary angles, float32.   # [B, T, K / 2] each

  positions [B, T, 3]; sections: of the K / 2 frequencies of a head, those of each axis in turn
  """
  axis = np.repeat(np.arange(len(sections)), sections)
  frequency = np.float32(theta ** (-np.arange(0, width, 2) / width))
  angle = positions.astype(jnp.float32)[..., axis] * frequency
  return jnp.cos(angle), jnp.sin(angle)
