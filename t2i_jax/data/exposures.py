"""When a run read a record: computed from the order of the data, never logged.

Row r of step s is made of the records at positions (s - 1) B w + r w to + w of the order, with B
rows a batch and w records a row; splits that are read in turn have every n-th position each. A
record is read where the order has it, or where it is in the place of one that is left out.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from t2i_jax.data.order import index_at
from t2i_jax.data.roles import NOTHING, Without
from t2i_jax.data.substitutes import substitutes


class Order(NamedTuple):
  """What decides which record is at which position.

  splits  that are read in turn, each a name and its number of records
  seed    of the run;   batch: rows a step;   window: records a row
  since   steps before those that read these data
  without  records that are not read
  """

  splits: tuple[tuple[str, int], ...]
  seed: int
  batch: int
  window: int = 1
  since: int = 0
  without: Without = NOTHING

  @property
  def each_step(self) -> int:
    """Records a step."""
    return self.batch * self.window


def exposures(
  order: Order, wanted: Mapping[str, Collection[int]], steps: int
) -> dict[tuple[str, int], list[int]]:
  """The steps, from 1 on and ascending, at which each wanted record was read: one an exposure.

  wanted  indices by split;   steps: that are done
  All positions up to there are computed, about a microsecond each.
  """
  read_at = []  # by turn: where the order has this index -> the wanted record that is read
  for split, size in order.splits:
    own = frozenset(wanted.get(split, ()))
    in_place = substitutes(size, order.without.get(split, ()))
    shown = {index: index for index in own if index not in in_place}
    read_at.append(shown | {index: other for index, other in in_place.items() if other in own})
  return _steps_of(order, read_at, steps)


def changed(order: Order, without: Without, steps: int) -> dict[tuple[str, int], list[int]]:
  """The steps at which a run would have read another record had it left out others.

  without  what would be left out in place of order.without
  By the index that the order has there. Raises DataError as data.substitutes.
  """
  differ = []
  for split, size in order.splits:
    old, new = (substitutes(size, one.get(split, ())) for one in (order.without, without))
    differ.append({i: i for i in {**old, **new} if old.get(i, i) != new.get(i, i)})
  return _steps_of(order, differ, steps)


def _steps_of(
  order: Order, read_at: Sequence[Mapping[int, int]], steps: int
) -> dict[tuple[str, int], list[int]]:
  found = {
    (split, shown): list[int]()
    for (split, _), of in zip(order.splits, read_at, strict=True)
    for shown in of.values()
  }
  if not found:
    return {}
  turns = len(order.splits)
  for position in range(order.since * order.each_step, steps * order.each_step):
    turn, role = divmod(position, turns)
    split, size = order.splits[role]
    shown = read_at[role].get(index_at(turn, size, order.seed)[1])
    if shown is not None:
      found[split, shown].append(position // order.each_step + 1)
  return found
