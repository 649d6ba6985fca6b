"""Running averages of a run: the loss by t, and the gradient noise scale.

All are sums over the global batch, so that a mesh changes them by rounding only.
"""

import jax
import jax.numpy as jnp

BINS = 8  # of t, and of the quantiles of its distribution
KEEP = 0.95  # decay of the average per step
FLOOR = 1e-3  # share of the uniform distribution in importance sampling [2102.09672, its code]

Running = dict[str, jax.Array]


def new_running() -> Running:
  """loss [BINS] by bin of t; square [BINS] by bin of u, of the squared loss; noise [2].

  0 in a bin means that no row has been in it yet.
  """
  return {"loss": jnp.zeros(BINS), "square": jnp.zeros(BINS), "noise": jnp.zeros(2)}


def by_bin(values: jax.Array, where: jax.Array, weight: jax.Array) -> jax.Array:
  """Sums and counts of the rows of weight 1, by bin of `where` in [0, 1].   # [2, BINS]"""
  bin_of = jnp.clip((where * BINS).astype(jnp.int32), 0, BINS - 1)
  rows = jax.nn.one_hot(bin_of, BINS) * weight[:, None]  # [B, BINS]
  return jnp.stack([values @ rows, jnp.sum(rows, axis=0)])


def averaged(old: jax.Array, sums: jax.Array) -> jax.Array:
  """The running mean of each bin after a batch; that of a bin's first batch is its mean."""
  total, count = sums
  mean = total / jnp.maximum(count, 1)
  moved = jnp.where(old == 0, mean, KEEP * old + (1 - KEEP) * mean)
  return jnp.where(count > 0, moved, old)


def importance(u: jax.Array, square: jax.Array) -> tuple[jax.Array, jax.Array]:
  """u resampled in proportion to the root mean squared loss of its bin, and 1 / (bins p).

  u [B] uniform in (0, 1); the result is uniform until every bin has had a row.
  Source: [2102.09672 eq. 18], over bins of quantiles of the distribution instead of single steps
  """
  bins = len(square)
  p = jnp.sqrt(square) / jnp.maximum(jnp.sum(jnp.sqrt(square)), 1e-30)
  p = jnp.where(jnp.all(square > 0), (1 - FLOOR) * p + FLOOR / bins, 1 / bins)
  ends = jnp.concatenate([jnp.zeros(1), jnp.cumsum(p)])
  at = jnp.clip(jnp.searchsorted(ends, u, side="right") - 1, 0, bins - 1)
  within = jnp.clip((u - ends[at]) / p[at], 0, 1)
  return (at + within) / bins, 1 / (bins * p[at])


def gradient_noise(
  small: jax.Array, big: jax.Array, rows_small: jax.Array, rows_big: jax.Array
) -> jax.Array:
  """Unbiased (|G|^2, trace of the gradient's covariance) of one step.   # [2]

  small  mean squared norm of gradients over rows_small rows; big, that of all rows_big rows.
  Their ratio trace / |G|^2 is the noise scale, in rows. Source: [1812.06162 app. A.1]
  """
  square = (rows_big * big - rows_small * small) / (rows_big - rows_small)
  trace = (small - big) / (1 / rows_small - 1 / rows_big)
  return jnp.stack([square, trace])
