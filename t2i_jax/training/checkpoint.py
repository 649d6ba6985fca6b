"""Checkpoints as they are read: params, frozen, ema, opt, meta as separate items of a step.

Nothing here writes. A step is complete once its folder has its name: training.save. What is read
is compared with the checksums in the step's meta; a step that is damaged is named, and the one
before it takes its place.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from t2i_jax import config as configs
from t2i_jax.data.roles import NOTHING, Without
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import RestoreError
from t2i_jax.training.checksum import checksums, differing, not_finite
from t2i_jax.training.processes import any_process, of_first

FORMAT = 3  # of the items and of the config in them
WITHOUT_CHECKSUMS = 2  # the format before, which is read, too
HASH = "sha256"  # of all else in meta
TRIES = 20  # to read a step, of any number
T = TypeVar("T")


class Damaged(RestoreError):
  """A step whose files cannot be read, or are not what was saved."""


class Meta(NamedTuple):
  """The part of a checkpoint that is not arrays; with these it suffices for sampling.

  position  rows of the global order consumed
  frozen    hash of the frozen weights by part (training.checksum.fingerprint)
  copied    the frozen parts that are stored as weights; the others are stored as start and hash
  data      hash of the data folder's manifest; "" where it is not known
  arrays    hashes of the arrays of each item, by path; None in a checkpoint of format 2
  since     steps that were done before `data` were read: with others, by --new-data
  without   tombstones: indices of records that were not read, by split
  """

  config: ConfigDict
  tokenizer: Tokenizer
  position: int
  frozen: dict[str, str]
  copied: tuple[str, ...]
  data: str = ""
  arrays: dict[str, dict[str, str]] | None = None
  since: int = 0
  without: Without = NOTHING


def to_json(meta: Meta) -> dict[str, Any]:
  """What is saved of it, with a hash over all of that."""
  content = {
    "format": FORMAT,
    "config": configs.to_json(meta.config),
    "tokenizer": meta.tokenizer.to_json(),
    "position": meta.position,
    "frozen": meta.frozen,
    "copied": list(meta.copied),
    "data": meta.data,
    "arrays": meta.arrays,
    "since": meta.since,
    "without": {split: list(indices) for split, indices in meta.without.items()},
  }
  return content | {HASH: _hash(content)}


def from_json(saved: Any, where: str) -> Meta:
  """The inverse of `to_json`. Raises Damaged, or RestoreError for an older format."""
  if not isinstance(saved, dict):
    raise Damaged(f"{where} is damaged: its meta is no record.")
  found = saved.get("format", 1)
  rest = {key: value for key, value in saved.items() if key != HASH}
  if (HASH in saved or found == FORMAT) and saved.get(HASH) != _hash(rest):
    raise Damaged(f"{where} is damaged: its meta is not what was saved.")
  if found not in (FORMAT, WITHOUT_CHECKSUMS):
    raise RestoreError(
      f"{where} was written by another version of t2i_jax (format {found}; this one reads formats "
      f"{WITHOUT_CHECKSUMS} and {FORMAT}). Use that version, or train again in another --workdir."
    )
  try:
    return Meta(
      configs.from_json(saved["config"]),
      Tokenizer.from_json(saved["tokenizer"]),
      int(saved["position"]),
      saved["frozen"],
      tuple(saved["copied"]),
      saved.get("data", ""),
      saved.get("arrays"),
      int(saved.get("since", 0)),
      {split: tuple(indices) for split, indices in saved.get("without", {}).items()},
    )
  except (KeyError, TypeError, ValueError) as error:  # only of a format without a hash
    raise Damaged(f"{where} is damaged: its meta cannot be read ({error!r}).") from error


def _hash(content: Any) -> str:
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Checkpoints:
  """The checkpoints of a work directory, to be read: nothing in it is made, renamed or removed."""

  def __init__(self, workdir: str | Path):
    # Orbax logs what it does and its failures, and asyncio those that Orbax has not waited for;
    # errors of users are raised here.
    for name in ("absl", "asyncio"):
      logging.getLogger(name).setLevel(logging.CRITICAL)
    self.root = Path(workdir).resolve() / "checkpoints"
    self.reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    self.unverified = False  # whether that was said

  def steps(self) -> list[int]:
    """The complete steps on disk now, oldest first; those that process 0 sees."""
    return of_first(self.on_disk())

  def on_disk(self) -> list[int]:
    """The complete steps that this process sees."""
    if not self.root.is_dir():
      return []
    return sorted(int(path.name) for path in self.root.iterdir() if path.name.isdecimal())

  def meta(self, step: int) -> Meta:
    """Config, tokenizer, position and hashes of a step. Raises Damaged, RestoreError."""
    where = f"{self.root}/{step}"
    meta = from_json(self._restore(step, meta=ocp.args.JsonRestore())["meta"], where)
    if meta.arrays is None and not self.unverified:
      self.unverified = True
      say(f"{where} is of format {WITHOUT_CHECKSUMS}, without checksums: it cannot be verified.")
    return meta

  def arrays(self, step: int, meta: Meta, **abstract: Any) -> dict[str, Any]:
    """Items of arrays, with the shardings of abstract trees, for any mesh and process count.

    Raises Damaged where they are not those that were saved, or not finite. The item "frozen" has
    hashes of its own: training.restore.
    """
    if not abstract:
      return {}
    args = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
    found = dict(self._restore(step, **args).items())
    for name, tree in found.items():
      sums = checksums(tree)
      if meta.arrays is not None and name in meta.arrays:
        wrong = differing(sums, meta.arrays[name])
        if wrong:
          raise Damaged(
            f"{self.root}/{step} is damaged: of the {len(sums)} arrays of {name}, {len(wrong)} are "
            f"not what was saved, the first {wrong[0]}."
          )
      odd = not_finite(sums)
      if odd:
        raise Damaged(f"{self.root}/{step} cannot be used: of {name}, {odd}.")
    return found

  def _restore(self, step: int, **items: Any) -> Any:
    found: Any = None
    error: Exception | None = None
    try:
      found = self.reader.restore(self.root / str(step), args=ocp.args.Composite(**items))
    except Exception as raised:  # Orbax raises Exception on a truncated file
      error = raised
    if any_process(error is not None):
      why = "another process could not read it" if error is None else error.__cause__ or error
      raise Damaged(
        f"{self.root}/{step} cannot be restored: {str(why)[:500]}. It is damaged or of another "
        "model."
      ) from error
    return found

  def newest(self, read: Callable[[int], T], step: int | None = None) -> tuple[int, T]:
    """The newest step that is not damaged, and read(step); with a `step` given, that one or none.

    Each damaged one is named on stderr. A step that a trainer removes while it is read counts as
    none: there is a newer one. Raises RestoreError where no step can be read.
    """
    steps = self.steps()
    if step is not None:
      if step not in steps:
        held = ", ".join(map(str, steps)) or "none"
        raise RestoreError(f"{self.root} has no step {step}; its steps are {held}.")
      try:
        return step, read(step)
      except Damaged as error:
        raise RestoreError(str(error)) from error
    if not steps:
      raise RestoreError(f"{self.root} has no complete checkpoint yet. Wait for the first save.")
    damaged: dict[int, Damaged] = {}
    for _ in range(TRIES):
      there = self.steps()
      untried = [s for s in there if s not in damaged]
      if not untried:
        break
      try:
        found = read(untried[-1])
      except Damaged as error:
        if self.steps()[-1:] <= there[-1:]:  # else a trainer goes on, and may have removed it
          damaged[untried[-1]] = error
        continue
      for problem in damaged.values():
        say(f"WARNING: {problem} Step {untried[-1]} is used in its place.")
      return untried[-1], found
    if not damaged:
      raise RestoreError(f"{self.root}: steps are removed before they are read. Keep more of them.")
    first = next(iter(damaged.values()))
    raise RestoreError(f"{first} None of the {len(damaged)} newest steps can be used.") from first

  def close(self) -> None:
    self.reader.close()


def is_workdir(path: str | Path) -> bool:
  """Whether it is the work directory of a run with checkpoints."""
  return (Path(path) / "checkpoints").is_dir()


def open_checkpoints(workdir: str | Path) -> Checkpoints:
  """The checkpoints of a run that has some. Raises RestoreError."""
  if not is_workdir(workdir):
    raise RestoreError(f"--workdir={workdir} has no checkpoints. Train first: t2i train.")
  return Checkpoints(workdir)


def say(text: str) -> None:
  """A line on stderr, of one process."""
  if jax.process_index() == 0:
    print(text, file=sys.stderr, flush=True)


def state_size(state: Any) -> int:
  """Number of elements in a tree of arrays."""
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(state))


def dump(path: Path, content: Any) -> None:
  """Writes JSON atomically."""
  part = path.with_suffix(".part")
  part.write_text(json.dumps(content, indent=2))
  part.replace(path)
