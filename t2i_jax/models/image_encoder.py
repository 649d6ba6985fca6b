"""A small convolutional encoder of images: unit features, trained by comparing views of images.

    patches -> stages of residual blocks, each stage of half the side and twice the width
    -> mean over the last map -> a head of two matrices -> unit features

Source: [2002.05709 sec. 2.1], f a residual network and g the head. There the features are those
before the head, which classify better; here they are those after it, which the loss compares: among
emoji of concepts that were not trained on they found more of the same concept (200 steps: a view's
image 84 against 82%, the concept in another style 31 against 25%).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.layers import Dense, layer_norm, patchify
from t2i_jax.models.params import Init, fan_in, scan_blocks, stack_blocks, weight, zeros
from t2i_jax.parallel import constrain
from t2i_jax.ranges import Count, Depth, Width

NEAR_ZERO = 1e-12  # of a squared length


@dataclass(frozen=True)
class ImageEncoderConfig:
  """side: images of any size are resized to side x side; patch: of a side, in those pixels;
  width: of the first stage's channels; depth: residual blocks a stage; head: width of the
  features."""

  width: Width
  depth: Depth
  stages: Count
  side: Count
  patch: Count
  channels: Width
  head: Width = 64

  def __post_init__(self) -> None:
    """Raises ConfigError for a side that the stages do not divide."""
    smallest = self.patch * 2 ** (self.stages - 1)
    if self.side % smallest:
      raise ConfigError(
        f"model.side = {self.side} is not a multiple of {smallest} = patch x 2^(stages - 1)."
      )

  @property
  def widths(self) -> tuple[int, ...]:
    """Of the channels of each stage."""
    return tuple(self.width * 2**i for i in range(self.stages))


class Conv3(nnx.Module):
  """A 3 x 3 convolution without bias, a hidden matrix to optimisers.   # [B, H, W, C]

  As one matmul of shifted copies: the gradient of lax.conv in a scanned block took 25 times as long
  (jax 0.10.2 on a CPU, 64 images: 5.6 against 0.2 s of CPU time).
  """

  def __init__(self, rngs: nnx.Rngs, width: int, init: Init):
    axes = (None, None, "conv_in", "conv_out")
    self.kernel = weight(rngs, (3, 3, width, width), axes, init, matrix=((0, 1, 2), (3,)))

  def __call__(self, x: jax.Array) -> jax.Array:
    h, w, width = x.shape[1:]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    near = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return jnp.concatenate(near, axis=-1) @ self.kernel[...].astype(x.dtype).reshape(-1, width)


class ConvBlock(nnx.Module):
  """x + conv(relu(norm(conv(relu(norm(x)))))), the norm over the channels of a pixel."""

  def __init__(self, width: int, rngs: nnx.Rngs):
    self.first = Conv3(rngs, width, fan_in(9 * width))
    self.second = Conv3(rngs, width, zeros)  # a block begins as the identity

  def __call__(self, x: jax.Array) -> jax.Array:
    x = x + self.second(jax.nn.relu(layer_norm(self.first(jax.nn.relu(layer_norm(x))))))
    return constrain(x, "batch", None, None, None)


class Stage(nnx.Module):
  """Patches of the input to `width` channels, and residual blocks on them."""

  def __init__(self, rngs: nnx.Rngs, inputs: int, patch: int, width: int, depth: int):
    self.patch = patch
    self.patch_in = Dense(rngs, patch * patch * inputs, width, ("conv_in", "embed"), bias=False)
    self.blocks = stack_blocks(lambda r: ConvBlock(width, r), depth, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    b, h, w, _ = x.shape
    x = self.patch_in(patchify(x, self.patch)).reshape(b, h // self.patch, w // self.patch, -1)
    return scan_blocks(self.blocks, x, lambda block, x, _: (block(x), None))[0]


class ImageEncoder(nnx.Module):
  """Images in [-1, 1], [B, H, W, C] of any size -> unit features [B, head], float32."""

  def __init__(self, config: ImageEncoderConfig, rngs: nnx.Rngs):
    c = self.config = config
    inputs = c.channels
    for i, width in enumerate(c.widths):
      setattr(self, f"stage{i}", Stage(rngs, inputs, c.patch if i == 0 else 2, width, c.depth))
      inputs = width
    self.head_in = Dense(rngs, inputs, inputs, ("embed", "mlp"))
    self.head_out = Dense(rngs, inputs, c.head, ("mlp", None), bias=False)

  def __call__(self, x: jax.Array) -> jax.Array:
    pooled = jnp.mean(jax.nn.relu(layer_norm(self.maps(x)[-1])), axis=(1, 2))  # [B, D]
    return unit(self.head_out(jax.nn.relu(self.head_in(pooled))))

  def maps(self, x: jax.Array) -> list[jax.Array]:
    """The output of each stage, the finest first.   # [B, h, w, D] each"""
    side, found = self.config.side, []
    if x.shape[1:3] != (side, side):
      x = jax.image.resize(x, (len(x), side, side, x.shape[-1]), "linear", antialias=True)
    for i in range(self.config.stages):
      x = getattr(self, f"stage{i}")(x)
      found.append(x)
    return found


def unit(x: jax.Array) -> jax.Array:
  """Vectors of length 1, float32; zero stays zero."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), NEAR_ZERO))
