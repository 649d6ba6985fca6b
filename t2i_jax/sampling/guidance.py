"""Guidance takes a denoiser and returns a denoiser. "Off" is decided by not wrapping."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t2i_jax.process import Prediction, Time
from t2i_jax.sampling.solvers import Denoiser


class Guided(NamedTuple):
  """The condition of a guided denoiser: what is wanted, and the null of the same structure."""

  cond: Any
  null: Any


def _interleave(a: jax.Array, b: jax.Array) -> jax.Array:
  """[B, ...] and [B, ...] to [2B, ...] as a0 b0 a1 b1 ...

  On a sharded batch, concatenation would move rows between devices; this does not.
  """
  return jnp.stack([a, b], 1).reshape(-1, *a.shape[1:])


def cfg(denoise: Denoiser, scale: jax.Array | float) -> Denoiser:
  """Classifier-free guidance, conditional and null in one call of twice the batch.

      value = null + scale (cond - null),    scale = 1 + w, 1 = off      [2207.12598 eq. 6]

  Linear in the prediction, hence the same for every kind at a fixed x_t. `scale` is a traced
  number. The returned denoiser takes a `Guided` as its condition.
  """

  def guided(x_t: jax.Array, time: Time, cond: Guided) -> Prediction:
    pair = jax.tree.map(_interleave, cond.cond, cond.null)
    both = denoise(_interleave(x_t, x_t), time, pair)
    value = both.value.reshape(-1, 2, *both.value.shape[1:])  # [B, 2, ...]
    with_cond, without = value[:, 0], value[:, 1]
    return both._replace(value=without + scale * (with_cond - without))

  return guided
