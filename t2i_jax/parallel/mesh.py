"""The device mesh, and which rows of a global batch a process reads."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from ml_collections import ConfigDict

from t2i_jax.errors import MeshError
from t2i_jax.parallel.rules import MESH_AXES, spec

# A convolution over few rows a chip is by default changed into one over more rows of parts of the
# images, between copies: docs/sdxl_on_tpu.md.
OF_TPUS = {
  "xla_tpu_run_space_to_batch": "false",
  "xla_tpu_run_space_to_batch_on_new_platforms": "false",
}


def compiler_options(mesh: Mesh) -> dict[str, str]:
  """What programs with convolutions are compiled with for the devices of a mesh: for jax.jit."""
  device = mesh.devices.flat[0]
  return OF_TPUS if device.platform == "tpu" and _knows_options(device) else {}


@cache
def _knows_options(device: jax.Device) -> bool:
  """Whether the compiler of a TPU has OF_TPUS: their names may be others in another version."""
  put = jax.NamedSharding(Mesh(np.array([device]), "x"), jax.P())
  one = jax.ShapeDtypeStruct((), jnp.float32, sharding=put)
  try:
    jax.jit(lambda x: x, compiler_options=OF_TPUS).lower(one).compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True


def make_mesh(
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  context: int = 1,
  expert: int = 1,
  devices: list | None = None,
) -> Mesh:
  """A mesh of data x fsdp x tensor x context x expert devices; -1 takes the remaining devices.

  Raises MeshError when the product of the sizes is not the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [data, fsdp, tensor, context, expert]
  text = " x ".join(f"{axis} {size}" for axis, size in zip(MESH_AXES, sizes, strict=True))
  if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
    raise MeshError(f"mesh {text}: sizes must be positive, and at most one of them -1.")
  if -1 in sizes:
    known = -int(np.prod(sizes))
    if len(devices) % known:
      raise MeshError(f"mesh {text}: {len(devices)} devices are not a multiple of {known}.")
    sizes[sizes.index(-1)] = len(devices) // known
  if int(np.prod(sizes)) != len(devices):
    raise MeshError(
      f"mesh {text} needs {int(np.prod(sizes))} devices, this run has {len(devices)}. "
      "Set one axis to -1 to use all of them."
    )
  # jax.make_mesh does not split physical axes: it rejects 16 x 16 on a torus of 8 x 8 x 4.
  grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
  return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def mesh_of(c: ConfigDict, devices: list | None = None) -> Mesh:
  """The mesh of config.mesh."""
  return make_mesh(**{axis: c[axis] for axis in MESH_AXES}, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows over data and fsdp; every other dimension unsharded."""
  return NamedSharding(mesh, spec(("batch",)))


def owned_rows(mesh: Mesh, batch: int) -> np.ndarray:
  """The rows 0..batch-1 of a global batch that this process's devices hold, ascending.

  Processes that differ only in tensor, context or expert coordinate own the same rows.
  Raises MeshError when the batch does not divide over data x fsdp.
  """
  data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
  if batch % (data * fsdp):
    step = data * fsdp
    near = max(step, round(batch / step) * step)
    raise MeshError(
      f"batch {batch} is not a multiple of data x fsdp = {data} x {fsdp} = {step}. Use {near}."
    )
  indices = batch_sharding(mesh).addressable_devices_indices_map((batch,)).values()
  slices = {index[0].indices(batch) for index in indices if index is not None}
  return np.unique(np.concatenate([np.arange(*s) for s in slices]))
