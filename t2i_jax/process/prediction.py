"""What a network predicts, and every conversion between the predictions, in one place.

    x_t = alpha x0 + sigma eps,    velocity = dx_t/dt = alpha' x0 + sigma' eps

With det = alpha sigma' - sigma alpha' these two lines solve to

    x0 = (sigma' x_t - sigma velocity) / det,    eps = (alpha velocity - alpha' x_t) / det

Source of the three parameterisations: eps [2006.11239 eq. 14], x0 [2202.00512 sec. 4],
velocity [2209.03003 eq. 1].
"""

from typing import Any, NamedTuple

import jax

from t2i_jax.errors import ConfigError
from t2i_jax.process.schedules import Process
from t2i_jax.process.time import Time, like

KINDS = ("eps", "x0", "velocity")


class Prediction(NamedTuple):
  """A network's answer.

  value  [B, ...]  shaped like x_t
  kind   one of KINDS (static)
  aux    whatever else was asked for: learned variance, recorded attention; else None
  """

  value: jax.Array
  kind: str
  aux: Any = None


# A NamedTuple would make `kind` a leaf; as metadata it survives jit, scan and tree.map.
jax.tree_util.register_pytree_node(
  Prediction,
  lambda p: ((p.value, p.aux), p.kind),
  lambda kind, children: Prediction(children[0], kind, children[1]),
)


def check_prediction(process: Process, kind: str) -> None:
  """Refuses a prediction that has no value somewhere on the process. Raises ConfigError."""
  if kind not in KINDS:
    raise ConfigError(f"process.prediction = {kind!r} is not one of {', '.join(KINDS)}.")
  if kind == "eps" and process.zero_terminal_snr:
    raise ConfigError(
      f"process.prediction = 'eps' has no x0 at t = 1, where {process.name} has alpha = 0. "
      "Use 'velocity' or 'x0', or a ddpm process."
    )


def to_x0_eps(prediction: Prediction, x_t: jax.Array, time: Time) -> tuple[jax.Array, jax.Array]:
  """Both halves of the mixture from any prediction.

  x_t [B, ...]; time fields scalar or [B]. Returns (x0_hat, eps_hat), shaped like x_t.
  x0 needs sigma > 0 for its eps, eps needs alpha > 0 for its x0; velocity is finite everywhere.
  """
  value = prediction.value
  alpha, sigma = like(time.alpha, x_t), like(time.sigma, x_t)
  if prediction.kind == "x0":
    return value, (x_t - alpha * value) / sigma
  if prediction.kind == "eps":
    return (x_t - sigma * value) / alpha, value
  d_alpha, d_sigma = like(time.d_alpha, x_t), like(time.d_sigma, x_t)
  det = alpha * d_sigma - sigma * d_alpha
  return (d_sigma * x_t - sigma * value) / det, (alpha * value - d_alpha * x_t) / det


def to_velocity(prediction: Prediction, x_t: jax.Array, time: Time) -> jax.Array:
  """dx_t/dt along the probability-flow ODE, shaped like x_t."""
  if prediction.kind == "velocity":
    return prediction.value
  x0_hat, eps_hat = to_x0_eps(prediction, x_t, time)
  return like(time.d_alpha, x_t) * x0_hat + like(time.d_sigma, x_t) * eps_hat


def convert(prediction: Prediction, kind: str, x_t: jax.Array, time: Time) -> Prediction:
  """The same prediction as another kind; aux is kept. See to_x0_eps for where each is finite."""
  if kind == prediction.kind:
    return prediction
  if kind == "velocity":
    return prediction._replace(value=to_velocity(prediction, x_t, time), kind=kind)
  x0_hat, eps_hat = to_x0_eps(prediction, x_t, time)
  return prediction._replace(value=x0_hat if kind == "x0" else eps_hat, kind=kind)


def target(kind: str, x0: jax.Array, eps: jax.Array, time: Time) -> jax.Array:
  """What a perfect network of this kind answers at x_t = alpha x0 + sigma eps."""
  if kind == "x0":
    return x0
  if kind == "eps":
    return eps
  return like(time.d_alpha, x0) * x0 + like(time.d_sigma, x0) * eps
