"""What a slice of TPUs will hold, without the TPUs: the real train step through the real compiler.

Needs the package libtpu (pip install 't2i_jax[tpu]') and no TPU. Nothing is allocated or run.
"""

import importlib.util
import math
import os
import re
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.data.batch import Batch
from t2i_jax.data.features import Cached
from t2i_jax.data.latents import Latents
from t2i_jax.errors import ConfigError
from t2i_jax.parallel import batch_sharding, mesh_of, overridden, owned_rows
from t2i_jax.plan.describe import system_of
from t2i_jax.plan.program import Memory, Program, memory_of
from t2i_jax.systems import System
from t2i_jax.systems.draw import Drawing
from t2i_jax.training.cached import reading
from t2i_jax.training.optimizer import make_optimizers
from t2i_jax.training.state import abstract_params, abstract_state
from t2i_jax.training.step import jit_train_step

# For libtpu: query no metadata server, and share the machine with another process that has it open.
ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
ENVIRONMENT |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5p-8"}
FORMS = "v4:2x2x1, v5e:16x16, v5p:8x8x4, v6e:16x16 or tpu7x:4x4x4"

# The compiler's sentences about a program that does not fit: needed, available.
_OVER = (
  r"\(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)",
  r"[Uu]sed ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm",
)


class Planned(NamedTuple):
  """A compiled train step.

  parameters           number of weights, frozen ones too
  state, state_a_chip  bytes of the train state, in all and of the shards that one chip holds
  memory               of one chip
  """

  mesh: Mesh
  parameters: int
  state: int
  state_a_chip: int
  memory: Memory
  program: Program


def topology_devices(name: str) -> list:
  """The chips of a slice that is not there, "v5e:16x16" or "v5p:8x8x4". Raises ConfigError."""
  if importlib.util.find_spec("libtpu") is None:
    raise ConfigError("the TPU compiler is not installed: pip install 't2i_jax[tpu]'")
  os.environ.update(ENVIRONMENT)
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_enable_compilation_cache", False)  # its entries need a device to be read
  try:
    return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).split(": ", 1)[-1].split("\n")[0]
    raise ConfigError(
      f"topology {name!r} does not exist ({reason}). Write the generation and the sides of a "
      f"slice in chips: {FORMS}."
    ) from error


def abstract_batch(system: System, rows: int, mesh: Mesh) -> Batch:
  """A global batch as the loader gives it, laid on the mesh."""
  put = batch_sharding(mesh)
  laid = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=put)
  return jax.tree.map(laid, system.rows(rows))


def total_bytes(tree: Any, a_device: bool = False) -> int:
  """Bytes of a tree of ShapeDtypeStructs, in all or of the shards that one device holds."""
  shape = lambda x: x.sharding.shard_shape(x.shape) if a_device else x.shape
  return sum(math.prod(shape(x)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def compile_train_step(
  config: ConfigDict,
  mesh: Mesh,
  latents: Latents | None = None,
  texts: dict[str, Cached] | None = None,
) -> tuple[Any, Any, Any]:
  """The step that `train` runs, compiled for the mesh's devices, and its abstract arguments.

  latents  what the data are in place of images;   texts: of the encoders whose features they hold
  No data are read: describe.system_of.
  Raises MeshError where the mesh does not divide the batch or a weight, and ConfigError with both
  sizes where the step needs more memory than a chip has.
  """
  with overridden(config.mesh.rules):
    owned_rows(mesh, config.train.batch)
    system = replace(reading(system_of(config), latents, config), cached=texts or {})
    optimizers = make_optimizers(config.train, system)
    state = abstract_state(system, optimizers, mesh)
    batch = abstract_batch(system, config.train.batch, mesh)
    step = jit_train_step(system, optimizers, config, mesh, state)
    with jax.set_mesh(mesh):
      lowered = step.lower(state, batch)
    try:
      return lowered.compile(), state, batch
    except jax.errors.JaxRuntimeError as error:
      raise out_of_memory(str(error), config, mesh) or error from error


def compile_sampler(config: ConfigDict, mesh: Mesh) -> tuple[Any, Any]:
  """The sampler of `t2i sample`, compiled for the mesh's devices, and its abstract parameters.

  No data and no weights are read. Raises MeshError, ConfigError.
  """
  with overridden(config.mesh.rules):
    system = system_of(config)
    params = abstract_params(system, mesh)
    return Drawing(system, config.sampling, mesh).lower(params)["sampler"].compile(), params


def plan_step(config: ConfigDict, topology: str) -> Planned:
  """Compiles the train step of a config for a slice. Raises ConfigError, MeshError."""
  mesh = mesh_of(config.mesh, topology_devices(topology))
  compiled, state, _ = compile_train_step(config, mesh)
  return Planned(
    mesh,
    parameters=total_bytes(state.ema) // 4 + total_bytes(state.frozen) // 4,
    state=total_bytes(state),
    state_a_chip=total_bytes(state, a_device=True),
    memory=memory_of(compiled),
    program=Program(compiled.as_text()),
  )


def out_of_memory(message: str, config: ConfigDict, mesh: Mesh) -> ConfigError | None:
  """The error for a compiler's message that a step does not fit; None for any other message."""
  if "RESOURCE_EXHAUSTED" not in message and "CompileTimeHbmOom" not in message:
    return None
  found = next(filter(None, (re.search(pattern, message) for pattern in _OVER)), None)
  if found:
    need, have = (f"{size[:-1]} {size[-1]}iB" for size in found.groups())
    over = f"needs {need} of HBM, a {mesh.devices.flat[0].device_kind} chip has {have}"
  else:
    over = f"does not fit the chip: {message.splitlines()[0]}"
  remat = f"set model.remat to full (now {config.model.remat}), " if "remat" in config.model else ""
  return ConfigError(
    f"the train step of {config.name} {over}. To need less: {remat}raise train.accumulate (now "
    f"{config.train.accumulate}), lower train.batch (now {config.train.batch}), or split the "
    f"state over more chips by mesh.fsdp (now {mesh.shape['fsdp']})."
  )
