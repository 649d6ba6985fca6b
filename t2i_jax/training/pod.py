"""What a pod will hold, without the pod: the real train step through the real TPU compiler.

  python -m t2i_jax.training.pod --config=configs/X.py --topology=v5p:8x8x4 [--config.a.b=value]

Needs the package libtpu (pip install 't2i_jax[tpu]') and no TPU. Nothing is allocated or run.
"""

import argparse
import importlib.util
import math
import os
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.config import load_config
from t2i_jax.data.batch import Batch
from t2i_jax.errors import ConfigError
from t2i_jax.parallel import batch_sharding, collectives, mesh_of
from t2i_jax.systems import System
from t2i_jax.training.describe import GIB, system_of
from t2i_jax.training.optimizer import make_optimizers
from t2i_jax.training.state import abstract_state
from t2i_jax.training.step import jit_train_step

# For libtpu: ask no metadata server, and share the machine with another process that has it open.
ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
ENVIRONMENT |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5p-8"}


def topology_devices(name: str) -> list:
  """The chips of a slice that is not there, "v5e:16x16" or "v5p:8x8x4". Raises ConfigError."""
  if importlib.util.find_spec("libtpu") is None:
    raise ConfigError("the TPU compiler is not installed: pip install 't2i_jax[tpu]'")
  os.environ.update(ENVIRONMENT)
  jax.config.update("jax_platforms", "cpu")
  return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)


def abstract_batch(system: System, rows: int, mesh: Mesh) -> Batch:
  """A global batch as the loader gives it, laid on the mesh."""
  put = batch_sharding(mesh)
  laid = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=put)
  return jax.tree.map(laid, system.rows(rows))


def total_bytes(tree: Any, a_device: bool = False) -> int:
  """Bytes of a tree of ShapeDtypeStructs, in all or of the shards that one device holds."""
  shape = lambda x: x.sharding.shard_shape(x.shape) if a_device else x.shape
  return sum(math.prod(shape(x)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def compile_train_step(config: ConfigDict, mesh: Mesh) -> tuple[Any, Any, Any]:
  """The step that `train` runs, compiled for the mesh's devices, and its abstract arguments.

  No data are read: describe.system_of.
  """
  system = system_of(config)
  optimizers = make_optimizers(config.train, system)
  state = abstract_state(system, optimizers, mesh)
  batch = abstract_batch(system, config.train.batch, mesh)
  step = jit_train_step(system, optimizers, config, mesh, state)
  with jax.set_mesh(mesh):
    return step.lower(state, batch).compile(), state, batch


def report(config: ConfigDict, topology: str) -> dict[str, Any]:
  """Compiles, and says what a chip holds in GiB. A step that does not fit fails to compile."""
  mesh = mesh_of(config.mesh, topology_devices(topology))
  compiled, state, _ = compile_train_step(config, mesh)
  memory = compiled.memory_analysis()
  held = {
    "state, whole": total_bytes(state),
    "state a chip": total_bytes(state, a_device=True),
    "arguments a chip, with padding": memory.argument_size_in_bytes,
    "temporary a chip": memory.temp_size_in_bytes,
    "peak a chip": memory.peak_memory_in_bytes,
  }
  return {
    "chips": f"{mesh.size} x {mesh.devices.flat[0].device_kind}, mesh {dict(mesh.shape)}",
    "parameters": total_bytes(state.ema) // 4 + total_bytes(state.frozen) // 4,
    **{f"{name}, GiB": f"{size / GIB:.3f}" for name, size in held.items()},
    **{f"{kind} operations": n for kind, n in sorted(collectives(compiled.as_text()).items())},
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--config", required=True)
  parser.add_argument("--topology", required=True)
  args, rest = parser.parse_known_args()
  overrides = dict(arg.removeprefix("--config.").split("=", 1) for arg in rest)
  for name, value in report(load_config(args.config, overrides), args.topology).items():
    print(f"{name:35}  {value}")


if __name__ == "__main__":
  main()
