"""Batches by role: splits of a folder that a run reads in turn.

data.train_split = "instance+prior": of n splits, every row of the order belongs to the next one, so
that a batch has equal shares. Each split has an order of its own; those of one length have the same
one, so that their records come in pairs.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from t2i_jax.data.order import index_at
from t2i_jax.data.record import Record
from t2i_jax.data.source import ShardSource, Source
from t2i_jax.errors import ConfigError

BETWEEN = "+"
Without = Mapping[str, Sequence[int]]  # split -> indices of records that are not read
NOTHING: Without = {}


class Roles:
  """Splits that are read in turn. The role of a row is the number of its split.

  without  by split, as of ShardSource
  Raises DataError as ShardSource does.
  """

  def __init__(self, folder: str | Path, splits: Sequence[str], without: Without = NOTHING):
    self.folder, self.split = Path(folder), BETWEEN.join(splits)
    self.sources = tuple(ShardSource(folder, split, without.get(split, ())) for split in splits)

  def __len__(self) -> int:
    """Records of all splits."""
    return sum(map(len, self.sources))

  def __getitem__(self, index: int) -> Record:
    """The records of one split after those of the one before."""
    for source in self.sources:
      if index < len(source):
        return source[index]
      index -= len(source)
    raise IndexError(index)

  def record(self, position: int, seed: int) -> tuple[Record, int]:
    """The record and the role at a position of the order."""
    turn, role = divmod(position, len(self.sources))
    source = self.sources[role]
    return source[index_at(turn, len(source), seed)[1]], role


def open_split(folder: str | Path, split: str, without: Without = NOTHING) -> ShardSource | Roles:
  """A split, or several that are read in turn. Raises DataError."""
  splits = split.split(BETWEEN)
  if len(splits) == 1:
    return ShardSource(folder, split, without.get(split, ()))
  return Roles(folder, splits, without)


def each_split(source: ShardSource | Roles) -> Iterator[ShardSource]:
  """The splits that a source reads."""
  yield from source.sources if isinstance(source, Roles) else (source,)


def record_at(source: Source, position: int, seed: int) -> tuple[Record, int | None]:
  """The record at a position of the global order, and its role where the source has roles."""
  if isinstance(source, Roles):
    return source.record(position, seed)
  return source[index_at(position, len(source), seed)[1]], None


def check_roles(
  source: Source, wanted: tuple[str, ...], batch: int, split: str, parts: int = 1
) -> None:
  """Raises ConfigError where a run's objective and its data do not have the same roles.

  wanted  what the objective calls its roles, in order; () for one that has none
  batch   rows of a global batch, in `parts` micro-batches;   split: data.train_split
  """
  has = len(source.sources) if isinstance(source, Roles) else 0
  if has != len(wanted):
    roles = f"the roles {', '.join(wanted)}" if wanted else "no roles"
    example = BETWEEN.join(wanted) or "train"
    raise ConfigError(
      f"data.train_split = {split!r}: train.objective has {roles}. Name a split for each, as "
      f"{example!r}."
    )
  if has and batch % (has * parts):
    several = f" in {parts} micro-batches" if parts > 1 else ""
    raise ConfigError(
      f"train.batch = {batch} does not divide into {has} roles{several}: use a multiple of "
      f"{has * parts}."
    )
