"""Whether an edit was done, and whether all else was kept: a function of objects that were read.

Of the edit judge's verdict this differs in one point: `done` is what the instruction names alone,
and everything it does not name, the place of the changed object too, is in `kept`. The unchanged
image is kept and not done; a new drawing of the text is done and not kept. Objects are those of
either reader of scenes.
"""

from collections.abc import Sequence
from math import hypot
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from t2i_jax.data.scenes import Edit, Object, Wanted, holds
from t2i_jax.data.scenes.planted import PLAIN
from t2i_jax.data.scenes.planted.world import NONE
from t2i_jax.evaluation.edit_judge import POSITION_TOLERANCE, RADIUS_TOLERANCE

# Of what an object has besides its place, with the value of objects that do not say it.
ATTRIBUTES = {"shape": "", "color": "", "mark": NONE, "mark_color": NONE, "rendering": PLAIN}


class DoneKept(NamedTuple):
  """done: what the instruction names is there; kept: all else is as it was."""

  done: bool
  kept: bool

  @property
  def correct(self) -> bool:
    return self.done and self.kept


def done_kept(edit: Edit, seen: Sequence[Object]) -> DoneKept:
  """Judges what was read of an edited image.

  done  the facts of the edit hold, whatever the number of objects
  kept  every object that the edit does not touch is there with its attributes, its place and its
        radius; one that is changed has all of these that the edit leaves as they are; and there is
        no further object, but for one that was to be added or removed
  """
  done = all(holds(fact, seen) for fact in edit.facts if fact.kind != "total")
  pairs = list(zip(edit.touched, edit.changed, strict=False))
  tests = [[_as_it_was(o, None, other) for other in seen] for o in edit.kept]
  tests += [[_as_it_was(o, wanted, other) for other in seen] for o, wanted in pairs]
  further = len(seen) - len(tests)
  for o in edit.touched[len(pairs) :][:further]:  # not removed
    tests.append([_as_it_was(o, None, other) for other in seen])
  enough = 0 <= further <= abs(len(edit.touched) - len(edit.changed))
  return DoneKept(done, enough and _all_found(tests))


def _all_found(tests: Sequence[Sequence[bool]]) -> bool:
  """Whether each row can have a true column of its own."""
  if not tests:
    return True
  table = np.asarray(tests)
  rows, columns = linear_sum_assignment(table, maximize=True)
  return len(rows) == len(table) and bool(table[rows, columns].all())


def _as_it_was(o: Object, wanted: Wanted | None, seen: Object) -> bool:
  """Whether an object that was read is `o` in all that is not to change.   wanted: its change"""
  for name, other in ATTRIBUTES.items():
    asked = None if wanted is None else getattr(wanted.spec, name, None)
    before = getattr(o, name, other)
    if asked in (None, before) and getattr(seen, name, other) != before:
      return False
  places, radii = [(o.x, o.y)], [o.r]
  if wanted is not None:
    if wanted.x is not None and wanted.y is not None:
      places.append((wanted.x, wanted.y))
    radii.append(seen.r if wanted.r is None else wanted.r)
  near = any(hypot(seen.x - x, seen.y - y) <= POSITION_TOLERANCE for x, y in places)
  return near and any(abs(seen.r - r) <= RADIUS_TOLERANCE for r in radii)
