"""Scale and shift of latents as weights, which training measures: z = (x - mean) / std."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.params import Params, ones, weight, zeros

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


def settled(config: Any, params: Params) -> tuple[Any, Params]:
  """A config and parameters of the same autoencoder with its statistics in the config, as published
  folders have them: latents_mean and latents_std of a KLConfig with measured=True.

  Raises ConfigError for another one.
  """
  if not getattr(config, "measured", False) or not hasattr(config, "latents_std"):
    raise ConfigError(f"a {type(config).__name__} without measured=True has nothing to settle.")
  own = params["latents"]
  numbers = lambda x: tuple(float(value) for value in np.asarray(x, np.float32))
  mean, std = numbers(own["mean"]), numbers(np.sqrt(np.asarray(own["var"]) + EPS))
  fixed = dataclasses.replace(config, measured=False, scale=1.0, latents_mean=mean, latents_std=std)
  return fixed, {name: tree for name, tree in params.items() if name != "latents"}


def refuse(config: Any) -> None:
  """Raises ConfigError for statistics that are weights, which published folders do not have."""
  if config.measured:
    raise ConfigError(
      f"a {type(config).__name__} with measured=True has scale and shift as weights, which folders "
      "have in their config: write what autoencoders.measured.settled gives."
    )
