"""Kinds of prediction of a network, and the conversions between them.

    x_t = alpha x0 + sigma eps

    velocity = dx_t/dt = alpha' x0 + sigma' eps         [2209.03003 eq. 1]
    v        = alpha eps - sigma x0                     [2202.00512 app. D]
    score    = grad log p(x_t | x0) = -eps / sigma      [2011.13456 eq. 7]

Each is a linear equation in (x0, eps) beside that of x_t, so that both can be solved for:

    eps        x0 = (x_t - sigma eps) / alpha
    x0         eps = (x_t - alpha x0) / sigma
    velocity   x0 = (sigma' x_t - sigma velocity) / det,  eps = (alpha velocity - alpha' x_t) / det
    v          x0 = (alpha x_t - sigma v) / norm,         eps = (sigma x_t + alpha v) / norm
    score      x0 = (x_t + sigma^2 score) / alpha,        eps = -sigma score

with det = alpha sigma' - sigma alpha' and norm = alpha^2 + sigma^2, which is 1 for
variance-preserving processes. `undefined` says where the equations have no solution.
"""

from typing import Any, NamedTuple

import jax

from t2i_jax.errors import ConfigError
from t2i_jax.process.schedules import Process
from t2i_jax.process.time import Time, like

KINDS = ("eps", "x0", "v", "velocity", "score")


class Prediction(NamedTuple):
  """A network's output.

  value   [B, ...]  shaped like x_t
  kind    one of KINDS (static)
  aux     further outputs: learned variance, recorded attention; else None
  memory  state that a guidance method keeps for the next step; else None
  """

  value: jax.Array
  kind: str
  aux: Any = None
  memory: Any = None


# A NamedTuple would make `kind` a leaf; as metadata it survives jit, scan and tree.map.
jax.tree_util.register_pytree_node(
  Prediction,
  lambda p: ((p.value, p.aux, p.memory), p.kind),
  lambda kind, children: Prediction(children[0], kind, *children[1:]),
)


def undefined(kind: str, wanted: str, alpha: float, sigma: float) -> str | None:
  """Why a prediction of `kind` does not determine `wanted` at these coefficients of x_t, or None.

  At alpha = 0 (no signal) eps equals x_t and does not determine x0; at sigma = 0 (no noise) x0
  equals x_t and does not determine eps, and the score is -eps / sigma with both 0. A finite score
  gives eps_hat = 0 there.
  """
  if kind == wanted:
    return None
  if alpha == 0 and kind in ("eps", "score") and wanted not in ("eps", "score"):
    return f"{kind} does not determine x0 where alpha = 0"
  if sigma == 0 and kind == "x0":
    return "x0 does not determine eps where sigma = 0"
  if sigma == 0 and wanted == "score":
    return f"{kind} does not determine the score where sigma = 0"
  return None


def check_prediction(process: Process, kind: str) -> None:
  """Raises ConfigError for a prediction that is undefined somewhere on the process."""
  if kind not in KINDS:
    raise ConfigError(f"process.prediction = {kind!r} is not one of {', '.join(KINDS)}.")
  if kind in ("eps", "score") and process.zero_terminal_snr:
    raise ConfigError(
      f"process.prediction = {kind!r} does not determine x0 at t = 1, where {process.name} has "
      "alpha = 0. Use 'v', 'velocity' or 'x0', or a process.kind with alpha(1) > 0."
    )


def to_x0_eps(prediction: Prediction, x_t: jax.Array, time: Time) -> tuple[jax.Array, jax.Array]:
  """x0 and eps from a prediction of any kind.

  x_t [B, ...]; time fields scalar or [B]. Returns (x0_hat, eps_hat), shaped like x_t; not finite
  where `undefined` gives a reason.
  """
  kind, value = prediction.kind, prediction.value
  alpha, sigma = like(time.alpha, x_t), like(time.sigma, x_t)
  if kind == "x0":
    return value, (x_t - alpha * value) / sigma
  if kind == "eps":
    return (x_t - sigma * value) / alpha, value
  if kind == "score":
    return (x_t + sigma * sigma * value) / alpha, -sigma * value
  if kind == "v":
    norm = alpha * alpha + sigma * sigma
    return (alpha * x_t - sigma * value) / norm, (sigma * x_t + alpha * value) / norm
  d_alpha, d_sigma = like(time.d_alpha, x_t), like(time.d_sigma, x_t)
  det = alpha * d_sigma - sigma * d_alpha
  return (d_sigma * x_t - sigma * value) / det, (alpha * value - d_alpha * x_t) / det


def from_x0_eps(kind: str, x0: jax.Array, eps: jax.Array, time: Time) -> jax.Array:
  """The prediction of a kind from x0 and eps; from the true ones, the target of training."""
  if kind == "x0":
    return x0
  if kind == "eps":
    return eps
  if kind == "score":
    return -eps / like(time.sigma, x0)
  if kind == "v":
    return like(time.alpha, x0) * eps - like(time.sigma, x0) * x0
  return like(time.d_alpha, x0) * x0 + like(time.d_sigma, x0) * eps


def convert(prediction: Prediction, kind: str, x_t: jax.Array, time: Time) -> Prediction:
  """The same prediction as another kind; aux and memory are kept."""
  if kind == prediction.kind:
    return prediction
  value = from_x0_eps(kind, *to_x0_eps(prediction, x_t, time), time)
  return prediction._replace(value=value, kind=kind)
