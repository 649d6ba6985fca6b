"""The mesh, and the table from logical axes to mesh axes. Model code names logical axes only."""

from t2i_jax.parallel.mesh import (
  batch_sharding,
  compiler_options,
  make_mesh,
  mesh_of,
  owned_rows,
)
from t2i_jax.parallel.rules import (
  MESH_AXES,
  RULES,
  bound,
  check_divides,
  constrain,
  overridden,
  shardings,
  spec,
)

__all__ = [
  "MESH_AXES",
  "RULES",
  "batch_sharding",
  "bound",
  "check_divides",
  "compiler_options",
  "constrain",
  "make_mesh",
  "mesh_of",
  "overridden",
  "owned_rows",
  "shardings",
  "spec",
]
