"""What a checkpoint has read of some records: computed from its config, its data and the order.

Where a model drew its data, what that model had read by then is computed, too.
"""

from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from t2i_jax.config import leaves
from t2i_jax.data.drawn import Drawn, drawn_of
from t2i_jax.data.exposures import Order, exposures
from t2i_jax.data.optout import Match, Matches, OptOut, check_matches, match
from t2i_jax.data.perceptual import RADIUS
from t2i_jax.data.provenance import without_files
from t2i_jax.data.roles import BETWEEN
from t2i_jax.data.source import manifest_hash, read_manifest
from t2i_jax.errors import ConfigError, DataError, T2IError
from t2i_jax.training.begin import order_of
from t2i_jax.training.checkpoint import Meta, is_workdir, open_checkpoints


class Read(NamedTuple):
  """A record, and the steps at which it was read, ascending, one an exposure; () = never.

  trained  whether it is of a split that is trained on
  """

  match: Match
  steps: tuple[int, ...]
  trained: bool


class Upstream(NamedTuple):
  """The model that drew images on which a run was trained.

  account  what it had read by then;   why: or why that is not known, "" where it is
  """

  drawn: Drawn
  account: "Account | None"
  why: str = ""


class Account(NamedTuple):
  """What a run has read of some records.

  step   the last one that is counted;   meta: of its newest checkpoint
  steps  of the checkpoints that are kept
  upstream  where a model drew some of the data
  """

  workdir: Path
  step: int
  meta: Meta
  steps: tuple[int, ...]
  order: Order
  matches: Matches
  records: tuple[Read, ...]
  upstream: Upstream | None = None

  @property
  def above(self) -> "tuple[Account, ...]":
    """Of the models that drew its data, then the data of these, as far as they are known."""
    found = self.upstream.account if self.upstream else None
    return () if found is None else (found, *found.above)

  @property
  def unknown(self) -> bool:
    """Whether a model, of which it is not known what it had read, drew its data or those above."""
    return (self, *self.above)[-1].upstream is not None

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

  Raises RestoreError, DataError where no record is matched, of its data or of what is known of
  those that models had read which drew them; or where all of its data are.
  """
  account = _account(workdir, optout, step, radius)
  if account.records or not account.unknown:
    check_matches(account.matches, *(one.matches for one in account.above))
  return account


def _account(workdir: str | Path, optout: OptOut, step: int | None, radius: int) -> Account:
  """`account_of`, also where no record is matched."""
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
  upstream = _upstream(folder, trained, optout, radius)
  return Account(Path(workdir), step, meta, steps, order, matches, records, upstream)


def _upstream(folder: str, trained: set[str], optout: OptOut, radius: int) -> Upstream | None:
  """What drew images of some of the splits that are trained on; None where nothing did."""
  drawn = drawn_of(folder)
  if drawn is None or not trained & set(drawn.splits):
    return None
  run = drawn.workdir
  if not run:
    return Upstream(drawn, None, "what a published model was trained on is not known here.")
  again = f"Where the run is: t2i consent {drawn.model} --step={drawn.step}."
  if not is_workdir(run):
    return Upstream(drawn, None, f"{run} has no checkpoints on this machine. {again}")
  try:
    found = _account(run, optout, drawn.step, radius)
  except T2IError as error:
    return Upstream(drawn, None, f"{error} {again}")
  if drawn.data != found.meta.data:
    then, now = (data[:12] or "unknown" for data in (drawn.data, found.meta.data))
    why = f"it was of the data {then} when it drew, and its checkpoints are of {now}."
    return Upstream(drawn, None, f"{why} {again}")
  return Upstream(drawn, found)


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
  said += filter(None, [without_files(folder)])
  hits, pairs = account.matches.false
  if pairs:
    said.append(
      f"perceptual hash: of {pairs:,} pairs of different images of these data {hits:,} match, too "
      f"({hits / pairs:.2g})"
    )
  return said + ([] if account.upstream is None else _lines_above(account.upstream))


def _lines_above(upstream: Upstream) -> list[str]:
  drawn, account = upstream.drawn, upstream.account
  said = f"images of {', '.join(drawn.splits)} were drawn by {drawn.model} at step {drawn.step}"
  if account is None:
    return [f"{said}: what that had read of the list cannot be computed: {upstream.why}"]
  each = "each may depend on every record that it had read, so that none is of one record alone"
  return [f"{said}; {each}. It had read:", *(f"  {line}" for line in lines_of(account))]


def check_own(account: Account) -> None:
  """Raises DataError where a list names no record of a run's own data: a model drew these."""
  if not account.records:
    by = account.upstream.drawn.model if account.upstream else "another model"
    raise DataError(
      f"no record of {account.matches.where} is listed, and what {by}, which drew images of it, "
      "had read is in no single one. Take the list out of that model first (t2i erase), draw the "
      "data again with what it gives, and train on these."
    )


def check_above(account: Account) -> None:
  """Raises DataError where a model that drew a run's data had read of the list, or may have and
  nothing else is listed: the run has no step without it."""
  for one in account.above:
    if one.first is not None:
      raise DataError(
        f"{account.workdir} was trained on images that {one.workdir} drew, and that had read a "
        f"listed record at step {one.first}: no step of the former is without it. Write "
        f"t2i erase --workdir={one.workdir} --optout=LIST --to=RUN, draw the data again with RUN, "
        "and train on these."
      )
  if account.unknown:
    check_own(account)


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
  upstream = account.upstream
  above: dict[str, Any] = {}
  if upstream is not None:
    known = None if upstream.account is None else to_json(upstream.account)
    above = {"drawn by": upstream.drawn.__dict__ | {"why not": upstream.why, "account": known}}
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
    **above,
  }
