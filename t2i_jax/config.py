"""Configs: Python files whose get_config() returns an ml_collections.ConfigDict, type-locked.

A file lists what it chooses; DEFAULTS has the rest. A file that derives from another imports it
as `parent`. A wrong key or type fails here, before anything is built, with the nearest valid name.
"""

import ast
import difflib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from ml_collections import ConfigDict

from t2i_jax.errors import ConfigError

# Keys that a config need not list -> their values, filled in by load_config where the section
# exists. A * is any name.
DEFAULTS: dict[str, Any] = {
  "seed": 0,
  "autoencoder": "identity",
  "data.train_split": "train",
  "data.val_split": "val",
  "data.workers": 0,  # processes that decode; 0 = threads
  "text.tokenizer": "bpe",  # the data's own byte-level BPE; or "bytes", "labels:N", "folder:PATH"
  "text.too_long": "error",  # a caption of more than text.length tokens; or "truncate", "skip"
  # data.documents.Packed says what these are.
  "rows.length": 256,
  "rows.images": 4,
  "rows.window": 4,
  "rows.positions": "grid",
  "rows.image_first": 0.2,
  "rows.text_only": 0.0,
  "rows.interleaved": 0.0,
  "rows.edited": 0.0,
  "rows.drop": 0.1,
  "rows.max_t": 0.5,
  "rows.prompt_loss": True,
  "rows.word_dropout": 0.0,
  "parts.*.start": "",  # random weights; or "folder:PATH", "run:PATH"
  "parts.*.train": "all",  # or "none", "only(pattern='blocks/*')"
  "process.penalty": "squared",
  "process.shift": "static(factor=1.0)",
  "process.t_sampling": (),  # over a batch: "stratified", "importance"
  "process.noise": "gaussian",  # or "gaussian(offset=0.1, perturbation=0.1)"
  "train.accumulate": 1,
  "train.clip": 1.0,  # of the gradient's global norm
  "train.objective": "denoising",
  "mesh.data": -1,  # the devices that are left
  "mesh.fsdp": 1,
  "mesh.tensor": 1,
  "mesh.context": 1,
  "mesh.expert": 1,
  "mesh.rules": (),
  "checkpoint.frozen": "start",
  "sampling.negative": "",  # prompt of the null
}
# Keys of DEFAULTS that not every config with their section has -> the key that those list.
LISTED_WITH: dict[str, str] = {
  "process.penalty": "process.prediction",
  "train.objective": "text.towers",
}

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
  """The config of a file with DEFAULTS filled in and `a.b=value` overrides, locked.

  path       a .py file with get_config(), or "file.py:variant" for one of its VARIANTS; the
             folder `configs` that it is in is importable
  overrides  dotted key -> text as written on the command line
  Raises ConfigError naming the file, the key and the nearest key.
  """
  module, variant = _module(path)
  config = module.get_config(variant) if variant else module.get_config()
  where = str(path).partition(":")[0]
  fill(config, where)
  apply_overrides(config, overrides or {}, where)
  return config.lock()


def compared_with(path: str | Path) -> tuple[str, ConfigDict]:
  """What a run of this file is compared with: its parent, or without one itself.

  Returns its name and its config without overrides.   Raises ConfigError.
  """
  module, _ = _module(path)
  if not hasattr(module, "parent"):
    return str(path), load_config(path)
  config = module.parent.get_config()
  fill(config, module.parent.__name__)
  return config.name, config.lock()


def _module(path: str | Path) -> tuple[ModuleType, str]:
  """A config's file as a module, and the variant that `path` names or ""."""
  file, _, variant = str(path).partition(":")
  path = Path(file)
  if not path.is_file():
    beside = path.parent if path.parent.is_dir() else Path("configs")
    known = sorted(str(p) for p in beside.glob("*.py") if "def get_config" in p.read_text())
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
  return module, variant


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
          f"{key} = {part[leaf]!r} in {where} is {_kind(part[leaf])}. "
          f"Write {_kind(default)}, as {default!r}."
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
  """Sets dotted keys from text, each to the type it has now.

  A key of `model` that the config does not list is added: make_system checks it against the fields
  of model.kind. Raises ConfigError.
  """
  flat = leaves(config)
  for key, text in overrides.items():
    if key in flat:
      value = _parse(key, text, flat[key], where)
    elif "model.kind" in flat and key.startswith("model.") and key.count(".") == 1:
      value = _literal(text)
    else:
      no_such_key(key, flat, where)
    with config.unlocked():
      part = config
      for name in key.split(".")[:-1]:
        part = part[name]
      part[key.rpartition(".")[-1]] = value
  for key, value in leaves(config).items():
    if key in COUNTS and isinstance(value, int) and value < 1:
      raise ConfigError(f"{key} = {value}: at least 1 is needed.")


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


def _literal(text: str) -> Any:
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def _parse(key: str, text: str, now: Any, where: str) -> Any:
  if isinstance(now, str):
    return text
  value = _literal(text)
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
  Raises ConfigError naming a key that is missing, that this kind does not have, or of another type.
  """
  given = given or {}
  fields = inspect.signature(kind).parameters
  own = {field: p.default for field, p in fields.items() if field not in given}
  needed = {field for field, default in own.items() if default is inspect.Parameter.empty}
  said = [f"has no key {key}" for key in sorted(set(keys) - set(own))]
  said += [f"needs {key}" for key in sorted(needed - set(keys))]
  if said:
    raise ConfigError(f"{name} {' and '.join(said)}. Its keys: {', '.join(own)}.")
  values = dict(keys)
  for key in set(keys) - needed:
    if isinstance(own[key], float) and type(values[key]) is int:
      values[key] = float(values[key])
    if type(values[key]) is not type(own[key]):
      raise ConfigError(
        f"{name}: {key} = {values[key]!r} is {_kind(values[key])}; "
        f"write {_kind(own[key])}, as {own[key]!r}."
      )
  return kind(**values, **{key: value for key, value in given.items() if key in fields})


def check_section(
  config: ConfigDict, name: str, kind: Any, where: str, besides: tuple[str, ...] = ()
) -> None:
  """Refuses a key of a section that is no field of `kind`, nor one of `besides`.

  Raises ConfigError with the nearest of all keys, and of the fields that the config does not list.
  """
  fields = inspect.signature(kind).parameters
  wrong = [f"{name}.{key}" for key in config[name] if key not in (*besides, *fields)]
  if not wrong:
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
