"""From where weights start, and back from a checkpoint: what is read, and what is checked.

A frozen part is stored as its start and a hash of its weights, not as weights in every checkpoint,
unless checkpoint.frozen is "copy", or it started from random numbers or from merged weights.
"""

import dataclasses
from collections.abc import Collection
from contextlib import closing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from t2i_jax import pretrained
from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.models.params import Params, axes_of
from t2i_jax.pretrained.folder import open_folder
from t2i_jax.systems import System, make_system, merge_params, split_params
from t2i_jax.systems.adapters import as_start, merged_in
from t2i_jax.systems.parts import BASE, Part, split_start
from t2i_jax.towers.text import TextTowerConfig
from t2i_jax.training.checkpoint import Checkpoints, Damaged, Meta, open_checkpoints
from t2i_jax.training.checksum import fingerprint
from t2i_jax.training.state import TrainState, abstract_params

FROZEN = ("start", "copy")


def copied_parts(system: System, how: str, frozen: Params, starts: Params) -> tuple[str, ...]:
  """The parts whose frozen weights a checkpoint holds itself.

  how     config.checkpoint.frozen. Raises ConfigError for one that does not exist.
  starts  what their starts have given: what they have not is random, and is held too
  """
  if how not in FROZEN:
    raise ConfigError(f"checkpoint.frozen = {how!r} is not one of {', '.join(FROZEN)}.")
  flat = lambda tree: set(traverse_util.flatten_dict(tree))
  return tuple(
    name
    for name, tree in frozen.items()
    if how == "copy"
    or name not in starts
    or not flat(tree) <= flat(starts[name])
    or _is_merged(system.parts[name], name)
  )


def _is_merged(part: Part, name: str) -> bool:
  """Whether a part starts as weights that another run's adapters are merged into: on another mesh
  they may differ in the last bit, which a hash would not forgive."""
  kind, path = split_start(part.start, f"parts.{name}.start")
  if kind != "run":
    return False
  with closing(open_checkpoints(path)) as checkpoints:
    _, meta = checkpoints.newest(checkpoints.meta)
  adapters = make_system(meta.config, meta.tokenizer).adapters
  return any(adapters[found].of == (part.of or name) for found in merged_in(meta.config))


def load_starts(system: System, abstract: Params, only: tuple[str, ...] | None = None) -> Params:
  """The weights of every part that has a start, sharded and typed as `abstract`; of a part it may
  be some.

  abstract  as of training.state.abstract_params;   only: names of parts, by default all
  Raises ConfigError for a folder or run of another model, RestoreError for a damaged one.
  """
  found: Params = {}
  for name, part in system.parts.items():
    kind, path = split_start(part.start, f"parts.{name}.start")
    if kind in ("", BASE) or (only is not None and name not in only):
      continue
    if kind in ("folder", "file"):
      shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract[name])
      how = (shardings, jax.tree.leaves(abstract[name])[0].dtype)
      if kind == "file":
        found[name] = pretrained.read_file(path, name, part.config, *how)
      else:
        read = pretrained.read(path, _as_stored(path, part.config), *how)
        found[name] = widened(read, abstract[name], part.config)
    else:
      where = f"parts.{name}.start = {part.start!r}"
      if name in system.text:
        check_tokenizer(path, system.text[name].tokenizer, where)
      found[name] = part_of_run(path, part.of or name, abstract[name], where, part.config)
  for name, part in system.parts.items():
    if part.start == BASE and (only is None or name in only):
      started = found if part.base in found else load_starts(system, abstract, (part.base,))
      if part.base not in started:
        raise ConfigError(
          f"parts.{name}.start = {BASE!r}: part {part.base!r} starts with random weights. Give "
          f"parts.{part.base}.start='folder:PATH' or 'run:PATH'."
        )
      found[name] = _copied(started[part.base], abstract[name], axes_of(part.make))
  return found


def _copied(source: Params, abstract: Params, axes: Params) -> Params:
  """The weights of another part that this one has, too: those of the same path and shape; of a
  stack that is shorter here, of its first blocks.
  """
  flat, own, of = (traverse_util.flatten_dict(tree) for tree in (source, abstract, axes))
  copies: dict[Any, Any] = {}
  for path, leaf in own.items():
    there = flat.get(path)
    if there is not None and of[path][:1] == ("layers",):
      there = there[: leaf.shape[0]]
    if there is not None and there.shape == leaf.shape:
      copies[path] = jax.device_put(jnp.copy(there).astype(leaf.dtype), leaf.sharding)
  return traverse_util.unflatten_dict(copies)


def check_tokenizer(workdir: str, own: Any, where: str) -> None:
  """Raises ConfigError where the text encoder of a run was trained on other ids.

  own    the tokenizer that it is to have;   where: as for part_of_run
  """
  with closing(open_checkpoints(workdir)) as checkpoints:
    _, meta = checkpoints.newest(checkpoints.meta)
  stored = meta.tokenizer
  if {own.kind, stored.kind} <= {"bpe", "bytes"} and own != stored:
    raise ConfigError(
      f"{where}: its tokens are others than those of data.dir, and mean other words. Use its "
      "text.tokenizer, or build the data with its BPE: t2i data build --tokenizer="
      f"{meta.config.data.dir}."
    )


def _as_stored(folder: str, config: Any) -> Any:
  """The config of a backbone that reads an image beside x_t as its folder may have it: without."""
  if not getattr(config, "beside", 0):
    return config
  stored = open_folder(folder)[1]
  return config if getattr(stored, "beside", 0) else dataclasses.replace(config, beside=0)


def widened(found: Params, abstract: Params, config: Any) -> Params:
  """The weights of a backbone that is to read an image beside x_t: its first projection with zeros
  for the new channels, so that at first it does what it did [2211.09800 sec. 3.2].

  A text encoder that is to read longer texts has zeros for the positions that are new.
  config  of the network that `abstract` is of;   others are as they were
  """
  if isinstance(config, TextTowerConfig) and found["place"].shape[0] < config.length:
    more = [(0, config.length - found["place"].shape[0]), (0, 0)]
    place = jax.device_put(jnp.pad(found["place"], more), abstract["place"].sharding)
    return {**found, "place": place}
  new = getattr(config, "beside", 0)
  if not new:
    return found
  flat, own = (traverse_util.flatten_dict(tree) for tree in (found, abstract))
  for path, leaf in flat.items():
    to = own[path].shape if path in own else leaf.shape
    axes = [i for i, (a, b) in enumerate(zip(leaf.shape, to, strict=False)) if a != b]
    if len(leaf.shape) != len(to) or len(axes) != 1:
      continue
    # Channels of a pixel are next to each other, as patchify has them.
    before, size, after = leaf.shape[: axes[0]], leaf.shape[axes[0]], leaf.shape[axes[0] + 1 :]
    pixels = size // config.channels
    if size % config.channels or to[axes[0]] != pixels * (config.channels + new):
      continue
    by_pixel = leaf.reshape(*before, pixels, config.channels, *after)
    pad = [(0, 0)] * (len(before) + 1) + [(0, new)] + [(0, 0)] * len(after)
    flat[path] = jax.device_put(jnp.pad(by_pixel, pad).reshape(to), own[path].sharding)
  return traverse_util.unflatten_dict(flat)


def part_of_run(
  workdir: str, name: str, abstract: Params, where: str, config: Any = None
) -> Params:
  """The averaged weights of a part of another run, low-rank adapters of it merged; `abstract` may
  have more, which begin at random.

  where   what the run was given as, for messages
  config  of the network that `abstract` is of, which may read an image besides: `widened`
  Raises ConfigError, RestoreError.
  """
  mesh = jax.tree.leaves(abstract)[0].sharding.mesh

  def read(step: int) -> Any:
    meta = checkpoints.meta(step)
    system = make_system(meta.config, meta.tokenizer)
    if name not in system.parts:
      raise ConfigError(f"{where}: that run has the parts {', '.join(system.parts)}.")
    needed = {name} | {own for own, one in system.adapters.items() if one.of == name}
    return as_start(system, restore_params(checkpoints, step, meta, system, mesh, needed), name)

  with closing(open_checkpoints(workdir)) as checkpoints:
    _, found = checkpoints.newest(read)
  found = widened(found, abstract, config)
  shapes = lambda tree: {p: leaf.shape for p, leaf in traverse_util.flatten_dict(tree).items()}
  if not shapes(found).items() <= shapes(abstract).items():
    raise ConfigError(f"{where}: its weights have other shapes; it is another model.")
  return found


def _frozen(
  checkpoints: Checkpoints, step: int, meta: Meta, system: System, abstract: Params
) -> Params:
  """The frozen weights of a step: those it holds, and those that start elsewhere, checked."""
  if not abstract:
    return {}
  held = {name: tree for name, tree in abstract.items() if name in meta.copied}
  found = checkpoints.arrays(step, meta, frozen=held)["frozen"] if held else {}
  others = tuple(name for name in abstract if name not in meta.copied)
  started = load_starts(system, _whole(system, abstract), others)
  trees = {name: _matching(started[name], abstract[name]) for name in others}
  found = found | trees
  now = fingerprint(found)
  for name, expected in meta.frozen.items():
    if name in abstract and now.get(name) != expected:
      if name in meta.copied:
        raise Damaged(f"{checkpoints.root}/{step} is damaged: part {name} is not what was saved.")
      start = system.parts[name].start
      raise RestoreError(
        f"the frozen weights of part {name!r} in {start} are not those that step {step} was "
        f"trained with (hash {now.get(name)}, {expected} then). Put the original there, or train "
        "with checkpoint.frozen='copy'."
      )
  return found


def _whole(system: System, abstract: Params) -> Params:
  mesh = jax.tree.leaves(abstract)[0].sharding.mesh
  return abstract_params(system, mesh)


def _matching(tree: Any, like: Any) -> Any:
  """The leaves of a tree that another has, by path."""
  if not isinstance(like, dict):
    return tree
  return {key: _matching(tree[key], inner) for key, inner in like.items()}


def restore_state(
  checkpoints: Checkpoints, step: int, meta: Meta, system: System, abstract: TrainState
) -> TrainState:
  """The state of a step, onto the shardings of `abstract`. Raises RestoreError, ConfigError."""
  saved = checkpoints.arrays(
    step,
    meta,
    params=abstract.trainable,
    ema=abstract.ema,
    opt={"opt": abstract.opt, "running": abstract.running},
  )
  frozen = _frozen(checkpoints, step, meta, system, abstract.frozen)
  count = jax.device_put(np.int32(step), abstract.step.sharding)
  opt = saved["opt"]
  return TrainState(count, saved["params"], frozen, opt["opt"], saved["ema"], opt["running"])


def restore_params(
  checkpoints: Checkpoints,
  step: int,
  meta: Meta,
  system: System,
  mesh: Mesh,
  needed: Collection[str] | None = None,
) -> Params:
  """What inference needs: the averaged weights with the frozen ones. No moments are read.

  needed  parts, of which frozen weights are read; by default of all
  """
  whole = abstract_params(system, mesh)
  # What was trained may be a part that inference leaves out.
  some = any(part.train != "none" for part in system.parts.values())
  trainable, frozen = split_params(whole, system.parts) if some else ({}, whole)
  if needed is not None:
    frozen = {name: tree for name, tree in frozen.items() if name in needed}
  averaged = checkpoints.arrays(step, meta, ema=trainable)["ema"] if some else {}
  return merge_params(averaged, _frozen(checkpoints, step, meta, system, frozen))
