"""FreeU: more of a U-Net's own features on the way up, less of its skip connections' slow waves.

Nothing is trained. Source: [2309.11497 sec. 3.2], with factors that are constants, as diffusers has
them.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np


def reweighed(
  x: jax.Array, skip: jax.Array, backbone: float, low: float
) -> tuple[jax.Array, jax.Array]:
  """Half of the channels of x times `backbone`; the lowest frequencies of the skip times `low`.

  x [B, H, W, C] of the way up;   skip [B, H, W, D] that is put beside it
  """
  factors = np.where(np.arange(x.shape[-1]) < x.shape[-1] // 2, backbone, 1)
  slow = lowest(skip.astype(jnp.float32))
  return x * factors.astype(x.dtype), (skip + (low - 1) * slow).astype(skip.dtype)


def lowest(x: jax.Array) -> jax.Array:
  """The real part of the Fourier terms of frequencies -1 and 0 in height and width.   [B, H, W, C]

  The four frequencies that a threshold of 1 leaves around the middle of a shifted spectrum.
  """
  rows, cols = (2 * np.pi * np.arange(side) / side for side in x.shape[1:3])
  found = jnp.zeros_like(x)
  for p, q in itertools.product((0, 1), repeat=2):
    phase = (p * rows[:, None] + q * cols)[..., None]
    for wave in (np.cos(phase), np.sin(phase)):
      wave = wave.astype(np.float32)
      found += wave * jnp.mean(x * wave, axis=(1, 2), keepdims=True)
  return found
