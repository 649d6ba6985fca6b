"""What is known of one published class: its config.json, its tensors, and our model of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np

from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.models.params import Params, init_params
from t2i_jax.pretrained.names import Entry
from t2i_jax.pretrained.tensors import STEM

# What may be changed of a config that was read: it concerns no weight.
RUNS = ("remat", "attention", "guidance", "attend_padding")
PLACES = 4096  # of a table of positions that are made at once


@dataclass(frozen=True)
class Buffer:
  """A tensor [1, places, width] that is stored though it follows from the config.

  rows   its values at these indices of the second axis, float32
  saved  it is part of their checkpoints, so that it is written, and compared where it is read
  """

  shape: tuple[int, int, int]
  rows: Callable[[np.ndarray], np.ndarray]
  saved: bool = False

  def whole(self) -> np.ndarray:
    """All of it, made a part at a time: the angles are float64."""
    out = np.empty(self.shape, np.float32)
    for start in range(0, self.shape[1], PLACES):
      places = np.arange(start, min(start + PLACES, self.shape[1]))
      out[0, places] = self.rows(places)
    return out

  def sample(self) -> np.ndarray:
    """Indices by which another table is told: the corners, and some places between."""
    return np.unique(np.linspace(0, self.shape[1] - 1, 16).astype(int))


@dataclass(frozen=True)
class Spec:
  """One published class of transformer.

  theirs   its name there;   module, config  ours
  keys     of config.json that our config is made of, with what holds where one is left out
  fixed    keys of which one value is supported
  free     keys that change nothing of what is computed, with the value to write
  old      as fixed, of keys that only older folders have: they are not written
  read     those keys -> our config, raising RestoreError for what cannot be
  write    our config -> those keys, raising ConfigError for what theirs cannot say
  entries  the table
  buffers  by name
  told     our config, with what only a stored tensor tells of it
  stem     what the files of weights are called
  """

  theirs: str
  module: Any
  config: Any
  keys: Mapping[str, Any]
  fixed: Mapping[str, Any]
  free: Mapping[str, Any]
  read: Callable[[dict[str, Any]], Any]
  write: Callable[[Any], dict[str, Any]]
  entries: Callable[[Any], list[Entry]]
  buffers: Callable[[Any], dict[str, Buffer]] = lambda config: {}
  told: Callable[[Any, Any], Any] = lambda config, tensors: config
  old: Mapping[str, Any] = field(default_factory=dict)
  stem: str = STEM


def _plain(value: Any) -> Any:
  return tuple(_plain(v) for v in value) if isinstance(value, (list, tuple)) else value


def read_config(spec: Spec, content: Mapping[str, Any], where: str) -> Any:
  """Our config from config.json. Raises RestoreError naming every key that is not supported."""
  problems = []
  fixed = {**spec.fixed, **spec.old}
  for key, value in content.items():
    if key.startswith("_") or key in spec.keys or key in spec.free:
      continue
    if key in fixed:
      if _plain(value) != _plain(fixed[key]):
        problems.append(f"{key} = {value!r}, of which only {fixed[key]!r} is supported")
    elif value is not None and value is not False:
      problems.append(f"{key} = {value!r}, which is not known")
  if problems:
    raise RestoreError(f"{where}: a {spec.theirs} with {'; '.join(problems)}.")
  known = {key: _plain(content.get(key, default)) for key, default in spec.keys.items()}
  try:
    return spec.read(known)
  except RestoreError as error:
    raise RestoreError(f"{where}: a {spec.theirs} with {error}") from error
  except (ConfigError, TypeError, ValueError, ZeroDivisionError) as error:
    raise RestoreError(f"{where} does not make a {spec.theirs}: {error}") from error


def write_config(spec: Spec, config: Any) -> dict[str, Any]:
  """config.json of our config, without the keys that begin with _."""
  return {**spec.free, **spec.fixed, **spec.write(config)}


def refuse(said: str) -> RestoreError:
  return RestoreError(f"{said}.")


def must_be(name: str, value: Any, *expected: Any) -> None:
  """For `write`: raises ConfigError where a config has what the published class cannot say."""
  if value not in expected:
    only = " or ".join(repr(e) for e in expected)
    raise ConfigError(
      f"model.{name} = {value!r} cannot be written for diffusers, where it is {only}: "
      f"use dataclasses.replace(config, {name}=...) if the weights stay right."
    )


def whole(what: str, value: int, divisor: int) -> int:
  """value / divisor. Raises RestoreError where it is not whole."""
  if not isinstance(value, int) or value % divisor:
    raise refuse(f"{what} = {value!r}, which {divisor} does not divide")
  return value // divisor


def flat(tree: Params) -> dict[str, Any]:
  """A nested dict by paths "a/b/c"."""
  leaves = jax.tree.leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def make_of(module: Any, config: Any) -> Callable[[Any], Any]:
  """rngs -> the module, as models.params wants it."""
  return partial(module, config)


def abstract_params(module: Any, config: Any) -> Params:
  """The shapes of our parameters, in the structure of init_params."""
  return jax.eval_shape(lambda key: init_params(make_of(module, config), key), jax.random.key(0))


def shapes_of(abstract: Params) -> dict[str, tuple[int, ...]]:
  """The shape of every one of our parameters by its path."""
  return {path: leaf.shape for path, leaf in flat(abstract).items()}
