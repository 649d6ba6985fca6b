"""Adapters of a model's parts: low-rank matrices that are trained in place of a part's weights.

    config.adapters.lora = "lora(of='backbone', rank=4)"
    config.parts.lora = {}          the part that they are
    config.parts.backbone = {"start": "run:runs/scenes_dit_flow", "train": "none"}

They are side paths where a network is built with its weights (System.module), and `merged` into
these for inference.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from flax import nnx
from ml_collections import ConfigDict

from t2i_jax.config import build
from t2i_jax.errors import ConfigError
from t2i_jax.models.adapters import Adapters, merge_adapters
from t2i_jax.models.lora import ATTENTION, Alpha, LoRA, LoRAConfig, adapters_of
from t2i_jax.models.params import Params, axes_of
from t2i_jax.ranges import Width
from t2i_jax.systems.parts import Part


class Adapted(NamedTuple):
  """Adapters.   of: the part that they adapt;   make: of that part"""

  of: str
  config: LoRAConfig
  make: Callable[[nnx.Rngs], nnx.Module]

  def adapters(self, params: Params, base: Params) -> Adapters:
    """base: parameters of the part that is adapted"""
    return adapters_of(self.config, self.make, params, base)


def lora(
  parts: Mapping[str, Part],
  of: str = "backbone",
  rank: Width = 4,
  alpha: Alpha = 0.0,
  targets: tuple[str, ...] = ATTENTION,
  dora: bool = False,
) -> Adapted:
  """of: the part that is adapted;   rank, alpha, targets, dora: models.lora.LoRAConfig.

  Raises ConfigError.
  """
  if of not in parts:
    raise ConfigError(f"of = {of!r} is not one of the parts {', '.join(parts)}.")
  return Adapted(of, LoRAConfig(rank, alpha, targets, dora), parts[of].make)


# By the name in config.adapters.
ADAPTERS: dict[str, Callable[..., Adapted]] = {"lora": lora}


def make_adapters(c: ConfigDict, parts: Mapping[str, Part]) -> dict[str, Adapted]:
  """Those that config.adapters names, by the names of their parts. Raises ConfigError."""
  found, adapted = {}, dict[str, str]()
  for name, choice in c.get("adapters", {}).items():
    where = f"adapters.{name}"
    if name in parts:
      raise ConfigError(f"{where}: there is a part of this name. Use another.")
    one = found[name] = build(ADAPTERS, choice, where, parts)
    if one.of in adapted:
      raise ConfigError(
        f"{where} = {choice!r}: adapters.{adapted[one.of]} adapts {one.of}, too. One is trained at "
        "a time; merge the other with t2i merge."
      )
    adapted[one.of] = name
    try:
      axes_of(partial(LoRA, one.config, one.make))
    except ConfigError as error:
      raise ConfigError(f"{where} = {choice!r}: {error}") from error
  return found


def parts_of(adapters: Mapping[str, Adapted]) -> dict[str, Part]:
  return {
    name: Part(partial(LoRA, one.config, one.make), one.config) for name, one in adapters.items()
  }


def side_paths(adapters: Mapping[str, Adapted], params: Params, part: str) -> Adapters | None:
  """The side paths of a part, where the parameters have some."""
  for name, one in adapters.items():
    if one.of == part and name in params:
      return one.adapters(params[name], params[part])
  return None


def without(system: Any) -> Any:
  """The system for `merged` parameters: what was adapted counts as trained."""
  if not system.adapters:
    return system
  adapted = {one.of for one in system.adapters.values()}
  parts = {
    name: part._replace(train="all") if name in adapted else part
    for name, part in system.parts.items()
    if name not in system.adapters
  }
  return dataclasses.replace(system, parts=parts, adapters={})


def merged(system: Any, params: Params) -> Params:
  """The parameters of `without(system)`: adapters multiplied out, in float32."""
  found = {name: tree for name, tree in params.items() if name not in system.adapters}
  for name, one in system.adapters.items():
    found[one.of] = merge_adapters(found[one.of], one.adapters(params[name], found[one.of]))
  return found
