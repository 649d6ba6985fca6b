"""The specification of one published class: its config.json, its tensors, and our model of it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np

from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.models.backbone import Beside
from t2i_jax.models.params import Params, abstract_of
from t2i_jax.pretrained.names import Entry
from t2i_jax.pretrained.tensors import STEM

# Fields of a config that may be changed on loading: no weight depends on them. `Spec.runs` has
# those of a class that has others.
RUNS = ("remat", "attention", "guidance", "attend_padding", "sample_size", "tiling", "activations")
DIFFUSERS_VERSION, TRANSFORMERS_VERSION = "0.42.1", "5.24.0"  # whose layouts are written
CHUNK = 4096  # positions of a table that are computed at once


@dataclass(frozen=True)
class Buffer:
  """A tensor [1, positions, width] that published files store though the config determines it.

  rows   indices of the second axis -> its values there, float32
  saved  published checkpoints contain it: it is written, and compared when it is read
  """

  shape: tuple[int, int, int]
  rows: Callable[[np.ndarray], np.ndarray]
  saved: bool = False

  def full(self) -> np.ndarray:
    """The whole tensor, computed in chunks because the angles are float64."""
    out = np.empty(self.shape, np.float32)
    for start in range(0, self.shape[1], CHUNK):
      positions = np.arange(start, min(start + CHUNK, self.shape[1]))
      out[0, positions] = self.rows(positions)
    return out

  def sample(self) -> np.ndarray:
    """Indices at which a stored table is compared: the corners, and some between."""
    return np.unique(np.linspace(0, self.shape[1] - 1, 16).astype(int))


@dataclass(frozen=True)
class Spec:
  """One published class.

  hf_class  its name in diffusers or transformers
  module, config  our classes
  keys      keys of config.json that determine our config, with their default values
  fixed     keys of which one value is supported
  ignored   keys that do not affect what is computed, with the value to write
  legacy    as fixed, for keys that only older folders have: they are not written
  dropped   keys that some folders have, that do not affect what is computed and are not written
  read      keys -> our config, raising RestoreError for values that are not supported
  write     our config -> keys, raising ConfigError for a config that the class cannot express
  entries   our config -> the table of tensors
  buffers   our config -> buffers by name
  infer_from_tensors  (our config, tensors) -> our config, with what config.json leaves out
  stem      stem of the names of the weight files
  library   that has the class: "diffusers" or "transformers"
  renamed   stored name -> the name in `entries`, for older folders; None: the tensor is not read,
            and is lost where the folder is written. Tensors of one name must be equal
  runs      fields of our config that may be changed on loading
  fits      whether the class is the one of a config, where two classes share our config's
  squeezed  name -> whether it is a matrix that may be stored as a 1 x 1 convolution
  constants tensors that are not read, and are written with these values
  unwritten why a folder of the class cannot be written; "" where it can
  unused    our config -> whether a tensor of that name is one that this config does without
  """

  hf_class: str
  module: Any
  config: Any
  keys: Mapping[str, Any]
  fixed: Mapping[str, Any]
  ignored: Mapping[str, Any]
  read: Callable[[dict[str, Any]], Any]
  write: Callable[[Any], dict[str, Any]]
  entries: Callable[[Any], list[Entry]]
  buffers: Callable[[Any], dict[str, Buffer]] = lambda config: {}
  infer_from_tensors: Callable[[Any, Any], Any] = lambda config, tensors: config
  legacy: Mapping[str, Any] = field(default_factory=dict)
  stem: str = STEM
  library: str = "diffusers"
  renamed: Callable[[str], str | None] = lambda name: name
  dropped: tuple[str, ...] = ()
  runs: tuple[str, ...] = RUNS
  fits: Callable[[Any], bool] = lambda config: True
  squeezed: Callable[[str], bool] = lambda name: False
  constants: Mapping[str, np.ndarray] = field(default_factory=dict)
  unwritten: str = ""
  unused: Callable[[Any], Callable[[str], bool]] = lambda config: lambda name: False

  @property
  def header(self) -> dict[str, Any]:
    """What config.json says of the class, besides what it says of the model."""
    if self.library == "transformers":
      return {"architectures": [self.hf_class], "transformers_version": TRANSFORMERS_VERSION}
    return {"_class_name": self.hf_class, "_diffusers_version": DIFFUSERS_VERSION}


def _plain(value: Any) -> Any:
  return tuple(_plain(v) for v in value) if isinstance(value, (list, tuple)) else value


def read_config(spec: Spec, content: Mapping[str, Any], where: str) -> Any:
  """Our config from config.json. Raises RestoreError naming every key that is not supported."""
  problems = []
  fixed = {**spec.fixed, **spec.legacy}
  for key, value in content.items():
    unchecked = (spec.header, spec.keys, spec.ignored, spec.dropped)
    if key.startswith("_") or any(key in by for by in unchecked):
      continue
    if key in fixed:
      if _plain(value) != _plain(fixed[key]):
        problems.append(f"{key} = {value!r}, of which only {fixed[key]!r} is supported")
    elif value is not None and value is not False:
      problems.append(f"{key} = {value!r}, which is not known")
  if problems:
    raise RestoreError(f"{where}: a {spec.hf_class} with {'; '.join(problems)}.")
  known = {key: _plain(content.get(key, default)) for key, default in spec.keys.items()}
  try:
    return spec.read(known)
  except RestoreError as error:
    raise RestoreError(f"{where}: a {spec.hf_class} with {error}") from error
  except (ConfigError, TypeError, ValueError, ZeroDivisionError) as error:
    raise RestoreError(f"{where} does not make a {spec.hf_class}: {error}") from error


def write_config(spec: Spec, config: Any) -> dict[str, Any]:
  """config.json of our config, without the keys that begin with _.

  Raises ConfigError for a transformer that reads an image beside x_t: none is published.
  """
  if isinstance(config, Beside):
    must_be("beside", config.beside, 0)
  return {**spec.ignored, **spec.fixed, **spec.write(config)}


def refuse(problem: str) -> RestoreError:
  return RestoreError(f"{problem}.")


def check_counts(keys: Mapping[str, Any], names: Iterable[str]) -> None:
  """For `read`: raises RestoreError for a key that is not a positive integer."""
  for name in names:
    if not isinstance(keys[name], int) or keys[name] < 1:
      raise refuse(f"{name} = {keys[name]!r}, which is not a positive integer")


def must_be(name: str, value: Any, *expected: Any) -> None:
  """For `write`: raises ConfigError for a value that the published class cannot express."""
  if value not in expected:
    only = " or ".join(repr(e) for e in expected)
    raise ConfigError(
      f"model.{name} = {value!r} cannot be written for diffusers, which supports {only} only: "
      f"use dataclasses.replace(config, {name}=...) if the weights are valid for that value."
    )


def whole(what: str, value: int, divisor: int) -> int:
  """value / divisor. Raises RestoreError where it is not an integer."""
  if not isinstance(value, int) or value % divisor:
    raise refuse(f"{what} = {value!r}, which {divisor} does not divide")
  return value // divisor


def flat(tree: Params) -> dict[str, Any]:
  """A nested dict by paths "a/b/c"."""
  leaves = jax.tree.leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def make_of(module: Any, config: Any) -> Callable[[Any], Any]:
  """rngs -> the module, as the functions of models.params take it."""
  return partial(module, config)


def abstract_params(module: Any, config: Any) -> Params:
  """Our parameters as jax.ShapeDtypeStruct, in the structure of init_params."""
  return abstract_of(make_of(module, config))


def shapes_of(abstract: Params) -> dict[str, tuple[int, ...]]:
  """The shape of every one of our parameters by its path."""
  return {path: leaf.shape for path, leaf in flat(abstract).items()}
