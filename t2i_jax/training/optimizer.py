"""Optimisers from optax, with the schedule counted in optimiser steps."""

import jax
import optax
from ml_collections import ConfigDict

from t2i_jax.errors import ConfigError
from t2i_jax.models.params import Params
from t2i_jax.training.state import split_params

OPTIMIZERS = ("adamw", "muon")
DECAYS = ("constant", "cosine")


def make_schedule(peak: float, c: ConfigDict) -> optax.Schedule:
  """Linear warm-up to `peak` over train.warmup steps, then constant or cosine to zero."""
  if c.decay not in DECAYS:
    raise ConfigError(f"train.decay = {c.decay!r} is not one of {', '.join(DECAYS)}.")
  if c.warmup >= c.steps:
    raise ConfigError(f"train.warmup = {c.warmup} leaves nothing of train.steps = {c.steps}.")
  if c.decay == "cosine":
    return optax.warmup_cosine_decay_schedule(0.0, peak, c.warmup, c.steps)
  return optax.join_schedules(
    [optax.linear_schedule(0.0, peak, c.warmup), optax.constant_schedule(peak)], [c.warmup]
  )


def make_optimizer(c: ConfigDict, matrices: Params) -> optax.GradientTransformation:
  """Clip by the global norm, then the optimiser.

  c         config.train: hidden matrices learn at lr, everything else (embeddings, gains, outer
            layers) by AdamW at vector_lr; "adamw" uses AdamW for the matrices too
  matrices  which weights are matrices, and along which dimensions (models.params.weight); those
            under train.freeze are left out here, as in the trees to be optimised
  Source: Muon [2502.16982 alg. 1], AdamW [1711.05101 alg. 2].
  """
  matrices, _ = split_params(matrices, c.freeze)
  is_leaf = lambda m: m is None or isinstance(m, tuple)
  lr, vector_lr = make_schedule(c.lr, c), make_schedule(c.vector_lr, c)
  if c.optimizer == "muon":
    numbers = jax.tree.map(
      lambda m: None if m is None else optax.contrib.MuonDimensionNumbers(*m),
      matrices,
      is_leaf=is_leaf,
    )
    optimizer = optax.contrib.muon(
      lr,
      weight_decay=c.weight_decay,
      adam_b2=c.b2,
      adam_learning_rate=vector_lr,
      muon_weight_dimension_numbers=numbers,
    )
  elif c.optimizer == "adamw":
    labels = jax.tree.map(lambda m: "vector" if m is None else "matrix", matrices, is_leaf=is_leaf)
    optimizer = optax.partition(
      {
        "matrix": optax.adamw(lr, b2=c.b2, weight_decay=c.weight_decay),
        "vector": optax.adamw(vector_lr, b2=c.b2, weight_decay=0.0),
      },
      labels,
    )
  else:
    raise ConfigError(f"train.optimizer = {c.optimizer!r} is not one of {', '.join(OPTIMIZERS)}.")
  return optax.chain(optax.clip_by_global_norm(c.clip), optimizer)
