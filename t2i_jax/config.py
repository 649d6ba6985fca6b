"""Configs: Python files whose get_config() returns an ml_collections.ConfigDict, type-locked.

A wrong key or type fails here, before anything is built, with the nearest valid name.
"""

import ast
import difflib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from t2i_jax.errors import ConfigError

# Keys that count something of which there must be one.
COUNTS: tuple[str, ...] = (
  "train.steps",
  "train.batch",
  "train.accumulate",
  "eval.rows",
)
COUNTS += ("checkpoint.keep", "text.vocab")
COUNTS += ("model.channels", "model.patch", "model.width", "model.depth", "model.heads")


def load_config(path: str | Path, overrides: dict[str, str] | None = None) -> ConfigDict:
  """The config of a file with `a.b=value` overrides, locked.

  path       a .py file with get_config(), or "file.py:variant" for one of its VARIANTS; the
             folder `configs` that it is in is importable
  overrides  dotted key -> text as written on the command line
  Raises ConfigError naming the file, the key and the nearest key.
  """
  file, _, variant = str(path).partition(":")
  path = Path(file)
  if not path.is_file():
    beside = path.parent if path.parent.is_dir() else Path("configs")
    known = sorted(str(p) for p in beside.glob("*.py"))
    near = difflib.get_close_matches(str(path), known, 1, 0)
    raise ConfigError(f"--config={path} does not exist. Nearest: {near[0] if near else 'none'}.")
  root = next((p for p in path.resolve().parents if p.name == "configs"), path.resolve().parent)
  sys.path.insert(0, str(root.parent))
  try:
    module_spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
  finally:
    sys.path.pop(0)
  if not hasattr(module, "get_config"):
    raise ConfigError(f"{path} has no get_config(); is it a config?")
  variants = getattr(module, "VARIANTS", ())
  if variant and variant not in variants:
    there_are = f"There are {', '.join(variants)}" if variants else "It has none"
    raise ConfigError(f"--config={path}:{variant}: {variant!r} is not a variant. {there_are}.")
  config = module.get_config(variant) if variant else module.get_config()
  apply_overrides(config, overrides or {}, str(path))
  return config.lock()


def leaves(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
  """Every leaf key as a dotted name -> value, in order."""
  flat: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      flat |= leaves(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = value
  return flat


def apply_overrides(config: ConfigDict, overrides: dict[str, str], where: str) -> None:
  """Sets dotted keys from text, each to the type it has now. Raises ConfigError."""
  flat = leaves(config)
  for key, text in overrides.items():
    if key not in flat:
      names = list(flat)
      near = difflib.get_close_matches(key, names, 1, 0)
      by_leaf = difflib.get_close_matches(key.split(".")[-1], [n.split(".")[-1] for n in names], 1)
      if by_leaf:
        same_leaf = [n for n in names if n.split(".")[-1] == by_leaf[0]]
        near = difflib.get_close_matches(key, same_leaf, 1, 0)
      hint = f" Nearest: {near[0]} (now {flat[near[0]]!r})." if near else ""
      raise ConfigError(f"{key} is not a key of {where}.{hint}")
    with config.unlocked():
      config.update_from_flattened_dict({key: _parse(key, text, flat[key], where)})
  for key, value in leaves(config).items():
    if key in COUNTS and value < 1:
      raise ConfigError(f"{key} = {value}: at least 1 is needed.")


def _parse(key: str, text: str, now: Any, where: str) -> Any:
  if isinstance(now, str):
    return text
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    value = text
  if isinstance(now, float) and type(value) is int:
    value = float(value)
  if isinstance(now, tuple) and not isinstance(value, tuple):
    value = (value,)
  if type(value) is not type(now):
    raise ConfigError(
      f"{key} = {text!r} is {_kind(value)}, {where} has {_kind(now)} there ({now!r}). "
      f"Write --config.{key}=<{_kind(now)}>."
    )
  return value


def _kind(value: Any) -> str:
  names = {int: "an integer", float: "a number", bool: "True or False", tuple: "a tuple"}
  return names.get(type(value), "text")


def build(registry: Mapping[str, Callable[..., Any]], text: str, key: str, *first: Any) -> Any:
  """registry[name](*first, **arguments) of a choice "name" or "name(a=1, b='x')" in a config.

  key  where the text stands, for the message
  Raises ConfigError for a wrong name, argument or type, with the nearest that exists.
  """
  try:
    node = ast.parse(text.strip(), mode="eval").body
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if not isinstance(call.func, ast.Name) or call.args:
      raise ValueError
    name = call.func.id
    given = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
  except (SyntaxError, ValueError) as error:
    raise ConfigError(f'{key} = {text!r}: write "name" or "name(argument=value)".') from error
  if name not in registry:
    raise ConfigError(f"{key} = {text!r}: {name!r} is not one of {', '.join(registry)}.")
  takes = list(inspect.signature(registry[name]).parameters.values())[len(first) :]
  defaults = {parameter.name: parameter.default for parameter in takes}
  for argument, value in given.items():
    if argument not in defaults:
      known = ", ".join(f"{n}={d!r}" for n, d in defaults.items()) or "no arguments"
      raise ConfigError(f"{key} = {text!r}: {name} takes {known}, not {argument!r}.")
    now = defaults[argument]
    if isinstance(now, float) and type(value) is int:
      given[argument] = float(value)
    elif now is not None and now is not inspect.Parameter.empty and type(value) is not type(now):
      raise ConfigError(f"{key} = {text!r}: {argument} is {_kind(now)} ({now!r}).")
  missing = [n for n, d in defaults.items() if d is inspect.Parameter.empty and n not in given]
  if missing:
    raise ConfigError(f"{key} = {text!r}: {name} needs {', '.join(missing)}.")
  return registry[name](*first, **given)


def section(
  kind: Any, keys: Mapping[str, Any], name: str, given: Mapping[str, Any] | None = None
) -> Any:
  """kind(**keys) of a section of a config: a dataclass or a named tuple.

  name   of the section, for the message
  given  fields that other sections decide; those that `kind` does not have are left out
  Raises ConfigError naming a key that is missing, or that this kind does not have.
  """
  given = given or {}
  fields = inspect.signature(kind).parameters
  needed = {f for f, p in fields.items() if p.default is inspect.Parameter.empty}
  wrong = sorted(set(keys) - set(fields))
  missing = sorted(needed - set(keys) - set(given))
  if wrong or missing:
    said = [f"has no key {key}" for key in wrong] + [f"needs {key}" for key in missing]
    own = ", ".join(field for field in fields if field not in given)
    raise ConfigError(f"{name} {' and '.join(said)}. Its keys: {own}.")
  return kind(**keys, **{key: value for key, value in given.items() if key in fields})


def to_json(config: ConfigDict) -> str:
  return json.dumps(config.to_dict(), indent=2)


def from_json(text: str) -> ConfigDict:
  """The config that to_json wrote, locked; lists come back as the tuples they were."""

  def tuples(node):
    if isinstance(node, dict):
      return {key: tuples(value) for key, value in node.items()}
    return tuple(map(tuples, node)) if isinstance(node, list) else node

  return ConfigDict(tuples(json.loads(text))).lock()


def differences(old: ConfigDict, new: ConfigDict) -> dict[str, tuple[Any, Any]]:
  """Dotted keys whose values differ -> (old, new); a missing one is None."""
  a, b = leaves(old), leaves(new)
  return {k: (a.get(k), b.get(k)) for k in {**a, **b} if a.get(k) != b.get(k)}
