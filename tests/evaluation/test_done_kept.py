"""Done and kept of edits, as the planted reader sees exact renders and known mistakes."""

import dataclasses

import numpy as np
import pytest

from t2i_jax.data.scenes import edit_kinds, edit_prompts
from t2i_jax.data.scenes.planted import Thing, draw
from t2i_jax.evaluation.done_kept import DoneKept, done_kept
from t2i_jax.evaluation.planted_reader import read_all

SIZE, N = 32, 6


def judged(turns, objects, rendering="plain"):
  """What is judged of exact renders of objects, a tuple a turn."""
  read = read_all(np.stack([draw(found, SIZE, rendering) for found in objects]))
  return [done_kept(turn.edit, one.objects) for turn, one in zip(turns, read, strict=True)]


def replaced(objects, old, **change):
  return tuple(dataclasses.replace(o, **change) if o == old else o for o in objects)


@pytest.mark.parametrize("kind", edit_kinds("easy"))
def test_the_corners(kind):
  turns = edit_prompts("easy", kind, False, N, seed=3)
  unchanged = judged(turns, [t.before.objects for t in turns])
  assert unchanged == [DoneKept(False, True)] * N
  after = judged(turns, [t.after.objects for t in turns])
  assert all(one.correct for one in after)
  assert judged(turns, [t.after.objects for t in turns], "pastel") == [DoneKept(True, False)] * N


@pytest.mark.parametrize("kind", ["recolor", "reshape"])
def test_what_the_edit_does_not_name_is_kept_or_not(kind):
  turns = edit_prompts("easy", kind, False, N, seed=4)
  olds = [t.edit.touched[0] for t in turns]
  changes = []
  for turn, old in zip(turns, olds, strict=True):
    (wanted,) = turn.edit.changed
    values = ("red", "black", "green") if kind == "recolor" else ("circle", "square", "triangle")
    name = {"recolor": "color", "reshape": "shape"}[kind]
    taken = (getattr(old, name), getattr(wanted.spec, name))
    other = next(value for value in values if value not in taken)
    changes.append(replaced(turn.before.objects, old, **{name: other}))
  assert judged(turns, changes) == [DoneKept(False, True)] * N  # another one than was asked
  gone = [tuple(o for o in t.before.objects if o != t.edit.touched[0]) for t in turns]
  assert not any(one.kept for one in judged(turns, gone))
  moved = []
  for turn in turns:
    after = turn.after.objects
    new = next(o for o in after if o not in turn.before.objects)
    moved.append(replaced(after, new, x=new.x + (0.08 if new.x < 0.5 else -0.08)))
  assert judged(turns, moved) == [DoneKept(True, False)] * N
  dotted = []
  for turn in turns:
    after = [Thing(*dataclasses.astuple(o)[:6]) for o in turn.after.objects]
    color = "black" if after[0].color != "black" else "yellow"
    after[0] = dataclasses.replace(after[0], mark="dot", mark_color=color)
    dotted.append(tuple(after))
  assert judged(turns, dotted) == [DoneKept(True, False)] * N


def test_what_was_to_be_removed_is_gone_or_as_it_was():
  turns = edit_prompts("easy", "remove", False, N, seed=5)
  changed = []
  for turn in turns:
    (old,) = turn.edit.touched
    color = "black" if old.color != "black" else "red"
    changed.append(replaced(turn.before.objects, old, color=color))
  assert judged(turns, changed) == [DoneKept(True, False)] * N
