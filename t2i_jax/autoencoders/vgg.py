"""VGG16's convolutions, whose features compare images [1409.1556 table 1, column D].

    images [B, H, W, 3] in [-1, 1] -> the features before each pooling, [B, H / 2^i, W / 2^i, D]

Source of the layers that are compared: [1801.03924 sec. 3].
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t2i_jax.models.convolution import Conv

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # width and layers before each pooling
# Of pixels in [0, 1], as the published weights were trained.
MEAN = np.asarray((0.485, 0.456, 0.406), np.float32)
STD = np.asarray((0.229, 0.224, 0.225), np.float32)


@dataclass(frozen=True)
class VGG16Config:
  """It has no sizes to choose."""

  def make(self, rngs: nnx.Rngs) -> "VGG16":
    return VGG16(self, rngs)


class VGG16(nnx.Module):
  """The convolutions conv0_0 .. conv4_2."""

  def __init__(self, config: VGG16Config, rngs: nnx.Rngs):
    inputs = 3
    for name, width in layer_names():
      setattr(self, name, Conv(rngs, inputs, width))
      inputs = width

  def features(self, image: jax.Array) -> list[jax.Array]:
    """After the ReLU of the last layer of each block.   image [B, H, W, 3] in [-1, 1]"""
    x, found = ((image + 1) / 2 - MEAN) / STD, []
    for i, (_, layers) in enumerate(BLOCKS):
      if i:
        x = nnx.max_pool(x, (2, 2), (2, 2))
      for k in range(layers):
        x = jax.nn.relu(getattr(self, f"conv{i}_{k}")(x))
      found.append(x.astype(jnp.float32))
    return found


def layer_names() -> list[tuple[str, int]]:
  """Name and width of every convolution, in order."""
  blocks = enumerate(BLOCKS)
  return [(f"conv{i}_{k}", width) for i, (width, layers) in blocks for k in range(layers)]
