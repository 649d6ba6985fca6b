"""Configs: Python files whose get_config() returns an ml_collections.ConfigDict, type-locked.

A file lists what it chooses; DEFAULTS has the rest. A file that derives from another imports it
as `parent`. A wrong key, type or value fails here, before anything is built, with the nearest valid
name or the range.
"""

import ast
import difflib
import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from ml_collections import ConfigDict

from t2i_jax.errors import ConfigError, T2IError
from t2i_jax.keys import DEFAULTS, LISTED_WITH, value_of
from t2i_jax.ranges import checked, hint_of, kind_of

SHIPPED = Path(__file__).with_name("configs")  # the package t2i_jax.configs


def load_config(path: str | Path, overrides: dict[str, str] | None = None) -> ConfigDict:
  """The config of a file with DEFAULTS filled in and `a.b=value` overrides, locked.

  path       a .py file with get_config(), or "file.py:variant" for one of its VARIANTS, or for
             any where it has VARIANT, a text that says what it is. One in
             configs/ that the current folder does not have is the package's own
  overrides  dotted key -> text as written on the command line
  Raises ConfigError naming the file, the key and the nearest key, or the value and its range.
  """
  config, where = _config_of(path), str(path).partition(":")[0]
  fill(config, where)
  apply_overrides(config, overrides or {}, where)
  for key, value in leaves(config).items():
    checked(value, value_of(key), key)
  return config.lock()


def compared_with(path: str | Path) -> tuple[str, ConfigDict]:
  """What a run of this file is compared with: its parent, or without one itself.

  Returns its name and its config without overrides.   Raises ConfigError.
  """
  module, variant = _module(path)
  if not hasattr(module, "parent"):
    return str(path), load_config(path)
  given = [variant] if hasattr(module.parent, "VARIANT") else []
  config = module.parent.get_config(*given)
  fill(config, module.parent.__name__)
  return config.name, config.lock()


def _config_of(path: str | Path) -> ConfigDict:
  """What a file's get_config() returns."""
  module, variant = _module(path)
  config = _run(module.__file__, module.get_config, *([variant] if variant else []))
  if not isinstance(config, ConfigDict):
    raise ConfigError(f"{path}: get_config() returns {kind_of(config)}, which is no ConfigDict.")
  return config


def _module(path: str | Path) -> tuple[ModuleType, str]:
  """A config's file as a module, and the variant that `path` names or "".

  A file can import from the folder that it is in, by that folder's name.
  """
  name, _, variant = str(path).partition(":")
  file = _file(Path(name))
  folder = next((p for p in file.resolve().parents if p.name == "configs"), file.resolve().parent)
  imports = [] if folder == SHIPPED else [str(folder.parent)]
  sys.path[:0] = imports
  try:
    module_spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if module_spec is None or module_spec.loader is None:
      raise ConfigError(f"--config={name} is no Python file: its name ends in .py.")
    module = importlib.util.module_from_spec(module_spec)
    _run(file, module_spec.loader.exec_module, module)
  finally:
    del sys.path[: len(imports)]
  if not hasattr(module, "get_config"):
    raise ConfigError(f"{name} has no get_config(); is it a config?")
  variants = getattr(module, "VARIANTS", ())
  if variant and variant not in variants and not hasattr(module, "VARIANT"):
    there_are = f"There are {', '.join(variants)}" if variants else "It has none"
    raise ConfigError(f"--config={name}:{variant}: {variant!r} is not a variant. {there_are}.")
  return module, variant


def _file(path: Path) -> Path:
  """The file of a config, in the package where the current folder has none of this name."""
  if path.is_file():
    return path
  below = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
  if below != path and (SHIPPED / below).is_file():
    return SHIPPED / below
  folder = path.parent if path.parent.is_dir() else Path("configs")
  known = {str(folder / p.name): p for p in folder.glob("*.py") if p.is_file()}
  known |= {str("configs" / p.relative_to(SHIPPED)): p for p in SHIPPED.rglob("*.py")}
  has = lambda file: "def get_config" in file.read_text("utf-8", "replace")
  configs = sorted(name for name, file in known.items() if has(file))
  near = difflib.get_close_matches(str(path), configs, 1, 0)
  raise ConfigError(f"--config={path} does not exist. Nearest: {near[0]}.")


def _run(file: str | Path | None, function: Callable[..., Any], *arguments: Any) -> Any:
  """function(*arguments) of a config's file; what fails in it is a ConfigError with its line."""
  try:
    return function(*arguments)
  except T2IError:
    raise
  except Exception as error:
    frames = traceback.extract_tb(error.__traceback__)
    own = [f.lineno for f in frames if Path(f.filename) == Path(str(file)).absolute()]
    line = error.lineno if isinstance(error, SyntaxError) else own[-1] if own else None
    where = f"{file}, line {line}" if line else str(file)
    old = isinstance(error, ModuleNotFoundError) and error.name == "configs"
    hint = " Write: from t2i_jax.configs import ..." if old else ""
    raise ConfigError(f"{where}: {type(error).__name__}: {error}.{hint}") from error


def fill(config: ConfigDict, where: str) -> None:
  """Adds the keys of DEFAULTS that a config does not list.

  Raises ConfigError for a listed one of another type.
  """
  for key, default in DEFAULTS.items():
    if key in LISTED_WITH and not _sections(config, LISTED_WITH[key]):
      continue
    leaf = key.rpartition(".")[-1]
    for part in _sections(config, key, missing=True):
      if leaf not in part:
        part[leaf] = default
      elif type(part[leaf]) is not type(default):
        raise ConfigError(
          f"{key} = {part[leaf]!r} in {where} is {kind_of(part[leaf])}. "
          f"Write {kind_of(default)}, as {default!r}."
        )


def _sections(config: ConfigDict, key: str, missing: bool = False) -> list[ConfigDict]:
  """The sections that have a dotted key, or that could have it."""
  *path, leaf = key.split(".")
  found = [config]
  for name in path:
    inner = [value for part in found for key, value in part.items() if fnmatchcase(key, name)]
    found = [value for value in inner if isinstance(value, ConfigDict)]
  return [part for part in found if missing or leaf in part]


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
  """Sets dotted keys from text, each to the type it has now and in its range.

  A key of `model` that the config does not list is added: make_system checks it against the fields
  of model.kind. Raises ConfigError.
  """
  flat = leaves(config)
  for key, text in overrides.items():
    if key in flat:
      value = checked(_parse(key, text, flat[key], where), value_of(key), key)
    elif "model.kind" in flat and key.startswith("model.") and key.count(".") == 1:
      value = _literal(text)
    else:
      no_such_key(key, flat, where)
    with config.unlocked():
      part = config
      for name in key.split(".")[:-1]:
        part = part[name]
      part[key.rpartition(".")[-1]] = value


def no_such_key(key: str, flat: Mapping[str, Any], where: str) -> NoReturn:
  """Raises ConfigError with the nearest of the keys `flat`: of the same leaf, if there are any."""
  names = list(flat)
  near = difflib.get_close_matches(key, names, 1, 0)
  by_leaf = difflib.get_close_matches(key.split(".")[-1], [n.split(".")[-1] for n in names], 1)
  if by_leaf:
    same_leaf = [n for n in names if n.split(".")[-1] == by_leaf[0]]
    near = difflib.get_close_matches(key, same_leaf, 1, 0)
  hint = f" Nearest: {near[0]} (now {flat[near[0]]!r})." if near else ""
  raise ConfigError(f"{key} is not a key of {where}.{hint}")


# What ast raises for text that is no literal, or one too deep.
NO_LITERAL = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)


def _literal(text: str) -> Any:
  try:
    return ast.literal_eval(text)
  except NO_LITERAL:
    return text


def _parse(key: str, text: str, now: Any, where: str) -> Any:
  if isinstance(now, str):
    return text
  value = _literal(text)
  if isinstance(now, float) and type(value) is int:
    value = checked(value, float, key)
  if isinstance(now, tuple) and not isinstance(value, tuple):
    value = (value,)
  if type(value) is not type(now):
    raise ConfigError(
      f"{key} = {text!r} is {kind_of(value)}, {where} has {kind_of(now)} there ({now!r}). "
      f"Write --config.{key}=<{kind_of(now)}>."
    )
  return value


def build(registry: Mapping[str, Callable[..., Any]], text: str, key: str, *first: Any) -> Any:
  """registry[name](*first, **arguments) of a choice "name" or "name(a=1, b='x')" in a config.

  key  where the text stands, for the message
  The function's signature says what an argument may be: ranges.checked.
  Raises ConfigError for a wrong name, argument, type or value, with the nearest that exists.
  """
  name, given = _call(text, key)
  if name not in registry:
    raise ConfigError(f"{key} = {text!r}: {name!r} is not one of {', '.join(registry)}.")
  takes = list(inspect.signature(registry[name]).parameters.values())[len(first) :]
  hints = {parameter.name: hint_of(parameter) for parameter in takes}
  defaults = {parameter.name: parameter.default for parameter in takes}
  needed = {n for n, default in defaults.items() if default is inspect.Parameter.empty}
  for argument, value in given.items():
    if argument not in hints:
      known = ", ".join(n if n in needed else f"{n}={d!r}" for n, d in defaults.items())
      known = known or "no arguments"
      raise ConfigError(f"{key} = {text!r}: {name} takes {known}, not {argument!r}.")
    given[argument] = checked(value, hints[argument], f"{key} = {text!r}: {argument}")
  missing = [n for n in hints if n in needed and n not in given]
  if missing:
    raise ConfigError(f"{key} = {text!r}: {name} needs {', '.join(missing)}.")
  try:
    return registry[name](*first, **given)
  except ConfigError as error:
    if key in str(error):
      raise
    raise ConfigError(f"{key} = {text!r}: {error}") from error
  except (ArithmeticError, ValueError) as error:  # of numbers that do not go together
    raise ConfigError(f"{key} = {text!r} cannot be made: {error}.") from error


def _call(text: str, key: str) -> tuple[str, dict[str, Any]]:
  """The name and the arguments of "name" or "name(a=1, b='x')"."""
  try:
    node = ast.parse(text.strip(), mode="eval").body
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    given = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    if not isinstance(call.func, ast.Name) or call.args or len(given) < len(call.keywords):
      raise ValueError
  except NO_LITERAL as error:
    raise ConfigError(f'{key} = {text!r}: write "name" or "name(argument=value)".') from error
  return call.func.id, given


def section(
  kind: Any, keys: Mapping[str, Any], name: str, given: Mapping[str, Any] | None = None
) -> Any:
  """kind(**keys) of a section of a config: a dataclass or a named tuple.

  name   of the section, for the message; what follows its first word is a remark
  given  fields that other sections decide; those that `kind` does not have are left out
  Raises ConfigError naming a key that is missing, that this kind does not have, or whose value is
  not as its field declares.
  """
  given = given or {}
  fields = inspect.signature(kind).parameters
  own = {field: p for field, p in fields.items() if field not in given}
  needed = {field for field, p in own.items() if p.default is inspect.Parameter.empty}
  said = [f"has no key {key}" for key in sorted(set(keys) - set(own))]
  said += [f"needs {key}" for key in sorted(needed - set(keys))]
  if said:
    raise ConfigError(f"{name} {' and '.join(said)}. Its keys: {', '.join(own)}.")
  values = _held(own, keys, name.partition(" ")[0])
  return kind(**values, **{key: value for key, value in given.items() if key in fields})


def _held(
  fields: Mapping[str, inspect.Parameter], keys: Mapping[str, Any], name: str
) -> dict[str, Any]:
  """The values of the keys of a section, each held to the field of its name."""
  return {key: checked(value, hint_of(fields[key]), f"{name}.{key}") for key, value in keys.items()}


def check_section(
  config: ConfigDict, name: str, kind: Any, where: str, besides: tuple[str, ...] = ()
) -> None:
  """Refuses a key of a section that is no field of `kind`, nor one of `besides`, and a value that
  is not as its field declares.

  Raises ConfigError with the nearest of all keys, and of the fields that the config does not list.
  """
  fields = inspect.signature(kind).parameters
  wrong = [f"{name}.{key}" for key in config[name] if key not in (*besides, *fields)]
  if not wrong:
    _held(fields, {key: config[name][key] for key in config[name] if key in fields}, name)
    return
  optional = {f: p.default for f, p in fields.items() if p.default is not inspect.Parameter.empty}
  known = {f"{name}.{field}": default for field, default in optional.items()} | leaves(config)
  no_such_key(wrong[0], {key: now for key, now in known.items() if key not in wrong}, where)


def to_json(config: ConfigDict) -> str:
  return json.dumps(config.to_dict(), indent=2)


def from_json(text: str) -> ConfigDict:
  """The config that to_json wrote, locked; lists come back as the tuples they were.

  Keys that joined DEFAULTS after it was written are filled in.
  """

  def tuples(node):
    if isinstance(node, dict):
      return {key: tuples(value) for key, value in node.items()}
    return tuple(map(tuples, node)) if isinstance(node, list) else node

  config = ConfigDict(tuples(json.loads(text)))
  fill(config, "the saved config")
  return config.lock()


def differences(old: ConfigDict, new: ConfigDict) -> dict[str, tuple[Any, Any]]:
  """Dotted keys whose values differ -> (old, new); a missing one is None."""
  a, b = leaves(old), leaves(new)
  return {k: (a.get(k), b.get(k)) for k in {**a, **b} if a.get(k) != b.get(k)}


def changed_lines(name: str, old: ConfigDict, new: ConfigDict) -> list[str]:
  """What differs in `new` from `old`, called `name`: a head and a line a key; [] for nothing."""
  cut = lambda text: text if len(text) <= 60 else text[:57] + "..."
  show = lambda flat, key: cut(repr(flat[key])) if key in flat else "not there"
  before, after = leaves(old), leaves(new)
  keys = sorted(key for key in differences(old, new) if key != "name")
  lines = [f"  {key} = {show(after, key)} ({show(before, key)})" for key in keys]
  return [f"{new.name}, where it differs from {name}:", *lines] if lines else []
