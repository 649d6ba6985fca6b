"""Which record is read in the place of one that is left out, so that no position moves."""

from collections.abc import Collection

import numpy as np

from t2i_jax.errors import DataError


def substitutes(size: int, without: Collection[int]) -> dict[int, int]:
  """Of each record that is not to be read, the record that is read in its place.

  size     records of the source;   without: indices of those that are not read
  The first one that is not in `without`, of indices drawn evenly by a generator that the index
  seeds: positions stay as they are, and a record that joins `without` changes nothing but the
  places where it was read itself. Raises DataError where none is left, or for an index beyond.
  """
  left_out = frozenset(without)
  beyond = [index for index in left_out if not 0 <= index < size]
  if beyond:
    raise DataError(f"record {min(beyond)} is not one of the {size} of the split.")
  if len(left_out) == size:
    raise DataError(f"all {size} records of the split are left out: nothing is left to train on.")
  return {index: _substitute(index, size, left_out) for index in sorted(left_out)}


def _substitute(index: int, size: int, left_out: frozenset[int]) -> int:
  rng = np.random.default_rng((index, 1))  # not 0, which would be the generator of (index,)
  while (found := int(rng.integers(size))) in left_out:
    pass
  return found
