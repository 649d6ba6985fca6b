"""Logical axes to mesh axes: the table, and what is derived from it.

A weight is declared with the logical names of its dimensions ("embed", "heads", ...); this table
maps them to axes of the mesh, so that model code does not depend on either. In trees, the axes of
one array are a PartitionSpec of logical names: a leaf, where a tuple would be a branch.
"""

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t2i_jax.errors import MeshError

Axes = tuple[str | None, ...]
Rules = dict[str, str | tuple[str, ...] | None]
MESH_AXES = ("data", "fsdp", "tensor", "context", "expert")

# Weights and optimiser state are sharded over fsdp along "embed" and over tensor along the other
# dimension of each matrix; rows of a batch over data and fsdp, a sequence over context.
RULES: Rules = {
  "batch": ("data", "fsdp"),
  "batch_data": "data",  # of a small activation whose width is sharded over fsdp
  "sequence": "context",
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
  "expert": "expert",
}

_in_force: ContextVar[Rules] = ContextVar("rules", default=RULES)


@contextmanager
def overridden(changes: Sequence[str]) -> Iterator[None]:
  """A context in which these rules replace those of the table.

  changes  config.mesh.rules: "embed=fsdp+tensor", "sequence=" for an axis that is not sharded
  Raises MeshError for an axis that does not exist.
  """
  new = dict(RULES)
  for text in changes:
    axis, equals, on = text.partition("=")
    names = tuple(name for name in on.split("+") if name)
    wrong = [name for name in names if name not in MESH_AXES]
    if not equals or axis not in RULES or wrong:
      near = difflib.get_close_matches(axis, RULES, 1, 0)[0]
      raise MeshError(
        f"mesh.rules: {text!r}: write 'axis=mesh axes joined by +'. Mesh axes are "
        f"{', '.join(MESH_AXES)}; the nearest logical axis is {near}."
      )
    new[axis] = names[0] if len(names) == 1 else names or None
  token = _in_force.set(new)
  try:
    yield
  finally:
    _in_force.reset(token)


def bound(function: Callable[..., Any]) -> Callable[..., Any]:
  """The function under the rules in force now, whenever it is called: it may compile later."""
  rules = _in_force.get()

  @wraps(function)
  def under_rules(*args: Any, **kwargs: Any) -> Any:
    token = _in_force.set(rules)
    try:
      return function(*args, **kwargs)
    finally:
      _in_force.reset(token)

  return under_rules


def spec(axes: Axes | PartitionSpec) -> PartitionSpec:
  """The PartitionSpec of an array whose dimensions are these logical axes.

  Raises MeshError where two dimensions of one array map to the same mesh axis.
  """
  rules = _in_force.get()
  entries = [None if axis is None else rules[axis] for axis in axes]
  used = [m for entry in entries for m in ([entry] if isinstance(entry, str) else entry or [])]
  if len(used) != len(set(used)):
    raise MeshError(
      f"axes {axes} map two dimensions to one mesh axis: {entries}. Change mesh.rules."
    )
  return PartitionSpec(*entries)


def shardings(axes_tree: Any, mesh: Mesh) -> Any:
  """The NamedShardings of a tree whose leaves are PartitionSpecs of logical axes."""
  return jax.tree.map(lambda axes: NamedSharding(mesh, spec(axes)), axes_tree)


def check_divides(shapes: Any, axes_tree: Any, mesh: Mesh) -> None:
  """Raises MeshError naming the first weight with a dimension that the mesh does not divide.

  shapes     tree of arrays or ShapeDtypeStructs
  axes_tree  the same tree with a PartitionSpec of logical axes per leaf
  """
  flat_axes = jax.tree.leaves(axes_tree)
  for (path, leaf), axes in zip(jax.tree.leaves_with_path(shapes), flat_axes, strict=True):
    for size, axis in zip(leaf.shape, axes, strict=True):
      on = _in_force.get()[axis] if axis is not None else None
      parts = math.prod(mesh.shape[n] for n in ([on] if isinstance(on, str) else on or []))
      if size % parts:
        raise MeshError(
          f"{jax.tree_util.keystr(path, simple=True, separator='/')} has {axis} = {size}, which "
          f"mesh.{on} = {parts} does not divide. Use a mesh.{on} that divides {size}."
        )


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Constrains the sharding of an activation on the mesh in scope (jax.set_mesh), if there is one.

  A dimension that the mesh does not divide is padded by the partitioner.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, spec(axes))
