"""Data for which everything is known: Gaussian mixtures, of which one Gaussian is a case.

    x0 ~ sum_k w_k N(mean_k, cov_k)   makes   x_t ~ sum_k w_k N(alpha mean_k, C_k)
    C_k = alpha^2 cov_k + sigma^2 I

so that the exact answer of a perfect network, for every process and prediction, is

    x0_hat  = sum_k p(k | x_t) (mean_k + alpha cov_k C_k^-1 (x_t - alpha mean_k))
    eps_hat = sum_k p(k | x_t) sigma C_k^-1 (x_t - alpha mean_k)

Neither divides by alpha or sigma, so that both ends of time have values. Components carry classes;
a condition is the class of each row, negative for "any". x_t is [B, ...] of D elements a row.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from t2i_jax.errors import ConfigError
from t2i_jax.process import Prediction, Process, Time, from_x0_eps
from t2i_jax.sampling.solver import Denoiser


class Mixture(NamedTuple):
  """K Gaussians in D dimensions, float64 on the host; cast to the dtype of x_t where used.

  weights    [K]        sum to 1
  means      [K, D]
  variances  [K, D]     along the axes of `basis`
  basis      [K, D, D]  columns are the axes of each covariance; None: the coordinates
  classes    [K]        class of each component, from 0
  """

  weights: Any
  means: Any
  variances: Any
  basis: Any
  classes: Any


def mixture(weights: Any, means: Any, covariances: Any, classes: Any = None) -> Mixture:
  """The mixture of these components.

  weights      [K], any positive numbers
  means        [K, D]
  covariances  a variance, or [K, 1] or [K, D] a coordinate, or [K, D, D] full
  classes      [K]; each component its own class by default
  """
  weights, means = np.asarray(weights, np.float64), np.asarray(means, np.float64)
  covariances = np.asarray(covariances, np.float64)
  if covariances.ndim == 3:
    variances, basis = np.linalg.eigh(covariances)
  else:
    variances, basis = np.broadcast_to(covariances, means.shape).copy(), None
  if variances.shape != means.shape or weights.shape != means.shape[:1]:
    raise ConfigError(
      f"mixture: weights {weights.shape}, means {means.shape} and covariances "
      f"{covariances.shape} are not [K], [K, D] and [K, D, D] or [K, D]."
    )
  classes = np.arange(len(weights)) if classes is None else np.asarray(classes)
  return Mixture(weights / weights.sum(), means, variances, basis, classes)


def gaussian(mean: Any, covariance: Any) -> Mixture:
  """N(mean [D], covariance [D, D], or variance [D] or one number)."""
  mean, covariance = np.atleast_1d(np.asarray(mean, np.float64)), np.asarray(covariance)
  full = covariance.ndim == 2
  return mixture([1.0], mean[None], covariance[None] if full else covariance)


def draw(data: Mixture, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
  """n exact samples x0 [n, D] and their classes [n]."""
  choose, spread = jax.random.split(key)
  k = jax.random.choice(choose, len(data.weights), (n,), p=jnp.asarray(data.weights))
  z = jax.random.normal(spread, (n, data.means.shape[1])) * jnp.sqrt(jnp.asarray(data.variances)[k])
  if data.basis is not None:
    z = jnp.einsum("nij,nj->ni", jnp.asarray(data.basis)[k], z)
  return jnp.asarray(data.means)[k] + z, jnp.asarray(data.classes)[k]


class Parts(NamedTuple):
  """What each component says of x_t.

  log_joint  [B, K]     log w_k + log p(x_t | k)
  pull       [B, K, D]  C_k^-1 (x_t - alpha mean_k), minus the component's score
  x0         [B, K, D]  E[x0 | x_t, k]
  """

  log_joint: jax.Array
  pull: jax.Array
  x0: jax.Array


def _parts(data: Mixture, x_t: jax.Array, time: Time) -> Parts:
  dtype = x_t.dtype
  weights, means, variances = (jnp.asarray(a, dtype) for a in data[:3])
  alpha, sigma = (jnp.asarray(a, dtype).reshape(-1, 1, 1) for a in (time.alpha, time.sigma))
  away = x_t.reshape(len(x_t), 1, -1) - alpha * means  # [B, K, D]
  turn = lambda a, spec: (
    a if data.basis is None else jnp.einsum(spec, jnp.asarray(data.basis, dtype), a)
  )
  along = turn(away, "kij,bki->bkj")
  spread = alpha**2 * variances + sigma**2  # [B, K, D]
  pull = along / spread
  log_p = -jnp.sum(along * pull + jnp.log(2 * jnp.pi * spread), -1) / 2
  x0 = means + turn(alpha * variances * pull, "kij,bkj->bki")
  return Parts(jnp.log(weights) + log_p, turn(pull, "kij,bkj->bki"), x0)


def _allowed(data: Mixture, label: Any) -> jax.Array:
  """Which components a row may come from: those of its class, all for a negative label.  [B, K]"""
  label = jnp.asarray(label)[..., None]
  return (label < 0) | (label == jnp.asarray(data.classes))


def _log_joint(data: Mixture, parts: Parts, label: Any) -> jax.Array:
  if label is None:
    return parts.log_joint
  return jnp.where(_allowed(data, label), parts.log_joint, -jnp.inf)


def _halves(data: Mixture, x_t, time: Time, label: Any) -> tuple[jax.Array, jax.Array]:
  """(x0_hat, pull = -score), shaped like x_t."""
  parts = _parts(data, x_t, time)
  share = jax.nn.softmax(_log_joint(data, parts, label), -1)  # [B, K]
  mean = lambda a: jnp.einsum("bk,bkd->bd", share, a).reshape(x_t.shape)
  return mean(parts.x0), mean(parts.pull)


def _predict(x0_hat: jax.Array, pull: jax.Array, kind: str, time: Time) -> Prediction:
  if kind == "score":
    return Prediction(-pull, kind)  # also where sigma = 0
  time = Time(*(jnp.asarray(f, pull.dtype) for f in time))
  sigma = time.sigma.reshape(time.sigma.shape + (1,) * (time.sigma.ndim and pull.ndim - 1))
  return Prediction(from_x0_eps(kind, x0_hat, sigma * pull, time), kind)


def denoiser(data: Mixture, kind: str = "x0") -> Denoiser:
  """The perfect network of this data, as a prediction of any kind, for any process.

  Its condition is None, or the class of each row [B], negative for "any" (the null).
  """

  def denoise(x_t: jax.Array, time: Time, cond: Any = None) -> Prediction:
    return _predict(*_halves(data, x_t, time, cond), kind, time)

  return denoise


def tilted(data: Mixture, scale: Any, kind: str = "x0") -> Denoiser:
  """The field of guidance in closed form: score + scale (score of the class - score).

  Classifier-free guidance [2207.12598 eq. 6] and classifier guidance with p(y | x_t) of weight
  `scale` [2105.05233 alg. 1] both have it exactly; scale 1 is the class itself. The condition is
  the class of each row [B].
  """

  def denoise(x_t: jax.Array, time: Time, cond: Any) -> Prediction:
    (x0_any, any_), (x0_one, one) = (_halves(data, x_t, time, label) for label in (None, cond))
    mix = lambda a, b: a + scale * (b - a)
    return _predict(mix(x0_any, x0_one), mix(any_, one), kind, time)

  return denoise


def data_time() -> Time:
  """t = 0 of every process: alpha = 1 and sigma = 0."""
  one, zero = np.ones(()), np.zeros(())
  return Time(zero, one, zero, zero, one, zero)


def log_density(
  data: Mixture, x_t: jax.Array, time: Time | None = None, label: Any = None
) -> jax.Array:
  """log p_t(x_t), or log p_t(x_t | label), in nats a row; of x0 without a time.   # [B]"""
  parts = _parts(data, x_t, data_time() if time is None else time)
  joint = logsumexp(_log_joint(data, parts, label), -1)
  if label is None:
    return joint
  weights = jnp.where(_allowed(data, label), jnp.asarray(data.weights, joint.dtype), 0)
  return joint - jnp.log(weights.sum(-1))


def log_posterior(data: Mixture, x_t: jax.Array, time: Time | None = None) -> jax.Array:
  """log p(y | x_t) of every class: the perfect noisy classifier.   # [B, classes]"""
  joint = _parts(data, x_t, data_time() if time is None else time).log_joint
  classes = np.arange(int(np.max(data.classes)) + 1)
  own = np.asarray(data.classes)[None] == classes[:, None]  # [classes, K]
  per_class = logsumexp(jnp.where(own, joint[:, None], -jnp.inf), -1)
  return jax.nn.log_softmax(per_class, -1)


def posterior_gradient(data: Mixture, x_t: jax.Array, time: Time, label: Any) -> jax.Array:
  """grad log p(label | x_t) over x_t, shaped like x_t: what classifier guidance adds."""
  return _halves(data, x_t, time, None)[1] - _halves(data, x_t, time, label)[1]


def tilted_log_density(
  data: Mixture, x_t: jax.Array, label: Any, scale: Any, time: Time | None = None
) -> jax.Array:
  """log p(x) + scale log p(label | x) up to a constant: what guidance would have to sample.   # [B]

  At every single time guidance has the score of this density; the path of these densities is not
  one that noise makes, so that following it ends elsewhere.
  """
  own = log_posterior(data, x_t, time)
  return log_density(data, x_t, time) + scale * jnp.take_along_axis(own, label[:, None], -1)[:, 0]


def flow_map(data: Mixture, x_t: jax.Array, now: Time, to: Time) -> jax.Array:
  """Where the probability-flow ODE takes x_t from one time to another. One Gaussian only.

      x_s = alpha_s mean + C_s^1/2 C_t^-1/2 (x_t - alpha_t mean)

  for every process, since C_t keeps its axes.
  """
  if len(data.weights) != 1:
    raise ConfigError(f"flow_map: {len(data.weights)} components; the map is closed for one.")
  dtype = x_t.dtype
  mean, variances = (jnp.asarray(a[0], dtype) for a in data[1:3])
  basis = None if data.basis is None else jnp.asarray(data.basis[0], dtype)

  def of(time: Time) -> tuple[jax.Array, jax.Array]:
    alpha, sigma = (jnp.asarray(a, dtype).reshape(-1, 1) for a in (time.alpha, time.sigma))
    return alpha * mean, jnp.sqrt(alpha**2 * variances + sigma**2)

  (mean_t, spread_t), (mean_s, spread_s) = of(now), of(to)
  away = x_t.reshape(len(x_t), -1) - mean_t
  along = away if basis is None else away @ basis
  moved = along * spread_s / spread_t
  return (mean_s + (moved if basis is None else moved @ basis.T)).reshape(x_t.shape)


def prior_log_density(process: Process, x: jax.Array) -> jax.Array:
  """log N(x; 0, prior_std^2) in nats a row: what a sampler starts from.   # [B]"""
  flat = x.reshape(len(x), -1) / process.prior_std
  log_std = np.log(process.prior_std) + np.log(2 * np.pi) / 2
  return -jnp.sum(flat**2 / 2 + log_std, -1)
