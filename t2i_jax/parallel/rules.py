"""Logical axes to mesh axes: the one table, and what is derived from it.

A weight says what its dimensions are ("embed", "heads", ...); this table says where those live.
Changing the mesh, or the table, changes no model code. In trees, the axes of one array are a
PartitionSpec of logical names: a leaf, where a tuple would be a branch.
"""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t2i_jax.errors import MeshError

Axes = tuple[str | None, ...]

# Weights and optimiser are split over fsdp along "embed", over tensor along the other side of
# each matrix; rows of a batch over both data and fsdp.
RULES: dict[str, str | tuple[str, ...] | None] = {
  "batch": ("data", "fsdp"),
  "batch_data": "data",  # of a small activation whose width lies on fsdp
  "sequence": None,
  "height": None,
  "width": None,
  "embed": "fsdp",
  "mlp": "tensor",
  "heads": "tensor",
  "kv_heads": "tensor",
  "head_dim": None,
  "vocab": "tensor",
  "conv_in": None,
  "conv_out": None,
  "layers": None,
}


def spec(axes: Axes | PartitionSpec) -> PartitionSpec:
  """The PartitionSpec of an array whose dimensions are these logical axes.

  Raises MeshError where two dimensions of one array would live on the same mesh axis.
  """
  entries = [None if axis is None else RULES[axis] for axis in axes]
  used = [m for entry in entries for m in ([entry] if isinstance(entry, str) else entry or [])]
  if len(used) != len(set(used)):
    raise MeshError(f"axes {axes} put two dimensions on one mesh axis: {entries}.")
  return PartitionSpec(*entries)


def shardings(axes_tree: Any, mesh: Mesh) -> Any:
  """NamedShardings of a tree whose leaves are PartitionSpecs of logical axes."""
  return jax.tree.map(lambda axes: NamedSharding(mesh, spec(axes)), axes_tree)


def check_divides(shapes: Any, axes_tree: Any, mesh: Mesh) -> None:
  """Raises MeshError naming the first weight that the mesh does not divide.

  shapes     tree of arrays or ShapeDtypeStructs
  axes_tree  the same tree with a PartitionSpec of logical axes per leaf
  """
  flat_axes = jax.tree.leaves(axes_tree)
  for (path, leaf), axes in zip(jax.tree.leaves_with_path(shapes), flat_axes, strict=True):
    for size, axis in zip(leaf.shape, axes, strict=True):
      on = RULES[axis] if axis is not None else None
      parts = 1
      for name in [on] if isinstance(on, str) else on or []:
        parts *= mesh.shape[name]
      if size % parts:
        raise MeshError(
          f"{jax.tree_util.keystr(path, simple=True, separator='/')} has {axis} = {size}, which "
          f"mesh.{on} = {parts} does not divide. Use a mesh.{on} that divides {size}."
        )


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Pins an activation to the mesh in scope (jax.set_mesh); without one, x unchanged."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, spec(axes))
