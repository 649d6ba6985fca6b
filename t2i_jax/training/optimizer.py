"""Optimisers from optax, with the schedule counted in optimiser steps."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import optax
from ml_collections import ConfigDict

from t2i_jax.config import build
from t2i_jax.errors import ConfigError
from t2i_jax.models.params import Params
from t2i_jax.ranges import Range, Weight, Whole
from t2i_jax.systems import System, split_params

Decay = Annotated[float, Range("[0, 1)")]


def constant(peak: float, steps: int, warmup: Whole = 0) -> optax.Schedule:
  """Linear from 0 to `peak` over `warmup` steps, then constant."""
  rise, flat = optax.linear_schedule(0.0, peak, warmup), optax.constant_schedule(peak)
  return optax.join_schedules([rise, flat], [_checked(warmup, steps)])


def cosine(peak: float, steps: int, warmup: Whole = 0) -> optax.Schedule:
  """Linear from 0 to `peak` over `warmup` steps, then a cosine to 0 at the last step."""
  return optax.warmup_cosine_decay_schedule(0.0, peak, _checked(warmup, steps), steps)


def _checked(warmup: int, steps: int) -> int:
  if warmup >= steps:
    raise ConfigError(
      f"train.schedule: warmup = {warmup} leaves nothing of train.steps = {steps}. Shorten it."
    )
  return warmup


def _is_leaf(m: Any) -> bool:
  return m is None or isinstance(m, tuple)


def adamw(
  lr: optax.Schedule,
  vector_lr: optax.Schedule,
  matrices: Params,
  b1: Decay = 0.9,
  b2: Decay = 0.999,
  weight_decay: Weight = 0.0,
) -> optax.GradientTransformation:
  """AdamW for all; weights decay in matrices only. Source: [1711.05101 alg. 2]"""
  labels = jax.tree.map(lambda m: "vector" if m is None else "matrix", matrices, is_leaf=_is_leaf)
  return optax.partition(
    {
      "matrix": optax.adamw(lr, b1=b1, b2=b2, weight_decay=weight_decay),
      "vector": optax.adamw(vector_lr, b1=b1, b2=b2, weight_decay=0.0),
    },
    labels,
  )


# Newton-Schulz iterations by name: coefficients of x, x x^T x and (x x^T)^2 x, a triple for all
# steps or one a step.
NEWTON_SCHULZ: dict[str, tuple[Any, ...]] = {
  "keller": (3.4445, -4.7750, 2.0315),  # 5 steps; singular values end in [0.68, 1.15]
  # Minimax on [0.01, 1], 3 steps of [2505.16932 alg. 1]: they end in [0.73, 1.27].
  "polar": (
    (8.0934, -23.6204, 17.4462),
    (3.6366, -2.7219, 0.5365),
    (2.6613, -1.9772, 0.4526),
  ),
}


def muon(
  lr: optax.Schedule,
  vector_lr: optax.Schedule,
  matrices: Params,
  b2: Decay = 0.999,
  weight_decay: Weight = 0.0,
  iteration: str = "keller",
) -> optax.GradientTransformation:
  """Muon for matrices [2502.16982 alg. 1]; b2 is of the AdamW that learns the rest.

  iteration  a name of NEWTON_SCHULZ
  """
  if iteration not in NEWTON_SCHULZ:
    raise ConfigError(
      f"train.optimizer: iteration = {iteration!r} is not one of {', '.join(NEWTON_SCHULZ)}."
    )
  numbers = jax.tree.map(
    lambda m: None if m is None else optax.contrib.MuonDimensionNumbers(*m),
    matrices,
    is_leaf=_is_leaf,
  )
  return optax.contrib.muon(
    lr,
    ns_coeffs=NEWTON_SCHULZ[iteration],
    weight_decay=weight_decay,
    adam_b2=b2,
    adam_learning_rate=vector_lr,
    muon_weight_dimension_numbers=numbers,
  )


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {"constant": constant, "cosine": cosine}
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {"adamw": adamw, "muon": muon}


class Optimizers(NamedTuple):
  """An optimiser a player of the system, each over the parts that it trains."""

  by_player: dict[str, optax.GradientTransformation]
  parts: dict[str, tuple[str, ...]]

  def init(self, trainable: Params) -> dict[str, Any]:
    return {p: o.init(self._own(p, trainable)) for p, o in self.by_player.items()}

  def update(self, grads: Params, state: dict[str, Any], trainable: Params) -> tuple[Params, Any]:
    """(updates of all parts, the new state), as an optax transformation gives them."""
    updates: Params = {}
    after: dict[str, Any] = {}
    for player, optimizer in self.by_player.items():
      own = (self._own(player, grads), state[player], self._own(player, trainable))
      found, after[player] = optimizer.update(*own)
      updates |= found
    return updates, after

  def _own(self, player: str, tree: Params) -> Params:
    return {name: tree[name] for name in self.parts[player] if name in tree}


def make_optimizers(c: ConfigDict, system: System) -> Optimizers:
  """Clip by the global norm of a player's gradient, then the optimiser. Raises ConfigError.

  c  config.train: hidden matrices learn at lr, everything else (embeddings, gains, outer layers) at
     vector_lr. What is a matrix, and along which dimensions, its declaration says
     (models.params.weight).
  """
  trainable, _ = split_params(system.matrices, system.parts)
  schedule = lambda peak: build(SCHEDULES, c.schedule, "train.schedule", peak, c.steps)
  rates = (schedule(c.lr), schedule(c.vector_lr))

  def chain(parts: tuple[str, ...]) -> optax.GradientTransformation:
    own = {name: trainable[name] for name in parts if name in trainable}
    optimizer = build(OPTIMIZERS, c.optimizer, "train.optimizer", *rates, own)
    return optax.chain(optax.clip_by_global_norm(c.clip), optimizer)

  players = system.players
  return Optimizers({player: chain(parts) for player, parts in players.items()}, players)
