"""Parts: the networks of a system, each with where its weights start and which of them are trained.

config.parts has a section a part: {"backbone": {"start": "", "train": "all"}, "text": ...}.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from flax import nnx, traverse_util
from ml_collections import ConfigDict

from t2i_jax.config import build
from t2i_jax.errors import ConfigError
from t2i_jax.models.params import Params


class Part(NamedTuple):
  """One network with weights.

  make    builds it
  config  of the network: it says which published folders fit
  start   "" (random), "folder:PATH" (published weights), "file:PATH" (those of the part of this
          name in a file of the original layout), "run:PATH" (the averaged weights of the part of
          this name in a work directory) or "base" (those that the part `base` starts with, where
          names and shapes are the same)
  train   "all", "none" or "only(pattern='blocks/*/cross/*')": shell patterns of paths in the part
  of      the part of another run that run:PATH means; "" for the one of the same name
  base    the part that it copies in part, or ""
  training_only  inference leaves it out
  """

  make: Callable[[nnx.Rngs], nnx.Module]
  config: Any = None
  start: str = ""
  train: str = "all"
  of: str = ""
  base: str = ""
  training_only: bool = False


STARTS = ("folder", "file", "run")
BASE = "base"


def split_start(start: str, key: str) -> tuple[str, str]:
  """("", ""), ("base", ""), or (one of STARTS, PATH).

  key  where it was set. Raises ConfigError.
  """
  if start == BASE:
    return BASE, ""
  kind, _, path = start.partition(":")
  if start and (kind not in STARTS or not path):
    raise ConfigError(
      f"{key} = {start!r}: write '' (random weights), folder:PATH, file:PATH or run:PATH."
    )
  return (kind, path) if start else ("", "")


def configured(parts: dict[str, Part], c: ConfigDict) -> dict[str, Part]:
  """The parts with their sections of config.parts. Raises ConfigError, by the key's name."""
  if set(c) != set(parts):
    raise ConfigError(
      f"config.parts names {', '.join(sorted(c))}; this config has the parts "
      f"{', '.join(sorted(parts))}."
    )
  for name, part in parts.items():
    kind, _ = split_start(c[name].start, f"parts.{name}.start")
    if kind == BASE and not part.base:
      raise ConfigError(
        f"parts.{name}.start = {BASE!r}: only a ControlNet starts as a copy of the backbone. Write "
        "'' (random weights), folder:PATH or run:PATH."
      )
  return {
    name: part._replace(start=c[name].start, train=c[name].train) for name, part in parts.items()
  }


def check_started(parts: Mapping[str, Part]) -> None:
  """Raises ConfigError for a frozen part of training that would keep random weights."""
  for name, part in parts.items():
    if part.training_only and part.train == "none" and not part.start:
      raise ConfigError(
        f"parts.{name}.start = '': it is frozen, and would keep random weights. Give "
        f"parts.{name}.start='run:PATH' or 'folder:PATH'."
      )


def _only(pattern: str) -> tuple[str, ...]:
  return (pattern,)


# By the name in config.parts.*.train: patterns of the paths that are trained.
TRAINED: dict[str, Callable[..., tuple[str, ...]]] = {
  "all": lambda: ("*",),
  "none": lambda: (),
  "only": _only,
}


def split_params(tree: Params, parts: dict[str, Part]) -> tuple[Params, Params]:
  """(trainable, frozen) by `Part.train`. Raises ConfigError where a pattern fits no weight, or
  where nothing is trained."""
  flat = traverse_util.flatten_dict(tree, sep="/")
  trained = set()
  for name, part in parts.items():
    key = f"parts.{name}.train"
    own = {path: path.removeprefix(f"{name}/") for path in flat if path.startswith(f"{name}/")}
    for pattern in build(TRAINED, part.train, key):
      fits = {path for path, inner in own.items() if fnmatchcase(inner, pattern)}
      if not fits:
        near = ", ".join(sorted({inner.split("/")[0] for inner in own.values()}))
        raise ConfigError(f"{key} = {part.train!r} fits no weight. Paths begin with {near}.")
      trained |= fits
  if not trained:
    raise ConfigError("parts: nothing is trained. Set parts.<name>.train='all' for one of them.")
  split = [
    {p: leaf for p, leaf in flat.items() if (p in trained) == side} for side in (True, False)
  ]
  trainable, frozen = (traverse_util.unflatten_dict(side, sep="/") for side in split)
  return trainable, frozen


def merge_params(trainable: Params, frozen: Params) -> Params:
  """The inverse of split_params."""
  flat = traverse_util.flatten_dict(trainable) | traverse_util.flatten_dict(frozen)
  return traverse_util.unflatten_dict(flat)


class InTurn(Mapping[str, Params]):
  """Parameters by part that are in memory one group at a time: the encoders' while prompts are
  encoded, the backbone's while latents are sampled, the autoencoder's while they are decoded.

  load  name of a part -> its parameters, read anew each time
  """

  def __init__(self, names: Iterable[str], load: Callable[[str], Params]):
    self._names, self._load, self._held = tuple(names), load, dict[str, Params]()

  def __getitem__(self, name: str) -> Params:
    return self.hold((name,))[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self._names)

  def __len__(self) -> int:
    return len(self._names)

  def hold(self, names: Iterable[str]) -> dict[str, Params]:
    """These parts; all others leave memory."""
    wanted = [name for name in names if name in self._names]
    self._held = {name: self._held[name] for name in wanted if name in self._held}
    self._held |= {name: self._load(name) for name in wanted if name not in self._held}
    return dict(self._held)


def only(params: Params | InTurn, names: Iterable[str]) -> Params:
  """The parameters of these parts, of which some may have none."""
  if isinstance(params, InTurn):
    return params.hold(names)
  return {name: params[name] for name in names if name in params}
