"""Losses between two predictions, two sets of images, an image and a text: functions of arrays.

What is learned from comes second and has no gradient.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from t2i_jax.process.prediction import Prediction, convert, to_x0_eps
from t2i_jax.process.schedules import Process
from t2i_jax.process.time import Time, like
from t2i_jax.process.timesteps import inside
from t2i_jax.process.weightings import Weighting, space_factor

HIDDEN = -1e9  # a logit of probability 0
TINY = 1e-12  # of a squared norm


def matching(
  prediction: Prediction, target: Prediction, x_t: jax.Array, time: Time, weighting: Weighting
) -> jax.Array:
  """Weighted error of a prediction against another one at the same x_t.   # [B]

      w_x0(t) mean |x0_hat - x0_target|^2

  compared in the kind of `prediction`, with the weight that the denoising loss has.
  """
  error = prediction.value.astype(jnp.float32)
  error -= jax.lax.stop_gradient(convert(target, prediction.kind, x_t, time).value)
  own = jnp.square(jnp.maximum(space_factor(prediction.kind, time), 1e-6))
  return jnp.mean(jnp.square(error.reshape(len(error), -1)), -1) * weighting(time) / own


def guided_negative(
  source: Prediction, concept: Prediction, null: Prediction, eta: float
) -> Prediction:
  """The prediction of a source, guided away from a concept, at one x_t.   # value [B, ...]

      source - eta (concept - null)        [2303.07345 sec. 4], whose source is the null

  All are of one kind, whichever: a difference of predictions at one x_t is proportional in all.
  """
  return source._replace(value=source.value - eta * (concept.value - null.value), aux=None)


def denoised(
  denoise: Callable[[jax.Array, Time], Prediction],
  process: Process,
  x_t: jax.Array,
  t: jax.Array,
  steps: int,
) -> jax.Array:
  """x_t [B, ...] at times t [B] after `steps` steps of DDIM [2010.02502 eq. 12] down to the data.

  Evenly in t, on the grid of a process that has one; the gradient goes through all steps, of which
  each is computed again in the backward pass.
  """
  shares = jnp.arange(steps, 0, -1, dtype=jnp.float32) / steps
  now = process.at(process.on_grid(shares[:, None] * t))  # [S, B]
  ending = lambda field, end: jnp.concatenate([field[1:], jnp.full_like(field[:1], end)])
  to = (ending(now.alpha, 1.0), ending(now.sigma, 0.0))
  return jax.lax.scan(jax.checkpoint(_ddim(denoise)), x_t, (now, *to))[0]


def partly_denoised(
  denoise: Callable[[jax.Array, Time], Prediction],
  process: Process,
  x: jax.Array,
  t: jax.Array,
  steps: int,
) -> jax.Array:
  """x [B, ...] of the prior at t = 1 after `steps` steps of DDIM down to times t [B]: a row each
  its own.

  Evenly in t, on the grid of a process that has one; it has no gradient.
  """
  shares = jnp.arange(steps + 1, dtype=jnp.float32) / steps
  levels = process.on_grid(inside(1 - shares[:-1, None] * (1 - t)))  # [S, B]
  times = process.at(jnp.concatenate([levels, t[None]]))  # [S + 1, B]
  now = jax.tree.map(lambda field: field[:-1], times)
  found = jax.lax.scan(_ddim(denoise), x, (now, times.alpha[1:], times.sigma[1:]))[0]
  return jax.lax.stop_gradient(found)


Level = tuple[Time, jax.Array, jax.Array]  # now, and alpha and sigma of the next lower time


def _ddim(
  denoise: Callable[[jax.Array, Time], Prediction],
) -> Callable[[jax.Array, Level], tuple[jax.Array, None]]:
  def step(x: jax.Array, level: Level) -> tuple[jax.Array, None]:
    now, alpha, sigma = level
    x0_hat, eps_hat = to_x0_eps(denoise(x, now), x, now)
    return like(alpha, x) * x0_hat + like(sigma, x) * eps_hat, None

  return step


def _unit(x: jax.Array) -> jax.Array:
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + TINY)


def cosines(features: jax.Array) -> jax.Array:
  """Cosine similarity of each two rows.   [B, ...] -> [B, B] float32"""
  unit = _unit(features.reshape(len(features), -1))
  return unit @ unit.T


def similarity_consistency(found: jax.Array, wanted: jax.Array) -> jax.Array:
  """KL of a row's similarities to the other rows, as softmax has them, from those wanted.   # [B]

      sum_j p_ij (log p_ij - log q_ij) / (B - 1),   p, q of wanted and found, j != i

  found, wanted  [B, B] as `cosines` gives them; with two rows the loss is 0
  Source: [2411.04571 eq. 4]; the mean over entries is that of its code
  """
  rows = len(found)
  log_of = lambda x: jax.nn.log_softmax(jnp.where(jnp.eye(rows, dtype=bool), HIDDEN, x), axis=-1)
  log_q, log_p = log_of(found), log_of(jax.lax.stop_gradient(wanted))
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1) / max(rows - 1, 1)


def visual_distance(found: Sequence[jax.Array], wanted: Sequence[jax.Array]) -> jax.Array:
  """1 - cosine of features, each averaged over its places, in the mean over layers.   # [B]

  found, wanted  of the layers, [B, ..., D]
  Averaged, they say what an image shows and not where. Source: ours, for [2402.11849]
  """
  pooled = lambda x: _unit(jnp.mean(x.reshape(len(x), -1, x.shape[-1]), axis=1))
  pairs = [
    (pooled(a), jax.lax.stop_gradient(pooled(b))) for a, b in zip(found, wanted, strict=True)
  ]
  return 1 - jnp.mean(jnp.stack([jnp.sum(a * b, axis=-1) for a, b in pairs]), axis=0)


def textual_distance(logits: jax.Array, y: jax.Array) -> jax.Array:
  """-log of the probability that what a text names is there, in the mean over it, in nats.   # [B]

  logits  [B, vocab] of a classifier;   y: [B, vocab], 1 at what the text names
  Nothing is said about all else. Source: ours, for [2402.11849]
  """
  named = jnp.sum(y * jax.nn.log_sigmoid(logits), axis=-1)
  return -named / jnp.maximum(jnp.sum(y, axis=-1), 1)
