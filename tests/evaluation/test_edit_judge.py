"""The judge of edits, on images whose verdict is known: exact, unchanged, spoilt in one way."""

import dataclasses
import io
import itertools
import json
import random
from math import hypot

import numpy as np
import pytest
from rich.console import Console

from t2i_jax.data.scenes import (
  COLORS,
  LEVELS,
  SHAPES,
  Object,
  edit_kinds,
  edit_prompts,
  render,
)
from t2i_jax.data.scenes.geometry import box_of
from t2i_jax.data.scenes.render import draw
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.evaluation.edit_judge import (
  POSITION_TOLERANCE,
  RADIUS_TOLERANCE,
  judge_edit,
  score_edits,
)
from t2i_jax.evaluation.judge import read
from t2i_jax.evaluation.score import KEPT

PER_CELL = 8


def turns_of(level, n, kinds=None):
  """n edits of every kind, every other one of held-out compositions."""
  return [
    turn
    for kind in kinds or edit_kinds(level)
    for heldout in (False, True)
    for turn in edit_prompts(level, kind, heldout, n // 2, seed=7)
  ]


def verdict(turn, objects, size):
  return judge_edit(render(turn.before, size), draw(tuple(objects), size), turn.edit)


def apart(objects):
  """Whether the boxes lie inside the image, two pixels of 32 from each other."""
  boxes = [box_of(o) for o in objects]
  inside = all(min(a, b, 1 - c, 1 - d) > 0.02 for a, b, c, d in boxes)
  return inside and all(
    max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) > 2 / 32
    for a, b in itertools.combinations(boxes, 2)
  )


# -- exact images -------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["easy", "full"])
def test_exact_renders_are_correct_and_unchanged_images_are_not_done(level):
  size = LEVELS[level].floor
  turns = turns_of(level, 40)
  exact = [verdict(turn, turn.after.objects, size) for turn in turns]
  assert np.mean([v.correct for v in exact]) >= 0.995
  assert all(v.correct == (v.done and v.kept) == (not v.failed) for v in exact)
  same = [verdict(turn, turn.before.objects, size) for turn in turns]
  assert not any(v.done for v in same)
  assert np.mean([v.kept for v in same]) >= 0.995


def test_the_tolerances_are_far_above_the_error_of_reading():
  errors = []
  for turn in turns_of("easy", 12):
    for o, seen in itertools.product(turn.after.objects, read(render(turn.after, 32))):
      if (o.color, o.shape) == (seen.color, seen.shape):
        errors.append((hypot(o.x - seen.x, o.y - seen.y), abs(o.r - seen.r)))
  place, radius = np.max(errors, 0)
  assert place < POSITION_TOLERANCE / 10 and radius < RADIUS_TOLERANCE / 10


# -- spoilt images ------------------------------------------------------------------------------


def moved(o, others, rng):
  angle = rng.uniform(0, 6.283)
  step = 1.3 * POSITION_TOLERANCE
  return dataclasses.replace(o, x=o.x + step * np.cos(angle), y=o.y + step * np.sin(angle))


def recoloured(o, others, rng):
  return dataclasses.replace(o, color=rng.choice([c for c in COLORS if c != o.color]))


def reshaped(o, others, rng):
  return dataclasses.replace(o, shape=rng.choice([s for s in SHAPES[:3] if s != o.shape]))


def resized(o, others, rng):
  return dataclasses.replace(o, r=o.r + rng.choice((-1.4, 1.4)) * RADIUS_TOLERANCE)


def spoilt(turn, change, rng):
  """The objects after the edit with one bystander changed, or None where that has no room."""
  others = [o for o in turn.after.objects if o is not turn.edit.kept[0]]
  for _ in range(20):
    objects = [change(turn.edit.kept[0], others, rng), *others]
    if apart(objects):
      return objects
  return None


@pytest.mark.parametrize("change", [moved, recoloured, reshaped, resized])
@pytest.mark.parametrize("level", ["easy", "full"])
def test_a_changed_bystander_is_not_kept(level, change):
  rng, tried = random.Random(0), 0
  for turn in turns_of(level, 16, ["recolor", "reshape", "remove"]):
    objects = spoilt(turn, change, rng) if turn.edit.kept else None
    if objects is None:
      continue
    found = verdict(turn, objects, 64)
    # A bystander may come to look like what was to vanish; then the edit's facts fail too.
    alike = {(o.color, o.shape) for o in turn.edit.touched} & {(o.color, o.shape) for o in objects}
    assert not found.kept and found.done == (not alike), turn.edit.instruction
    assert any("as it was" in words for words in found.failed)
    tried += 1
  assert tried >= 12


@pytest.mark.parametrize("level", ["easy", "full"])
def test_a_lost_or_an_added_object_is_not_kept(level):
  rng, added = random.Random(1), 0
  for turn in turns_of(level, 12, ["recolor", "swap", "remove"]):
    after = turn.after.objects
    if turn.edit.kept:
      rest = [o for o in after if o is not turn.edit.kept[0]]
      assert not verdict(turn, rest, 64).kept
    shape = next(s for s in SHAPES if all(o.shape != s for o in turn.before.objects))
    color = next(c for c in COLORS if all(o.color != c for o in (*turn.before.objects, *after)))
    places = (Object(shape, color, "", rng.random(), rng.random(), 0.1) for _ in range(60))
    extra = next((o for o in places if apart([*after, o])), None)
    if extra is None:
      continue
    found = verdict(turn, [*after, extra], 64)
    assert found.done and not found.kept and "in all" in found.failed[0]
    added += 1
  assert added >= 20


def test_a_shift_within_the_tolerance_is_kept():
  for turn in turns_of("easy", 6):
    shift = 0.6 * POSITION_TOLERANCE
    objects = [
      dataclasses.replace(o, x=o.x + (shift if o.x < 0.5 else -shift)) for o in turn.after.objects
    ]
    if apart(objects):
      assert verdict(turn, objects, 32).kept


def test_what_is_done_wrongly_is_kept_and_not_done():
  for turn in turns_of("easy", 8, ["recolor", "reshape"]):
    (old,), (wanted,) = turn.edit.touched, turn.edit.changed
    taken = {old.color, wanted.spec.color}
    wrong = dataclasses.replace(old, color=next(c for c in COLORS if c not in taken))
    found = verdict(turn, [wrong, *turn.edit.kept], 32)
    assert (found.done, found.kept) == (False, True)
  for turn in turns_of("easy", 8, ["add"]):
    (new,) = (o for o in turn.after.objects if o not in turn.edit.kept)
    (anchor,) = turn.edit.kept
    mirrored = dataclasses.replace(new, x=2 * anchor.x - new.x, y=2 * anchor.y - new.y)
    if apart([mirrored, anchor]):
      found = verdict(turn, [anchor, mirrored], 32)
      assert (found.done, found.kept) == (False, True)
      assert len(found.failed) == 1 and anchor.color in found.failed[0]


def test_half_a_swap_is_not_done():
  for turn in turns_of("easy", 8, ["swap"]):
    a, b = turn.edit.touched
    far = dataclasses.replace(a, x=1 - b.x, y=1 - b.y)
    other = dataclasses.replace(b, x=a.x, y=a.y)
    if hypot(far.x - b.x, far.y - b.y) > POSITION_TOLERANCE * 1.2 and apart([far, other]):
      found = verdict(turn, [far, other], 32)
      assert not found.done and found.kept


def test_an_empty_image_is_neither():
  for turn in turns_of("easy", 2):
    found = verdict(turn, (), 32)
    assert not found.kept and found.done == (turn.edit.kind == "remove")


def test_images_of_two_sizes_are_refused():
  (turn,) = edit_prompts("easy", "recolor", False, 1)
  with pytest.raises(DataError, match=r"\[48, 48, 3\], the one before \[32, 32, 3\]"):
    judge_edit(render(turn.before, 32), render(turn.after, 48), turn.edit)


# -- scores ---------------------------------------------------------------------------------------


def exact_drawer(level, n):
  known = {
    (render(turn.before, LEVELS[level].floor).tobytes(), turn.edit.instruction): turn.after
    for kind in edit_kinds(level)
    for heldout in (False, True)
    for turn in edit_prompts(level, kind, heldout, n)
  }

  def edit(images, instructions, seed):
    asked = zip(images, instructions, strict=True)
    return np.stack([render(known[p.tobytes(), text], p.shape[0]) for p, text in asked])

  return edit


@pytest.fixture(scope="module")
def exact():
  ticks = []
  score = score_edits(
    exact_drawer("easy", PER_CELL),
    "easy",
    size=32,
    per_cell=PER_CELL,
    progress=lambda *at: ticks.append(at),
  )
  assert ticks == [(n, 10 * PER_CELL) for n in range(PER_CELL, 11 * PER_CELL, PER_CELL)]
  return score


def test_exact_edits_reach_the_ceiling(exact):
  assert exact.names == edit_kinds("easy") and len(exact.cells) == 10
  for cell in exact.cells:
    assert cell.model == cell.ceiling
    for rates in (cell.model, cell.unchanged):
      assert rates.done.n == rates.kept.n == rates.correct.n == PER_CELL
    assert cell.model.correct.rate == cell.unchanged.kept.rate == 1
    assert cell.unchanged.done.rate == cell.unchanged.correct.rate == 0
  assert exact.cell("swap", True).kind == "swap"
  with pytest.raises(KeyError):
    exact.cell("rotate", True)


def test_the_first_edits_of_a_cell_are_kept():
  n = KEPT + 2
  score = score_edits(lambda p, texts, seed: p, "easy", size=32, per_cell=n, kinds=["recolor"])
  assert score.names == ("recolor",) and len(score.samples) == 2 * KEPT
  for heldout in (False, True):
    turns = edit_prompts("easy", "recolor", heldout, n)
    for sample, turn in zip(score.cell("recolor", heldout).samples, turns, strict=False):
      assert sample.instruction == turn.edit.instruction
      np.testing.assert_array_equal(sample.before, render(turn.before, 32))
      np.testing.assert_array_equal(sample.after, sample.before)
      np.testing.assert_array_equal(sample.truth, render(turn.after, 32))
      assert not sample.verdict.done and sample.verdict.kept and sample.verdict.failed


def test_json_is_plain(exact):
  saved = json.loads(json.dumps(exact.to_json(), allow_nan=False))
  assert saved["level"] == "easy" and saved["size"] == 32 and saved["confidence"] == 0.95
  first = saved["cells"][0]
  assert set(first) == {"kind", "heldout", "model", "unchanged", "ceiling", "samples"}
  assert set(first["model"]) == {"done", "kept", "correct"}
  assert 0 < first["model"]["correct"]["lower"] < first["model"]["correct"]["rate"]
  assert set(first["samples"][0]) == {"instruction", "done", "kept", "failed"}


def test_console_table_names_every_rate(exact):
  console = Console(width=140, record=True, file=io.StringIO())
  console.print(exact.table())
  text = console.export_text()
  for cell in exact.cells:
    assert cell.kind in text and cell.model.correct.interval() in text
  for word in ("held-out", "seen", "done", "kept", "unchanged", "ceiling", f"n = {PER_CELL}"):
    assert word in text


@pytest.mark.parametrize(
  "options, message",
  [
    ({"level": "esay"}, "Nearest: 'easy'"),
    ({"size": 16}, "size = 16 is below 32 pixels"),
    ({"kinds": ["resize"]}, r"'resize' is a kind of edit of other levels"),
    ({"per_cell": 0}, "per_cell = 0 edits"),
  ],
)
def test_what_cannot_be_scored_is_refused_before_drawing(options, message):
  def edit(images, instructions, seed):
    raise AssertionError("drew")

  arguments = {"level": "easy", "size": 32, "per_cell": 1, **options}
  with pytest.raises(ConfigError, match=message):
    score_edits(edit, arguments.pop("level"), **arguments)


@pytest.mark.parametrize(
  "shape, dtype", [((9, 32, 32, 3), np.uint8), ((10, 32, 32, 3), np.float32)]
)
def test_wrong_images_are_refused(shape, dtype):
  with pytest.raises(ValueError, match=r"instead of uint8 \(10, 32, 32, 3\)"):
    score_edits(lambda p, texts, seed: np.zeros(shape, dtype), "easy", size=32, per_cell=1)
