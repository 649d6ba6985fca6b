"""Files of stored networks, copied byte for byte or their weights in another dtype.

Nothing is read through a model of ours: what no model here reads is kept, too.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from t2i_jax.errors import RestoreError
from t2i_jax.pretrained.pipelines import read_json
from t2i_jax.pretrained.tensors import DTYPES, PICKLES, some

# In safetensors' notation: dtypes that are converted, and those that are kept with their bytes.
FLOATS = {"F64": "float64", **DTYPES}
WHOLE = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8}
# The files from which diffusers and transformers read weights; variants have more in their names.
WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(-\d{5}-of-\d{5})?\.safetensors")
INDEX = re.compile(r"(diffusion_pytorch_model|model)\.safetensors\.index\.json")
# Of other formats and variants: converted weights take their place.
OTHERS = (*PICKLES, ".safetensors", ".index.json", ".msgpack", ".h5", ".onnx")
DTYPE_KEYS = ("dtype", "torch_dtype")  # of config.json, also of the models in it


class File(NamedTuple):
  """One file to write.

  source, to  a file, and its path in the folder that is written
  size        in bytes, once written
  write       (source, path) -> it is written; raises OSError, RestoreError
  """

  source: Path
  to: str
  size: int
  write: Callable[[Path, Path], Any] = shutil.copyfile


def files_of(folder: Path, to: str, dtype: str = "") -> list[File]:
  """The files of a folder that holds one network or a tokenizer.

  to     the subfolder in which they are written; "" = none
  dtype  of the floating tensors; "" = as they are stored, every file is copied
  Raises RestoreError for weights that cannot be converted.
  """
  found = [
    File(path, str(Path(to, path.relative_to(folder))), path.stat().st_size)
    for path in _walk(folder)
  ]
  if not dtype or not any(_holds_weights(file.source.name) for file in found):
    return found
  return _converted(folder, found, dtype)


def _walk(folder: Path) -> Iterator[Path]:
  """Files in order; links to files are read as what they link to, as a cache of a hub has them."""
  for root, folders, files in os.walk(folder):
    folders.sort()
    yield from (Path(root, name) for name in sorted(files))


def _holds_weights(name: str) -> bool:
  return name.endswith(OTHERS) and not name.endswith(".index.json")


def _converted(folder: Path, found: list[File], dtype: str) -> list[File]:
  weights = [file for file in found if WEIGHTS.fullmatch(file.source.name)]
  if not weights:
    held = some(file.source.name for file in found if _holds_weights(file.source.name))
    raise RestoreError(
      f"{folder} has {held} and no model.safetensors or diffusion_pytorch_model.safetensors, and "
      "only these are converted. Save the model with safe_serialization=True, or leave out --dtype."
    )
  made, total = list[File](), 0
  for file in weights:
    size, stored = _stored(file.source, dtype)
    total += size
    as_it_is = stored <= {dtype}
    made.append(file if as_it_is else file._replace(size=size, write=_weights_in(dtype)))
  for file in found:
    name = file.source.name
    if INDEX.fullmatch(name):
      made.append(_json(file, _with_total(read_json(file.source), total)))
    elif name == "config.json":
      content = read_json(file.source)
      if "quantization_config" in content:
        raise RestoreError(
          f"{file.source} has quantization_config: quantized weights are not converted. Use the "
          "folder that they were made of, or leave out --dtype."
        )
      made.append(_json(file, _with_dtype(content, dtype)))
    elif not name.endswith(OTHERS):
      made.append(file)
  return made


def _stored(path: Path, dtype: str) -> tuple[int, set[str]]:
  """Bytes of a file's tensors in a dtype, and the dtypes that its floats are stored in."""
  size, stored, wrong = 0, set[str](), set[str]()
  width = jnp.dtype(dtype).itemsize
  with _opened(path) as opened:
    slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118  not a dict
    for key, tensor in slices.items():
      kind, count = tensor.get_dtype(), math.prod(tensor.get_shape())
      if kind in FLOATS:
        stored.add(FLOATS[kind])
        size += count * width
      elif kind in WHOLE:
        size += count * WHOLE[kind]
      else:
        wrong.add(f"{key} ({kind})")
  if wrong:
    raise RestoreError(
      f"{path} holds {some(wrong)}, of which the dtype is not one of {', '.join(FLOATS)}: such "
      "weights have scales of their own and are not converted. Leave out --dtype."
    )
  return size, stored


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
  """A safetensors file. Raises RestoreError where it is damaged."""
  try:
    with safe_open(path, framework="numpy") as opened:
      yield opened
  except SafetensorError as error:
    raise RestoreError(f"{path} cannot be read: {error}. Copy it again.") from error


def _weights_in(dtype: str) -> Callable[[Path, Path], None]:
  def write(source: Path, path: Path) -> None:
    """A file is in memory at once.   Raises RestoreError for values that the dtype cannot hold."""
    content, lost = dict[str, np.ndarray](), set[str]()
    with _opened(source) as opened:
      about = opened.metadata()
      for key in opened.keys():  # noqa: SIM118  not a dict
        content[key] = tensor = opened.get_tensor(key)
        if opened.get_slice(key).get_dtype() in FLOATS:
          with np.errstate(over="ignore"):  # reported below
            content[key] = tensor.astype(jnp.dtype(dtype))
          if (np.isfinite(tensor) & ~np.isfinite(content[key])).any():
            lost.add(key)
    if lost:
      raise RestoreError(
        f"{source}: {some(lost)} has values beyond the range of {dtype}; nothing was written. Use "
        "--dtype=bfloat16 or float32."
      )
    try:
      save_file(content, path, about)
    except SafetensorError as error:
      raise OSError(str(error)) from error

  return write


def _json(file: File, content: dict[str, Any]) -> File:
  """A file with another content; the same bytes where it is what the file has."""
  if content == read_json(file.source):
    return file
  data = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
  return file._replace(size=len(data), write=lambda _, path: path.write_bytes(data))


def _with_total(index: dict[str, Any], total: int) -> dict[str, Any]:
  return index | {"metadata": {**(index.get("metadata") or {}), "total_size": total}}


def _with_dtype(content: Any, dtype: str) -> Any:
  """config.json of weights in another dtype."""
  if not isinstance(content, dict):
    return content
  return {
    key: dtype if key in DTYPE_KEYS and isinstance(value, str) else _with_dtype(value, dtype)
    for key, value in content.items()
  }
