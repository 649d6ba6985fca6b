"""LoRA as a network of its own: the adapters of another network's projections, with axes and inits.

Its weights are {path of the projection: {"a", "b"[, "gain"]}}, so that they are trained, averaged,
sharded and saved as those of any part. Source: [2106.09685 sec. 4.1]; DoRA [2402.09353 sec. 4].
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from t2i_jax.errors import ConfigError
from t2i_jax.models.adapters import Adapter, Adapters, norm
from t2i_jax.models.params import Params, Shapes, ones, weight, zeros
from t2i_jax.parallel.rules import Axes
from t2i_jax.ranges import Range, Width

ATTENTION = ("*/q", "*/kv", "*/out")  # projections of attention in every model here
Alpha = Annotated[float, Range("[0, 1e6]")]
Dropout = Annotated[float, Range("[0, 1)")]


@dataclass(frozen=True)
class LoRAConfig:
  """rank     of the products; those of k and of v are separate
  alpha    the products are multiplied by alpha / rank; 0: by 1
  targets  shell patterns of paths of projections, each with its own rank if it has one:
           ("*/q", "*/mlp/*=16"). The last that fits counts; =0 leaves a projection out
  dora     outputs are rescaled to learned magnitudes
  dropout  of what the products are of, in training; what is rescaled by dora has none
  """

  rank: Width = 4
  alpha: Alpha = 0.0
  targets: tuple[str, ...] = ATTENTION
  dora: bool = False
  dropout: Dropout = 0.0

  def rank_of(self, path: str) -> int:
    """0 where the projection is not adapted. Raises ConfigError."""
    found = 0
    for target in self.targets:
      pattern, _, rank = target.partition("=")
      if rank and not rank.isdecimal():
        raise ConfigError(f"targets: {target!r} is no pattern, and no pattern=RANK.")
      if fnmatchcase(path, pattern):
        found = int(rank) if rank else self.rank
    return found

  def scale_of(self, rank: int) -> float:
    return self.alpha / rank if self.alpha else 1.0


class Masks(NamedTuple):
  """What dropout is drawn from.   key: of a step;   rows: [B] int32, numbers in the global batch"""

  key: jax.Array
  rows: jax.Array

  def keys(self, path: str, layers: tuple[int, ...]) -> jax.Array:
    """Key data of each row at the projection `path`, uint32 [B, n]; of a stack [layers, B, n]."""
    key = jax.random.fold_in(self.key, zlib.crc32(path.encode()))
    of_row = lambda key: jax.vmap(lambda row: jax.random.fold_in(key, row))(self.rows)
    if not layers:
      return jax.random.key_data(of_row(key))
    of_layer = jax.vmap(lambda layer: jax.random.fold_in(key, layer))(jnp.arange(layers[0]))
    return jax.random.key_data(jax.vmap(of_row)(of_layer))


class Projection(NamedTuple):
  """A layer that takes an adapter.   stacked: its kernel has a leading axis of layers"""

  shape: tuple[int, ...]
  axes: Axes
  stacked: bool
  inputs: int
  slots: bool
  dense: bool


def projections(make: Callable[[nnx.Rngs], nnx.Module]) -> dict[str, Projection]:
  """Every layer of a network that takes an adapter, by its path."""
  found = {}
  for names, layer in _layers(make(Shapes())):
    kernel = layer.kernel
    shape, axes = kernel.get_value().shape, kernel.get_metadata("axes")
    stacked = axes[:1] == ("layers",)
    inputs = getattr(layer, "summed", 1)
    slots = getattr(layer, "slots", False)
    found["/".join(names)] = Projection(
      shape, axes, stacked, inputs, slots, hasattr(layer, "summed")
    )
  return dict(sorted(found.items()))


def _layers(module: nnx.Module) -> Iterator[tuple[tuple[str, ...], Any]]:
  for path, layer in nnx.iter_modules(module):
    if hasattr(layer, "adapter"):
      yield tuple(map(str, path)), layer


class Node(nnx.Module):
  """A level of the tree of paths."""


class LoRA(nnx.Module):
  """The adapters of a config's targets in the network that `of` makes. Raises ConfigError where
  they fit nothing."""

  def __init__(
    self, config: LoRAConfig, of: Callable[[nnx.Rngs], nnx.Module], rngs: nnx.Rngs
  ) -> None:
    there = projections(of)
    ranks = {path: config.rank_of(path) for path in there}
    if not any(ranks.values()):
      near = ", ".join(list(there)[:8])
      raise ConfigError(f"targets = {config.targets} fit no projection. There are {near}, ...")
    for path, rank in ranks.items():
      if rank:
        _place(self, path.split("/"), _Pair(there[path], rank, config.dora, rngs))


def _place(node: nnx.Module, names: list[str], pair: nnx.Module) -> None:
  for name in names[:-1]:
    if not hasattr(node, name):
      setattr(node, name, Node())
    node = getattr(node, name)
  setattr(node, names[-1], pair)


class _Pair(nnx.Module):
  """A of one projection, uniform within 1 / sqrt(fan in) as peft has it, B of zeros; with DoRA the
  magnitudes in units of the norms of W, 1."""

  def __init__(self, p: Projection, rank: int, dora: bool, rngs: nnx.Rngs) -> None:
    layers, rest = p.shape[: p.stacked], p.shape[p.stacked :]
    of, axes = p.axes[: p.stacked], p.axes[p.stacked :]
    inputs, outputs = rest[: p.inputs], rest[p.inputs :]
    ranks, free = (*outputs[: p.slots], rank), (None,) * (1 + p.slots)
    fan_in = 1
    for size in inputs:
      fan_in *= size

    def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
      return jax.random.uniform(key, shape, jnp.float32, -1, 1) * fan_in**-0.5

    self.a = weight(rngs, (*layers, *inputs, *ranks), (*of, *axes[: p.inputs], *free), uniform)
    shape = (*layers, *ranks, *outputs[p.slots :])
    self.b = weight(rngs, shape, (*of, *free, *axes[p.inputs + p.slots :]), zeros)
    if dora and p.dense:
      self.gain = weight(rngs, (*layers, *outputs), (*of, *axes[p.inputs :]), ones)


def adapters_of(
  config: LoRAConfig,
  of: Callable[[nnx.Rngs], nnx.Module],
  params: Params,
  base: Params,
  masks: Masks | None = None,
) -> Adapters:
  """The adapters that a LoRA's parameters are.

  base   parameters of the network that it adapts
  masks  of a training step, for dropout; None: there is none
  """
  flat, kernels = traverse_util.flatten_dict(params), traverse_util.flatten_dict(base)
  there = projections(of)
  found = {}
  for names in sorted({path[:-1] for path in flat}):
    path, own = "/".join(names), {k: flat[(*names, k)] for k in ("a", "b")}
    gain, p = flat.get((*names, "gain")), there[path]
    magnitude = None
    if gain is not None:
      of_layer = partial(norm, inputs=p.inputs)
      kernel = jax.lax.stop_gradient(kernels[(*names, "kernel")])
      magnitude = gain * (jax.vmap(of_layer) if p.stacked else of_layer)(kernel)
    scale = config.scale_of(own["a"].shape[-1])
    found[path] = Adapter(**own, scale=scale, magnitude=magnitude, slots=p.slots)
    if masks is not None:
      keys = masks.keys(path, p.shape[: p.stacked])
      found[path] = replace(found[path], keys=keys, rate=config.dropout)
  return found
