"""The patch discriminator: a convolutional network that scores overlapping patches as real.

Source: [1611.07004 sec. 6.1.2], with group norms in place of its batch norms: a row's score does
not depend on the other rows, and there are no statistics to keep.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.convolution import GroupNorm
from t2i_jax.models.params import fan_in, weight, zeros
from t2i_jax.ranges import Count, Range, Width

SIDE = 4  # of the kernels
WIDEST = 8  # times the width of the first layer
SLOPE = 0.2  # below 0


@dataclass(frozen=True)
class PatchConfig:
  """width of the first layer, which doubles up to eight times; layers that halve the image.

  groups  of the norms
  """

  width: Width = 64
  layers: Annotated[int, Range("[1, 8]")] = 3
  groups: Count = 8

  def __post_init__(self) -> None:
    if self.width % self.groups:
      raise ConfigError(f"width = {self.width} must be a multiple of groups = {self.groups}.")

  def make(self, rngs: nnx.Rngs) -> "PatchDiscriminator":
    return PatchDiscriminator(self, rngs)


class Kernel(nnx.Module):
  """A 4 x 4 convolution, padded by 1 on each side, of stride 1 or 2."""

  def __init__(self, rngs: nnx.Rngs, inputs: int, outputs: int, stride: int):
    axes = (None, None, "conv_in", "conv_out")
    self.kernel = weight(rngs, (SIDE, SIDE, inputs, outputs), axes, fan_in(SIDE**2 * inputs))
    self.bias = weight(rngs, (outputs,), ("conv_out",), zeros)
    self.stride = stride

  def __call__(self, x: jax.Array) -> jax.Array:
    stride, padding = (self.stride, self.stride), ((1, 1), (1, 1))
    numbers = ("NHWC", "HWIO", "NHWC")
    kernel = self.kernel[...].astype(x.dtype)
    y = jax.lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=numbers)
    return y + self.bias[...].astype(x.dtype)


class PatchDiscriminator(nnx.Module):
  """[B, H, W, 3] in [-1, 1] -> logits [B, h, w, 1] of its patches, float32."""

  def __init__(self, c: PatchConfig, rngs: nnx.Rngs):
    self.layers = c.layers
    width = c.width
    self.conv_0 = Kernel(rngs, 3, width, 2)
    for i in range(1, c.layers + 1):
      out = c.width * min(2**i, WIDEST)
      setattr(self, f"conv_{i}", Kernel(rngs, width, out, 2 if i < c.layers else 1))
      setattr(self, f"norm_{i}", GroupNorm(rngs, out, groups=c.groups))
      width = out
    self.score = Kernel(rngs, width, 1, 1)

  def __call__(self, image: jax.Array) -> jax.Array:
    x = jax.nn.leaky_relu(self.conv_0(image), SLOPE)
    for i in range(1, self.layers + 1):
      x = getattr(self, f"norm_{i}")(getattr(self, f"conv_{i}")(x))
      x = jax.nn.leaky_relu(x, SLOPE)
    return self.score(x).astype(jnp.float32)
