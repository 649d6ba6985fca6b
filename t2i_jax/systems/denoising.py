"""The denoising loss of a batch, with which the objectives of models that draw begin."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from t2i_jax.data.batch import Batch
from t2i_jax.models import Conditioning
from t2i_jax.models.params import Params
from t2i_jax.process import Prediction, denoising_loss
from t2i_jax.process.variational import variance_loss
from t2i_jax.systems.system import Draws, Mixture, flat_images


class Denoised(NamedTuple):
  """values [R] by term: "image", and those that the backbone itself gives;   what they are of"""

  values: dict[str, jax.Array]
  mixture: Mixture
  cond: Conditioning
  prediction: Prediction


def denoise_batch(
  system: Any,
  params: Params,
  batch: Batch,
  draws: Draws,
  change: Callable[[Conditioning], Conditioning] = lambda cond: cond,
) -> Denoised:
  """system: systems.drawing.DrawingSystem;   change: of the condition"""
  x0 = system.encode(params, flat_images(batch), draws.key, draws.rows)
  m = system.mix(x0, draws)
  cond = change(system.conditioning(params, batch, draws))
  prediction, inner = system.network(params, m.seen, m.time, cond)
  return Denoised({"image": image_losses(system, prediction, m)} | inner, m, cond, prediction)


def denoising(system: Any, params: Params, batch: Batch, draws: Draws) -> dict[str, jax.Array]:
  """The weighted error of the prediction, with the variational term of a learned variance."""
  return denoise_batch(system, params, batch, draws).values


def image_losses(system: Any, prediction: Prediction, m: Mixture) -> jax.Array:
  """The weighted error of each image, with the variational term of a learned variance.   # [R]

  system  has output, weighting and penalty
  """
  losses = denoising_loss(prediction, m.x0, m.eps, m.time, system.weighting, system.penalty)
  if system.output.learned_variance:
    losses = losses + variance_loss(system.process, prediction, m.x0, m.x_t, m.time)
  return losses
