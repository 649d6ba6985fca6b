"""The denoising loss: target, weight, reduction over a row. Batches are averaged by the step."""

import jax
import jax.numpy as jnp

from t2i_jax.process.prediction import Prediction, target
from t2i_jax.process.time import Time

# Where a prediction is weighed in a space that its own coefficients make infinite (x0 seen as
# velocity at t = 0), the coefficient is held at this floor [2511.13720 sec. 4].
FLOOR = 0.05


def space_factor(kind: str, time: Time) -> jax.Array:
  """How far one unit of error in x0 moves the prediction of this kind, at fixed x_t.

  x0: 1,    eps: alpha / sigma,    velocity: |alpha sigma' - sigma alpha'| / sigma
  """
  sigma = jnp.maximum(time.sigma, FLOOR)
  if kind == "x0":
    return jnp.ones_like(sigma)
  if kind == "eps":
    return time.alpha / sigma
  return jnp.abs(time.alpha * time.d_sigma - time.sigma * time.d_alpha) / sigma


def denoising_loss(
  prediction: Prediction, x0: jax.Array, eps: jax.Array, time: Time, space: str
) -> jax.Array:
  """Squared error of a row, measured in `space` whatever the network predicts.   # [B]

      loss = (c_space / c_kind)^2 mean |value - target|^2,   c = space_factor

  which for space == kind is the plain regression of [2006.11239 eq. 14] (eps) and
  [2210.02747 eq. 14] (velocity).
  """
  error = prediction.value.astype(jnp.float32) - target(prediction.kind, x0, eps, time)
  per_row = jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))  # [B]
  if space == prediction.kind:
    return per_row
  kind_factor = jnp.maximum(space_factor(prediction.kind, time), 1e-6)
  return per_row * jnp.square(space_factor(space, time) / kind_factor)
