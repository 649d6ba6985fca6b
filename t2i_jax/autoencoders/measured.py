"""Scale and shift of latents as weights, which training measures: z = (x - mean) / std."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.params import ones, weight, zeros

EPS = 1e-6  # added to the variance

Moments = Any  # [3, C] float32: number of latents, their sum, the sum of their squares, by channel


class Statistics(nnx.Module):
  """Mean and variance of latents x [..., C] by channel. No gradient reaches them."""

  def __init__(self, rngs: nnx.Rngs, channels: int):
    self.mean = weight(rngs, (channels,), (None,), zeros)
    self.var = weight(rngs, (channels,), (None,), ones)

  def affine(self) -> tuple[jax.Array, jax.Array]:
    """Offset of x and factor of z.   # 2 [C]"""
    mean, var = jax.lax.stop_gradient((self.mean[...], self.var[...]))
    return mean, jax.lax.rsqrt(var + EPS)


def moments(x: jax.Array, counts: jax.Array) -> Moments:
  """Of latents x [R, h, w, C], the images of weight 1 in counts [R].   # [3, C]"""
  count = counts[:, None, None, None] * jnp.ones_like(x)
  return jnp.stack([jnp.sum(v, axis=(0, 1, 2)) for v in (count, count * x, count * x * x)])


def mean_and_var(sums: Moments) -> tuple[jax.Array, jax.Array]:
  """Of the latents that were summed.   # 2 [C]"""
  count = jnp.maximum(sums[0], 1)
  mean = sums[1] / count
  return mean, jnp.maximum(sums[2] / count - jnp.square(mean), 0)


def tracked(
  mean: jax.Array, var: jax.Array, sums: Moments, keep: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Running mean and variance after a batch, each a mean of the old and the batch's.

  keep  [] of the old; 0 takes the batch's alone
  """
  now = mean_and_var(sums)
  return keep * mean + (1 - keep) * now[0], keep * var + (1 - keep) * now[1]
