"""The denoising loss: target, weight, reduction over a row. The train step averages over rows."""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp

from t2i_jax.process.prediction import Prediction, from_x0_eps
from t2i_jax.process.time import Time, like
from t2i_jax.process.weightings import Weighting, space_factor
from t2i_jax.ranges import Range

Penalty = Callable[[jax.Array], jax.Array]


def huber(delta: Annotated[float, Range("[1e-4, 100]")] = 1.0) -> Penalty:
  """2 delta^2 (sqrt(1 + (e / delta)^2) - 1): e^2 near 0, 2 delta |e| far away.

  The pseudo-Huber penalty of one element; tends to e^2 as delta grows. few_step.pseudo_huber is
  that of a whole row, as consistency training uses it [2310.14189 sec. 3.3].
  """
  return lambda error: 2 * delta**2 * (jnp.sqrt(1 + jnp.square(error / delta)) - 1)


def squared() -> Penalty:
  """e^2."""
  return jnp.square


PENALTIES: dict[str, Callable[..., Penalty]] = {"squared": squared, "huber": huber}


def denoising_loss(
  prediction: Prediction,
  x0: jax.Array,
  eps: jax.Array,
  time: Time,
  weighting: Weighting,
  penalty: Penalty = jnp.square,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Weighted error per row, for every kind of prediction.   # [B]

      loss = w_x0(t) / c_kind(t)^2  mean penalty(value - target),   c = space_factor

  which for weighting = in_space(kind) is the plain regression of [2006.11239 eq. 14] (eps) and
  [2210.02747 eq. 14] (velocity).

  mask  [B, ..., 1 or C]; the mean is over elements where it is 1
  """
  error = prediction.value.astype(jnp.float32) - from_x0_eps(prediction.kind, x0, eps, time)
  cost = penalty(error)
  axes = tuple(range(1, error.ndim))
  if mask is None:
    per_row = jnp.mean(cost, axis=axes)  # [B]
  else:
    counts = jnp.broadcast_to(mask, cost.shape)
    per_row = jnp.sum(cost * counts, axis=axes) / jnp.maximum(jnp.sum(counts, axis=axes), 1)
  own = jnp.square(jnp.maximum(space_factor(prediction.kind, time), 1e-6))
  return per_row * weighting(time) / own


def offset_noise(eps: jax.Array, per_channel: jax.Array, strength: float) -> jax.Array:
  """eps plus strength times one unit Gaussian per channel, so that mean colours are learned too.

  eps [B, H, W, C], per_channel [B, 1, 1, C] unit Gaussian. The target is the sum.
  Source: "Diffusion with offset noise", N. Guttenberg 2023.
  """
  return eps + strength * per_channel


def perturbed_input(x_t: jax.Array, time: Time, extra: jax.Array, strength: float) -> jax.Array:
  """x_t with more noise than the target has: sigma (eps + strength extra). [2301.11706 alg. 1]"""
  return x_t + like(time.sigma, x_t) * strength * extra
