"""Weights: declared once with their logical axes, stacked for the scan, taken out as plain trees.

The only file that touches flax.nnx's names for variables, which are still moving.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from t2i_jax.errors import ConfigError
from t2i_jax.models.adapters import Adapters, attach
from t2i_jax.parallel.rules import Axes

Init = Callable[[jax.Array, tuple[int, ...]], jax.Array]
Params = dict[str, Any]  # nested, of float32 arrays


def fan_in(size: int) -> Init:
  """Normal with variance 1 / size: keeps the variance of a sum over `size` inputs."""
  return lambda key, shape: jax.random.normal(key, shape) * size**-0.5


def zeros(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  return jnp.zeros(shape)


def ones(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  return jnp.ones(shape)


class Shapes(nnx.Rngs):
  """In place of random keys: a module that is made with it has shapes for weights. No tracing."""

  def __init__(self) -> None:
    pass


def weight(
  rngs: nnx.Rngs,
  shape: tuple[int, ...],
  axes: Axes,
  init: Init,
  matrix: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
) -> nnx.Param:
  """A float32 parameter.

  axes    one logical axis a dimension (parallel.RULES)
  matrix  (input dimensions, output dimensions) where the weight is a hidden matrix that an
          optimiser may treat as one (Muon); None for gains, embeddings and the outer layers
  """
  if isinstance(rngs, Shapes):
    return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32), axes=axes, matrix=matrix)
  return nnx.Param(init(rngs.params(), shape), axes=axes, matrix=matrix)


def stack_blocks(make: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs) -> nnx.Module:
  """`depth` equal blocks as one module whose weights have a leading "layers" axis."""
  if isinstance(rngs, Shapes):
    blocks = make(rngs)
  else:
    keys = jax.random.split(rngs.params(), depth)
    blocks = nnx.vmap(lambda key: make(nnx.Rngs(key)))(keys)
  for _, param in nnx.to_flat_state(nnx.state(blocks, nnx.Param)):
    if isinstance(rngs, Shapes):
      param.set_value(jax.ShapeDtypeStruct((depth, *param.get_value().shape), jnp.float32))
    param.set_metadata("axes", ("layers", *param.get_metadata("axes")))
    matrix = param.get_metadata("matrix")
    if matrix is not None:
      param.set_metadata("matrix", tuple(tuple(d + 1 for d in side) for side in matrix))
  return blocks


def stacked(blocks: nnx.Module) -> int:
  """How many blocks a stack has."""
  return int(jax.tree.leaves(nnx.state(blocks, nnx.Param))[0].shape[0])


# What the backward pass keeps of a block besides its input. Names are those that the blocks give:
# attention (its output, and what the kernel needs of it), qkv (after norm and rotation), mlp.
_KEPT = jax.checkpoint_policies.save_only_these_names
REMAT: dict[str, Callable[[Callable], Callable]] = {
  "none": lambda body: body,
  "full": jax.checkpoint,
  "dots": partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
  "attention": partial(jax.checkpoint, policy=_KEPT("attention")),
  "qkv": partial(jax.checkpoint, policy=_KEPT("attention", "qkv")),
  "offload": partial(
    jax.checkpoint,
    policy=jax.checkpoint_policies.save_and_offload_only_these_names(
      names_which_can_be_saved=[],
      names_which_can_be_offloaded=["attention", "qkv"],
      offload_src="device",
      offload_dst="pinned_host",
    ),
  ),
}


class Chosen(NamedTuple):
  """Residuals of a stack: values [K, ...], and which [depth] of them is added after each block."""

  values: Any
  which: jax.Array


def scan_blocks(
  blocks: nnx.Module,
  x: Any,
  call: Callable,
  xs: Any = None,
  remat: str = "none",
  residuals: Any = None,
  unroll: bool = False,
) -> tuple[Any, Any]:
  """x, outputs[i] = call(block, x, xs[i]) through the stacked blocks, as one scan.

  outputs    stacked on a leading axis: a skip connection is an output of one stack that is an xs,
             `backwards`, of a later one
  remat      what the backward pass keeps, by name
  residuals  Chosen, or a pytree [K, ...] with K <= depth: x + residuals[i // ceil(depth / K)] after
             block i, as diffusers' FluxTransformer2DModel; one with fewer tokens than x is added to
             the last of them, which are the image's, and None in place of a part of x adds nothing
  unroll     no loop in the program: for a few blocks of convolutions
  Adapters that were bound with the parameters (models.adapters) are scanned like the weights.
  """
  graph, weights = nnx.split(blocks)
  if residuals is not None and not isinstance(residuals, Chosen):
    residuals = Chosen(residuals, _residual_of_blocks(stacked(blocks), residuals))
  values, which = (None, None) if residuals is None else residuals

  def body(x, layer):
    weights, xs, index = layer
    x, output = call(nnx.merge(graph, weights), x, xs)
    if values is not None:
      x = _add(x, jax.tree.map(lambda leaf: leaf[index], values))
    return x, output

  if not unroll:
    return jax.lax.scan(REMAT[remat](body), x, (weights, xs, which))
  outputs = []
  for i in range(stacked(blocks)):
    layer = jax.tree.map(lambda leaf, i=i: leaf[i], (weights, xs, which))
    x, output = REMAT[remat](body)(x, layer)
    outputs.append(output)
  return x, jax.tree.map(lambda *each: jnp.stack(each), *outputs)


def backwards(outputs: Any) -> Any:
  """Outputs of a stack as xs of the stack that consumes them: the last block's first."""
  return jax.tree.map(lambda leaf: leaf[::-1], outputs)


def stack_of_one(block: nnx.Module) -> nnx.Module:
  """A single block as a stack, for scan_blocks."""
  graph, weights = nnx.split(block)
  return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[None], weights))


def _residual_of_blocks(depth: int, residuals: Any) -> jax.Array:
  """The residual of each block.   # [depth] int32     Raises ConfigError where K > depth."""
  count = jax.tree.leaves(residuals)[0].shape[0]
  if count > depth:
    raise ConfigError(f"{count} residuals for a stack of {depth} blocks: give {depth} at most.")
  return jnp.arange(depth) // -(-depth // count)


def _add(x: Any, residual: Any) -> Any:
  def added(residual: jax.Array | None, x: jax.Array) -> jax.Array:
    if residual is None:
      return x
    residual = residual.astype(x.dtype)
    if residual.shape[1] == x.shape[1]:
      return x + residual
    return x.at[:, -residual.shape[1] :].add(residual)

  return jax.tree.map(added, residual, x, is_leaf=lambda leaf: leaf is None)


def init_params(make: Callable[[nnx.Rngs], nnx.Module], key: jax.Array) -> Params:
  """The weights of make(rngs) as a nested dict of arrays. Jit it to have them born sharded."""
  return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)), nnx.Param))


def _declared(make: Callable[[nnx.Rngs], nnx.Module], read: Callable[[nnx.Param], Any]) -> Params:
  state = nnx.state(make(Shapes()), nnx.Param)
  flat = {path: read(param) for path, param in nnx.to_flat_state(state)}
  return traverse_util.unflatten_dict(flat)


def abstract_of(make: Callable[[nnx.Rngs], nnx.Module]) -> Params:
  """Every weight as a ShapeDtypeStruct, in the structure of init_params."""
  return _declared(make, lambda param: param.get_value())


def axes_of(make: Callable[[nnx.Rngs], nnx.Module]) -> Params:
  """The logical axes of every weight as a PartitionSpec, in the structure of init_params."""
  return _declared(make, lambda param: jax.P(*param.get_metadata("axes")))


def matrices_of(make: Callable[[nnx.Rngs], nnx.Module]) -> Params:
  """`matrix` of every weight (see `weight`), in the structure of init_params."""
  return _declared(make, lambda param: param.get_metadata("matrix"))


@lru_cache(maxsize=64)  # a network is traced several times in a run
def with_params(make: Callable[[nnx.Rngs], nnx.Module]) -> Callable[..., Any]:
  """(params, adapters=None) -> the callable module that holds them."""
  graph, state = nnx.split(make(Shapes()))

  def bind(params: Params, adapters: Adapters | None = None) -> Any:
    filled = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(filled, params)
    model = nnx.merge(graph, filled)
    if adapters:
      attach(model, adapters)
    return model

  return bind
