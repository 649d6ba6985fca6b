"""The state of a run: what is trained, what is frozen, and what follows them. Born sharded."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t2i_jax.errors import ConfigError
from t2i_jax.models.params import Params
from t2i_jax.parallel import check_divides, shardings
from t2i_jax.training.running import new_running
from t2i_jax.training.system import Trainable


class TrainState(NamedTuple):
  """step [] int32 counts optimiser steps done; the rest are trees of arrays.

  trainable and frozen are disjoint parts of the parameters; ema averages the trainable ones.
  running holds averages over steps: training.running.
  """

  step: Any
  trainable: Any
  frozen: Any
  opt: Any
  ema: Any
  running: Any


def split_params(tree: Params, freeze: tuple[str, ...]) -> tuple[Params, Params]:
  """(trainable, frozen) by path prefix, "text" or "text/embedding". Raises ConfigError."""
  flat = traverse_util.flatten_dict(tree, sep="/")
  under = lambda path, prefix: path == prefix or path.startswith(prefix + "/")
  for prefix in freeze:
    if not any(under(path, prefix) for path in flat):
      raise ConfigError(f"train.freeze: no parameter is under {prefix!r}. There are {list(tree)}.")
  frozen = {p: leaf for p, leaf in flat.items() if any(under(p, prefix) for prefix in freeze)}
  if len(frozen) == len(flat):
    raise ConfigError(f"train.freeze = {freeze} leaves nothing to train.")
  trainable = {p: leaf for p, leaf in flat.items() if p not in frozen}
  return (
    traverse_util.unflatten_dict(trainable, sep="/"),
    traverse_util.unflatten_dict(frozen, sep="/"),
  )


def merge_params(trainable: Params, frozen: Params) -> Params:
  """The inverse of split_params."""
  flat = traverse_util.flatten_dict(trainable) | traverse_util.flatten_dict(frozen)
  return traverse_util.unflatten_dict(flat)


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


def abstract_state(
  system: Trainable,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  freeze: tuple[str, ...] = (),
) -> TrainState:
  """The state as ShapeDtypeStructs that carry their shardings. Raises MeshError, ConfigError."""
  shapes = jax.eval_shape(system.init, jax.random.key(0))
  check_divides(shapes, system.axes, mesh)
  trainable, frozen = split_params(shapes, freeze)
  axes, frozen_axes = split_params(system.axes, freeze)
  opt = jax.eval_shape(optimizer.init, trainable)
  running = jax.eval_shape(new_running)
  replicated = NamedSharding(mesh, PartitionSpec())
  where = TrainState(
    replicated,
    shardings(axes, mesh),
    shardings(frozen_axes, mesh),
    shardings(_like_params(opt, trainable, axes), mesh),
    shardings(axes, mesh),
    jax.tree.map(lambda _: replicated, running),
  )
  step = jax.ShapeDtypeStruct((), jnp.int32)
  state = TrainState(step, trainable, frozen, opt, trainable, running)
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
    state,
    where,
  )


def create_state(
  system: Trainable,
  optimizer: optax.GradientTransformation,
  abstract: TrainState,
  key: jax.Array,
  freeze: tuple[str, ...] = (),
) -> TrainState:
  """A fresh state, each device computing only its own shards."""

  def init(key):
    trainable, frozen = split_params(system.init(key), freeze)
    copy = jax.tree.map(jnp.copy, trainable)
    running = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract.running)
    step, opt = jnp.zeros((), jnp.int32), optimizer.init(trainable)
    return TrainState(step, trainable, frozen, opt, copy, running)

  return jax.jit(init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract))(key)
