"""What a checkpoint has read of some records: computed from its config, its data and the order."""

from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from t2i_jax.config import leaves
from t2i_jax.data.exposures import Order, exposures
from t2i_jax.data.optout import Match, Matches, OptOut, match
from t2i_jax.data.perceptual import RADIUS
from t2i_jax.data.roles import BETWEEN
from t2i_jax.data.source import manifest_hash, read_manifest
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.training.begin import order_of
from t2i_jax.training.checkpoint import Meta, open_checkpoints


class Read(NamedTuple):
  """A record, and the steps at which it was read, ascending, one an exposure; () = never.

  trained  whether it is of a split that is trained on
  """

  match: Match
  steps: tuple[int, ...]
  trained: bool


class Account(NamedTuple):
  """What a run has read of some records.

  step   the last one that is counted;   meta: of its newest checkpoint
  steps  of the checkpoints that are kept
  """

  workdir: Path
  step: int
  meta: Meta
  steps: tuple[int, ...]
  order: Order
  matches: Matches
  records: tuple[Read, ...]

  @property
  def first(self) -> int | None:
    """The first step at which any of the records was read; None = never."""
    return min((read.steps[0] for read in self.records if read.steps), default=None)

  @property
  def clean(self) -> int | None:
    """The last checkpoint that has read none of the records; None where none is kept."""
    first = self.first
    kept = [step for step in self.steps if first is None or step < first]
    return max(kept, default=None)

  def before(self, read: Read) -> int | None:
    """The last checkpoint before the first exposure of a record; None where none is kept."""
    return max((step for step in self.steps if step < read.steps[0]), default=None)


def window_of(config: ConfigDict) -> int:
  """Records that a row of a batch is made of."""
  return config.rows.window if "rows" in config else 1


def order_in(meta: Meta, folder: str) -> Order:
  """The order of a checkpoint's data. Raises DataError where the folder holds others now."""
  now = manifest_hash(folder)
  if meta.data and now != meta.data:
    raise DataError(
      f"data.dir = {folder!r} is not the folder that was trained on: its manifest.json has the "
      f"hash {now[:12]}, {meta.data[:12]} then. Put the original there."
    )
  splits = read_manifest(folder)["splits"]
  names = meta.config.data.train_split.split(BETWEEN)
  sizes = tuple((name, splits[name]["records"]) for name in names)
  return order_of(meta, sizes, window_of(meta.config))


def account_of(
  workdir: str | Path, optout: OptOut, step: int | None = None, radius: int = RADIUS
) -> Account:
  """What a run has read, up to a step, of the records of a list; by default all that it has done.

  Raises RestoreError, DataError where no record is matched or all are.
  """
  with closing(open_checkpoints(workdir)) as checkpoints:
    newest, meta = checkpoints.newest(checkpoints.meta)
    steps = tuple(checkpoints.steps())
  if step is not None and step > newest:
    raise ConfigError(f"--step={step}: {workdir} has done {newest} steps.")
  step, folder = newest if step is None else step, meta.config.data.dir
  order = order_in(meta, folder)
  matches = match(optout, folder, list(read_manifest(folder)["splits"]), radius)
  read = exposures(order, matches.by_split(), step)
  trained = {split for split, _ in order.splits}
  records = tuple(
    Read(one, tuple(read.get((one.split, one.number), ())), one.split in trained)
    for one in matches.records
  )
  return Account(Path(workdir), step, meta, steps, order, matches, records)


def started_from(config: ConfigDict) -> dict[str, str]:
  """Where parts of a run begin, of those that do not begin at random: part -> start."""
  return {
    key.split(".")[1]: value
    for key, value in leaves(config).items()
    if key.startswith("parts.") and key.endswith(".start") and value
  }


def lines_of(account: Account) -> list[str]:
  """The account as text: a line a record, and what holds for all."""
  folder, meta = account.meta.config.data.dir, account.meta
  said = [f"{account.workdir}: steps 1 to {account.step}, data {folder} ({meta.data[:12]})"]
  said += [_line(account, read) for read in account.records]
  if account.order.since:
    said.append(
      f"Steps up to {account.order.since} read data that are not these: nothing is known of them."
    )
  said += [f"{part} starts from {start}: that has its own account" for part, start in
           started_from(meta.config).items()]  # fmt: skip
  said += [f"no record matches {text!r}" for text in account.matches.unmatched]
  hits, pairs = account.matches.false
  if pairs:
    said.append(
      f"perceptual hash: of {pairs:,} pairs of different images of these data {hits:,} match, too "
      f"({hits / pairs:.2g})"
    )
  return said


def _line(account: Account, read: Read) -> str:
  one = read.match
  stated = [value for value in (one.provenance.author, one.provenance.licence) if value]
  name = ", ".join([f"{one.split}/{one.number} {one.provenance.key}", *stated])
  if not read.trained:
    return f"{name}: never, of a split that is not trained on"
  if one.number in account.order.without.get(one.split, ()):
    return f"{name}: never, left out by data.tombstones"
  if not read.steps:
    return f"{name}: never"
  before = account.before(read)
  kept = f"step {before}" if before is not None else "none is kept"
  times = "once" if len(read.steps) == 1 else f"{len(read.steps)} times"
  return f"{name}: first at step {read.steps[0]}, {times}; last checkpoint before it: {kept}"


def to_json(account: Account) -> dict[str, Any]:
  """The account as JSON, for a certificate."""
  records = [
    {
      "split": read.match.split,
      "index": read.match.number,
      **read.match.provenance._asdict(),
      "matched by": list(read.match.why),
      "exposures": len(read.steps),
      "first step": read.steps[0] if read.steps else None,
    }
    for read in account.records
  ]
  return {
    "workdir": str(account.workdir),
    "step": account.step,
    "data": account.meta.data,
    "other data before step": account.order.since,
    "starts": started_from(account.meta.config),
    "records": records,
    "first exposure": account.first,
    "last clean checkpoint": account.clean,
    "entries without a record": account.matches.unmatched,
    "false matches of the perceptual hash": list(account.matches.false),
  }
