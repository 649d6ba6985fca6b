"""The state of a run: what is trained, what is frozen, and what follows them. Born sharded."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t2i_jax.models.params import Params
from t2i_jax.parallel import check_divides, shardings
from t2i_jax.systems import System, merge_params, split_params
from t2i_jax.training.optimizer import Optimizers
from t2i_jax.training.running import new_running


class TrainState(NamedTuple):
  """step [] int32 counts optimiser steps done; the rest are trees of arrays.

  trainable and frozen are disjoint parts of the parameters; ema averages the trainable ones.
  running holds averages over steps: training.running, and what the system keeps.
  """

  step: Any
  trainable: Any
  frozen: Any
  opt: Any
  ema: Any
  running: Any


def _like_params(tree: Any, shapes: Params, axes: Params) -> Any:
  """Axes of an optimiser's tree: those of the parameter whose path a leaf's path ends with."""
  flat_shapes, flat_axes = traverse_util.flatten_dict(shapes), traverse_util.flatten_dict(axes)

  def find(path, leaf):
    keys = tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
    for start in range(len(keys)):
      tail = keys[start:]
      if tail in flat_shapes and flat_shapes[tail].shape == leaf.shape:
        return flat_axes[tail]
    return PartitionSpec(*[None] * leaf.ndim)

  return jax.tree.map_with_path(find, tree)


def abstract_params(system: System, mesh: Mesh) -> Params:
  """All parameters as ShapeDtypeStructs that carry their shardings. Raises MeshError."""
  shapes, axes = system.abstract, system.axes
  check_divides(shapes, axes, mesh)
  return _placed(shapes, shardings(axes, mesh))


def _placed(shapes: Any, where: Any) -> Any:
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
    shapes,
    where,
  )


def abstract_state(system: System, optimizers: Optimizers, mesh: Mesh) -> TrainState:
  """The state as ShapeDtypeStructs that carry their shardings. Raises MeshError, ConfigError."""
  trainable, frozen = split_params(abstract_params(system, mesh), system.parts)
  axes, _ = split_params(system.axes, system.parts)
  opt = jax.eval_shape(optimizers.init, trainable)
  opt = _placed(opt, shardings(_like_params(opt, trainable, axes), mesh))
  replicated = NamedSharding(mesh, PartitionSpec())
  alone = lambda tree: _placed(tree, jax.tree.map(lambda _: replicated, tree))
  running = jax.eval_shape(new_running) | system.kept
  step, running = alone((jax.ShapeDtypeStruct((), jnp.int32), running))
  return TrainState(step, trainable, frozen, opt, trainable, running)


def create_state(
  system: System,
  optimizers: Optimizers,
  abstract: TrainState,
  key: jax.Array,
  starts: Params | None = None,
) -> TrainState:
  """A fresh state, each device computing only its own shards.

  starts  weights in place of the random ones: any part of the tree of parameters
  """
  where = jax.tree.map(lambda leaf: leaf.sharding, abstract)

  def init(key, starts):
    fresh = merge_params(system.init(key), starts)
    trainable, frozen = split_params(fresh, system.parts)
    copy = jax.tree.map(jnp.copy, trainable)
    running = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract.running)
    step, opt = jnp.zeros((), jnp.int32), optimizers.init(trainable)
    return TrainState(step, trainable, frozen, opt, copy, running)

  return jax.jit(init, out_shardings=where)(key, starts or {})
