"""The mesh, and the one table from logical axes to mesh axes. Model code names axes, no mesh."""

from t2i_jax.parallel.mesh import MESH_AXES, batch_sharding, make_mesh, owned_rows
from t2i_jax.parallel.rules import RULES, check_divides, constrain, shardings, spec

__all__ = [
  "MESH_AXES",
  "RULES",
  "batch_sharding",
  "check_divides",
  "constrain",
  "make_mesh",
  "owned_rows",
  "shardings",
  "spec",
]
