"""Folders of diffusers and transformers (config.json and safetensors) to sharded arrays and back.

A folder is checked, and every problem reported at once, before a weight is read.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.experimental import multihost_utils
from jax.sharding import Mesh, SingleDeviceSharding

from t2i_jax.errors import ConfigError, RestoreError, WorkdirError
from t2i_jax.models.params import Params, axes_of
from t2i_jax.parallel import check_divides
from t2i_jax.parallel import shardings as shardings_of
from t2i_jax.pretrained.fill import Faults, host_layers, make_array, make_tensor, read_shard
from t2i_jax.pretrained.known import spec_for, spec_of
from t2i_jax.pretrained.names import Entry, Shape, stored_shapes, tensors_of
from t2i_jax.pretrained.spec import (
  RUNS,
  Buffer,
  Spec,
  abstract_params,
  flat,
  make_of,
  read_config,
  shapes_of,
  write_config,
)
from t2i_jax.pretrained.tensors import (
  DTYPES,
  Found,
  Planned,
  Tensors,
  file_names,
  open_tensors,
  plan_files,
  some,
  write_file,
  write_index,
)

SHARD_BYTES = 5 * 10**9
POSITION_TOLERANCE = 1e-2  # absolute, of values up to 1 that may be stored as bfloat16


def open_folder(folder: str | Path) -> tuple[Spec, Any]:
  """The spec of a folder's class, and our config of its model.

  Raises RestoreError for a folder without config.json, a class or a key that is not supported.
  """
  folder = Path(folder)
  content, path = config_json(folder), folder / "config.json"
  spec = spec_of(content, str(path))
  return spec, read_config(spec, content, str(path))


def config_json(folder: Path) -> dict[str, Any]:
  """The content of config.json. Raises RestoreError where it is missing or cannot be read."""
  path = folder / "config.json"
  if not folder.is_dir():
    raise RestoreError(f"{folder} is not a folder.")
  if not path.is_file():
    raise RestoreError(
      f"{folder} has no config.json. Give the folder of the transformer, as FLUX.1-dev/transformer."
    )
  try:
    content = json.loads(path.read_text())
  except ValueError as error:
    raise RestoreError(f"{path} cannot be read: {error}. Copy it again.") from error
  if not isinstance(content, dict):
    raise RestoreError(f"{path} is not a JSON object. Copy it again.")
  return content


def load(
  folder: str | Path,
  shardings: Params | Mesh | None = None,
  dtype: Any = jnp.float32,
  **changes: Any,
) -> tuple[Any, Any, Params]:
  """The module class, our config and the parameters of a folder of one network.

  shardings  one per parameter, or a mesh with the default rules; None: all on the first device
  changes    fields of the config on which no weight depends (spec.RUNS): remat, attention, tiling
  Every process reads only the shards of its own devices, one at a time.
  Raises RestoreError naming every missing, unexpected or invalid tensor; ConfigError for another
  field in `changes`.
  """
  folder = Path(folder)
  spec, config = open_folder(folder)
  config = changed(config, changes, RUNS)
  found = open_tensors(folder, spec.stem)
  with found.tensors:
    name_tensors(spec, found.tensors)
    config = spec.infer_from_tensors(config, found.tensors)
    params = read_params(spec, config, found, str(folder), shardings, dtype)
  return spec.module, config, params


def name_tensors(spec: Spec, tensors: Tensors) -> None:
  """Gives the tensors of a folder the names and shapes of the spec's table."""
  tensors.rename(lambda name: None if name in spec.constants else spec.renamed(name))
  tensors.squeeze(spec.squeezed)


def load_like(folder: str | Path, config: Any, shardings: Params | Mesh | None = None) -> Params:
  """The parameters of a folder that holds a model of this config, float32.

  shardings and errors as for `load`; ConfigError where the folder holds another model.
  """
  folder = Path(folder)
  spec, stored = open_folder(folder)
  found = open_tensors(folder, spec.stem)
  with found.tensors:
    name_tensors(spec, found.tensors)
    stored = spec.infer_from_tensors(stored, found.tensors)
    check_same_model(config, stored, str(folder))
    return read_params(spec, config, found, str(folder), shardings, jnp.float32)


def check_same_model(config: Any, stored: Any, where: str) -> None:
  """Raises ConfigError naming each field in which a config differs from the stored one."""
  if type(config) is not type(stored):
    raise ConfigError(
      f"{where} holds a {type(stored).__name__}; this config's model is a {type(config).__name__}."
    )
  names = [f.name for f in dataclasses.fields(config) if f.name not in RUNS]
  wrong = [
    f"model.{name} = {getattr(config, name)!r} is {getattr(stored, name)!r} there"
    for name in names
    if getattr(config, name) != getattr(stored, name)
  ]
  if wrong:
    raise ConfigError(f"{where} is another model: {'; '.join(wrong)}.")


def changed(config: Any, changes: Mapping[str, Any], allowed: tuple[str, ...]) -> Any:
  """The config with these changes. Raises ConfigError for a field that is not in `allowed`."""
  have = [field.name for field in dataclasses.fields(config) if field.name in allowed]
  wrong = [key for key in changes if key not in have]
  if wrong:
    raise ConfigError(
      f"{', '.join(wrong)} cannot be changed for stored weights; {', '.join(have)} can."
    )
  return dataclasses.replace(config, **changes)


def read_params(
  spec: Spec, config: Any, found: Found, where: str, shardings: Any, dtype: Any
) -> Params:
  """The parameters, read after all tensors are checked. Raises RestoreError."""
  abstract = abstract_params(spec.module, config)
  shapes, entries = shapes_of(abstract), spec.entries(config)
  _check_tensors(spec, config, entries, shapes, found, where)
  onto = _shardings(spec, config, abstract, shardings)
  faults, params = Faults(), {}
  for entry in entries:
    shape = shapes[entry.path]
    read = lambda bounds, entry=entry, shape=shape: read_shard(
      entry, shape, bounds, np.dtype(dtype), found.tensors, faults
    )
    params[tuple(entry.path.split("/"))] = make_array(shape, onto[entry.path], read)
  problems = []
  if faults.not_finite:
    problems.append(f"NaN or infinity, as {np.dtype(dtype)}, in {some(faults.not_finite)}")
  if faults.unequal:
    problems.append(f"copies that differ from the first block's: {some(faults.unequal)}")
  if problems:
    raise RestoreError(f"{where}: {'; '.join(problems)}. Copy it again, or use another checkpoint.")
  return traverse_util.unflatten_dict(params)


def _shardings(spec: Spec, config: Any, abstract: Params, shardings: Any) -> dict[str, Any]:
  """path -> sharding, for every parameter;   shardings: as for `load`"""
  if shardings is None:
    one = SingleDeviceSharding(jax.local_devices()[0])
    return dict.fromkeys(flat(abstract), one)
  if isinstance(shardings, Mesh):
    axes = axes_of(make_of(spec.module, config))
    check_divides(abstract, axes, shardings)
    shardings = shardings_of(axes, shardings)
  onto = flat(shardings)
  wrong = onto.keys() ^ flat(abstract).keys()
  if wrong:
    raise ConfigError(
      f"the shardings are those of another model: {some(wrong)} in only one of the two."
    )
  return onto


def _check_tensors(
  spec: Spec, config: Any, entries: list[Entry], shapes: dict[str, Shape], found: Found, where: str
) -> None:
  """Raises RestoreError naming every problem of the files and their headers."""
  stored, wanted = found.tensors.stored, stored_shapes(entries, shapes)
  buffers = spec.buffers(config)
  problems = list(found.problems)
  missing = wanted.keys() - stored.keys() - found.lost
  extra = stored.keys() - wanted.keys() - buffers.keys()
  if missing:
    problems.append(f"missing: {some(missing)}")
  if extra:
    problems.append(f"not expected: {some(extra)}")
  expected = wanted | {name: buffer.shape for name, buffer in buffers.items()}
  both = [name for name in expected if name in stored]
  shape = lambda sizes: " x ".join(map(str, sizes)) or "a scalar"
  misshapen = [
    f"{name} is {shape(stored[name].shape)} and should be {shape(expected[name])}"
    for name in both
    if stored[name].shape != expected[name]
  ]
  if misshapen:
    problems.append(f"misshapen: {some(misshapen)}")
  known = "/".join(DTYPES)
  untyped = [f"{name} is {stored[name].dtype}" for name in both if stored[name].dtype not in DTYPES]
  if untyped:
    problems.append(f"of a dtype that is none of {known}: {some(untyped)}")
  if not problems:
    problems = _check_buffers(buffers, found.tensors)
  if problems:
    raise RestoreError(
      f"{where} does not match the {spec.hf_class} of its config: {'; '.join(problems)}."
    )


def _check_buffers(buffers: dict[str, Buffer], tensors: Tensors) -> list[str]:
  """Stored positions that differ from those computed from the config, one text each."""
  problems = []
  for name, buffer in buffers.items():
    if not buffer.saved or name not in tensors.stored:
      continue
    rows = buffer.sample()
    for row, computed in zip(rows, buffer.rows(rows), strict=True):
      stored = tensors.read(name, (slice(0, 1), slice(row, row + 1), slice(0, computed.size)))
      off = float(np.max(np.abs(stored[0, 0].astype(np.float32) - computed)))
      if not off <= POSITION_TOLERANCE:
        problems.append(f"{name} is {off:.3g} off what is computed from the config, in row {row}")
        break
  return problems


def save(
  folder: str | Path,
  config: Any,
  params: Params,
  dtype: str = "float32",
  shard_bytes: int = SHARD_BYTES,
) -> None:
  """Writes a folder that from_pretrained of the class's library reads.

  dtype        "float32", "bfloat16" or "float16"
  shard_bytes  upper bound of a file unless one tensor is larger; host memory needed is the same
  All processes must call it; the first one writes. The folder appears only when it is complete.
  Raises ConfigError for a model without a published layout or parameters of another model,
  RestoreError for values that are not finite, WorkdirError where the folder is not empty or
  cannot be written.
  """
  spec = spec_for(config)
  if spec.unwritten:
    raise ConfigError(f"a {spec.hf_class} cannot be written: {spec.unwritten}")
  content = {**spec.header, **write_config(spec, config)}
  write_folder(Path(folder), spec, config, params, content, dtype, shard_bytes)


def write_folder(
  folder: Path,
  spec: Spec,
  config: Any,
  params: Params,
  content: Mapping[str, Any],
  dtype: str,
  shard_bytes: int,
) -> None:
  """Writes a folder with `content` as config.json; else as `save`."""
  if dtype not in DTYPES.values():
    raise ConfigError(f"dtype = {dtype!r} is not one of {', '.join(DTYPES.values())}.")
  own, shapes = flat(params), shapes_of(abstract_params(spec.module, config))
  wrong = [f"{path} is missing" for path in shapes.keys() - own.keys()]
  wrong += [f"{path} is not expected" for path in own.keys() - shapes.keys()]
  wrong += [
    f"{path} is {own[path].shape} and should be {shape}"
    for path, shape in shapes.items()
    if path in own and own[path].shape != shape
  ]
  if wrong:
    raise ConfigError(f"the parameters do not match this {type(config).__name__}: {some(wrong)}.")
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise WorkdirError(f"{folder} is not empty. Choose another folder, or remove it first.")

  part = folder.parent / f".{folder.name}.part-{os.getpid()}"
  writes = jax.process_index() == 0
  try:
    if writes:
      part.mkdir(parents=True)
      (part / "config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    _write_tensors(
      part if writes else None, spec, config, own, shapes, jnp.dtype(dtype), shard_bytes
    )
    if writes:
      if folder.exists():
        folder.rmdir()
      part.rename(folder)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices(f"saved {folder}")
  except OSError as error:
    raise WorkdirError(f"{folder} cannot be written: {error}.") from error
  finally:
    if writes:
      shutil.rmtree(part, ignore_errors=True)


def _write_tensors(
  folder: Path | None,
  spec: Spec,
  config: Any,
  params: dict[str, Any],
  shapes: dict[str, Shape],
  dtype: Any,
  shard_bytes: int,
) -> None:
  """The tensors, file by file;   folder: None in processes that only take part in the gathering"""
  entries = spec.entries(config)
  sizes, pieces = stored_shapes(entries, shapes), tensors_of(entries, shapes)
  buffers = {name: b for name, b in spec.buffers(config).items() if b.saved}
  sizes |= {name: buffer.shape for name, buffer in buffers.items()}
  planned = [Planned(name, int(np.prod(shape)) * dtype.itemsize) for name, shape in sizes.items()]
  files = plan_files(planned, shard_bytes)
  layer_of = host_layers(params)
  weight_map: dict[str, str] = {}
  not_finite: set[str] = set()
  *_, last = file_names(spec.stem, len(files))
  for file, names in zip(file_names(spec.stem, len(files)), files, strict=True):
    content: dict[str, np.ndarray] = {}
    for name in names:
      if name in buffers:
        made = buffers[name].full()
      else:
        made = make_tensor(pieces[name], sizes[name], layer_of)
      with np.errstate(over="ignore"):  # overflow is reported below
        content[name] = made.astype(dtype)
      if not np.isfinite(content[name].astype(np.float32)).all():
        not_finite.add(name)
    if file == last:
      content |= spec.constants
    if folder is not None and not not_finite:
      write_file(folder / file, content)
    weight_map |= dict.fromkeys(content, file)
  if not_finite:
    raise RestoreError(
      f"NaN or infinity, as {dtype.name}, in {some(not_finite)}: nothing was written. "
      "Use dtype='float32' if the values only exceed the range of the dtype."
    )
  if folder is not None and len(files) > 1:
    constants = sum(value.nbytes for value in spec.constants.values())
    write_index(folder, spec.stem, weight_map, sum(size for _, size in planned) + constants)
