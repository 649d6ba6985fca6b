"""Runs of one config beside each other in one program: the parts of `t2i train` under vmap.

The system, objective, adapters, optimiser and step are those of the config. What differs from run
to run is an argument: images, captions, the order of rows, the seed, the learning rate, and
parameters that a run does not share with the base.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from t2i_jax.data.batch import Batch, Tokens
from t2i_jax.data.order import index_at
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.models.params import Params
from t2i_jax.systems import make_system, merge_params, split_params
from t2i_jax.systems.adapters import merged
from t2i_jax.training.optimizer import make_optimizers
from t2i_jax.training.running import new_running
from t2i_jax.training.state import TrainState
from t2i_jax.training.step import make_train_step

CHUNK = 25  # steps of a compiled call
# What of a state runs share: with one step for all a stage of training is one branch of a program.
EACH = TrainState(None, 0, 0, 0, 0, 0)
UNIT_RATE = {"train.lr": "1.0", "train.vector_lr": "1.0"}  # of a config: a run has its own


class Scaled(NamedTuple):
  """Optimizers of rate 1, and the rate: AdamW's updates are linear in it."""

  optimizers: Any
  rate: jax.Array

  def update(self, grads: Params, state: Any, trainable: Params) -> tuple[Params, Any]:
    updates, after = self.optimizers.update(grads, state, trainable)
    return jax.tree.map(lambda u: self.rate * u, updates), after


class Seeded(NamedTuple):
  """What a train step reads of a config, with a seed that is an argument."""

  train: ConfigDict
  seed: jax.Array


class Given(NamedTuple):
  """The data of a run.

  images  uint8 [N, H, W, 3], and their captions: ids int32 [N, T], mask bool [N, T]
  rate, seed  of the run
  own     parameters that are its own and frozen, by part, beside or in place of the base's
  """

  images: Any
  ids: Any
  mask: Any
  rate: Any
  seed: Any
  own: Params


class Learned(NamedTuple):
  """Runs after some steps.   seconds: of a run, without compilation;   params: by run"""

  step: int
  seconds: float
  params: list[Params]


class Beside:
  """A config's runs: compiled once for all data, seeds and learning rates.

  base    parameters by part that all runs share, and begin at
  rows    of a batch;   roles: that these have in turn
  finish  what is made of the parameters of a run; by default adapters are merged
  """

  def __init__(
    self,
    config: ConfigDict,
    tokenizer: Tokenizer,
    base: Params,
    rows: int,
    at_once: int,
    finish: Callable[[Params], Params] | None = None,
  ):
    self.config, self.base, self.rows, self.at_once = config, base, rows, at_once
    self.system = make_system(config, tokenizer)
    self.system.check_training(rows)
    self.optimizers = make_optimizers(config.train, self.system)
    self._finish = finish or partial(merged, self.system)
    self._init: Any = jax.jit(jax.vmap(self._fresh, (0, None), EACH))
    self._advance: Any = jax.jit(self._all_steps)
    self._finished: Any = jax.jit(self._whole)
    self._compiled: Any = None

  def _fresh(self, given: Given, base: Params) -> TrainState:
    fresh = self.system.init(jax.random.key(given.seed))
    trainable, _ = split_params(self._of(fresh | base, given.own), self.system.parts)
    opt = self.optimizers.init(trainable)
    return TrainState(jnp.int32(0), trainable, {}, opt, trainable, new_running())

  def _of(self, base: Params, own: Params) -> Params:
    params = merge_params(base, own)
    return {name: tree for name, tree in params.items() if name in self.system.parts}

  def _frozen(self, base: Params, own: Params) -> Params:
    """Parts that are not trained, and the other weights of those of which some are."""
    _, frozen = split_params(self.system.abstract, self.system.parts)
    flat = flatten_dict(self._of(base, own))
    return unflatten_dict({path: flat[path] for path in flatten_dict(frozen)})

  def _all_steps(
    self, states: TrainState, base: Params, given: Given, picks: jax.Array
  ) -> TrainState:
    """A chunk of steps of all runs.   picks [runs, chunk, rows]"""
    return jax.vmap(self._steps, (EACH, None, 0, 0), EACH)(states, base, given, picks)

  def _steps(self, state: TrainState, base: Params, given: Given, picks: jax.Array) -> TrainState:
    scaled: Any = Scaled(self.optimizers, given.rate)
    seeded: Any = Seeded(self.config.train, given.seed)
    step, roles = make_train_step(self.system, scaled, seeded), len(self.system.roles)
    ones = jnp.ones((self.rows, 1))

    def one(state: TrainState, pick: jax.Array) -> tuple[TrainState, None]:
      text: Any = {"text": Tokens(given.ids[pick], given.mask[pick])}
      role = jnp.arange(self.rows) % roles if roles else None
      batch = Batch(given.images[pick][:, None], ones, ones, text, role=role)
      return step(state, batch)[0], None

    whole = state._replace(frozen=self._frozen(base, given.own))
    return jax.lax.scan(one, whole, picks)[0]._replace(frozen={})

  def _whole(self, states: TrainState, base: Params, given: Given, i: jax.Array) -> Params:
    trainable, own = jax.tree.map(lambda x: x[i], (states.trainable, given.own))
    return self._finish(merge_params(trainable, self._frozen(base, own)))

  def learn(
    self,
    runs: Sequence[Given],
    picks: Callable[[int, int], np.ndarray],
    steps: Sequence[int],
  ) -> Iterator[Learned]:
    """All runs after each of `steps`, multiples of the steps of a compiled call.

    picks  (seed, first step) -> indices of images of these steps [chunk, rows]: see `in_turn`
    """
    filled = [*runs, *[runs[-1]] * (self.at_once - len(runs))]
    seeds = [int(run.seed) for run in filled]
    given: Any = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *filled)
    states, seconds = self._init(given, self.base), 0.0
    chunk = len(picks(seeds[0], 0))
    for first in range(0, max(steps), chunk):
      rows = np.stack([picks(seed, first) for seed in seeds]).astype(np.int32)
      if self._compiled is None:  # beforehand, so that no compilation is timed
        self._compiled = self._advance.lower(states, self.base, given, rows).compile()
      began = time.perf_counter()
      states = jax.block_until_ready(self._compiled(states, self.base, given, rows))
      seconds += (time.perf_counter() - began) / len(filled)
      if first + chunk in steps:
        found = [self._finished(states, self.base, given, jnp.int32(i)) for i in range(len(runs))]
        yield Learned(first + chunk, seconds, found)


def in_turn(
  ranges: Sequence[tuple[int, int]], each: int, chunk: int = CHUNK
) -> Callable[[int, int], np.ndarray]:
  """The order of rows: of each role `each` a step, roles in turn, images of a role in the order
  of epochs.

  ranges  (first index, number) of each role's images;   chunk: steps of a compiled call
  """

  def picks(seed: int, first: int) -> np.ndarray:
    turns = range(first * each, (first + chunk) * each)
    found = [[start + index_at(turn, n, seed)[1] for turn in turns] for start, n in ranges]
    return np.stack(found, 1).reshape(chunk, each * len(ranges))

  return picks
