"""The comparison of editors: what it measures, on renders, and its page without a run."""

import argparse
import json

import numpy as np
import pytest

from benchmarks import editing, editing_attention, editing_frames, editing_images, editing_strokes
from benchmarks import personalisation_imagic as imagic
from benchmarks.editing_attention import Box, iou, of_pixels, points_inside
from benchmarks.editing_bench import DIFFERENCE, difference, tasks_of
from benchmarks.personalisation_world import SIZE
from benchmarks.recorded import agree
from t2i_jax.data.scenes.planted import draw
from t2i_jax.evaluation.done_kept import DoneKept
from t2i_jax.evaluation.planted_reader import read_all

LEFT = Box(0.0, 0.0, 0.5, 0.25)  # two cells of a 4 x 4 map


def test_the_pointing_game_and_iou_of_cells():
  maps = np.zeros((3, 4, 4))
  maps[0, 0, 1], maps[1, 0, 2], maps[2, 0, :2] = 1, 1, 1
  assert points_inside(maps, LEFT).tolist() == [True, False, True]
  np.testing.assert_allclose(iou(maps, LEFT), [1 / 2, 0, 1])
  np.testing.assert_array_equal(of_pixels(LEFT, 4, 4), maps[2])
  assert of_pixels(Box(0.25, 0.25, 0.75, 0.5), 2, 2).tolist() == [[0.25, 0.25], [0, 0]]


def test_captions_of_attention_tell_their_objects_apart():
  scenes = editing_attention.scenes_of(3)
  groups = [editing_attention.group_of(scene) for scene in scenes]
  assert groups == ["two shapes"] * 3 + ["one shape"] * 3
  for scene in scenes:
    (a, _), (b, _) = looks = editing_attention._looks(scene)
    assert a != b
    first, second = (scene.caption.index(" ".join(look)) for look in looks)
    assert first < second


def test_images_and_targets_are_those_of_imagic():
  mine = tasks_of(editing_images.SHARED, imagic.TURNS)
  assert [(t.turn, t.target) for t in mine] == [(j.turn, j.target) for j in imagic.jobs(False)]
  for task in mine:
    old, new = task.phrases.split(",")
    assert old in task.source and new in task.target and old != new


def test_the_difference_of_images_has_no_sign():
  before = np.full((2, 2, 2, 3), 200, np.uint8)
  after = before.copy()
  after[0], after[1, 0] = 210, 180
  assert difference(after, before) == {DIFFERENCE: [10, 10]}


def test_corners_are_kept_alone_and_both():
  unchanged, exact = editing_images.corners(1)
  for kind in editing_images.KINDS:
    assert unchanged.rate("kept", kind).rate == exact.rate("done and kept", kind).rate == 1
    assert unchanged.rate("done", kind).rate == 0


def test_strengths_are_chosen_on_other_images_than_are_reported():
  n, yes, no = imagic.TURNS, DoneKept(True, True), DoneKept(False, True)
  of = lambda title, setting, *rows: editing_images.Point(
    title, setting, {kind: [v for v in rows for _ in range(n)] for kind in editing_images.SHARED}
  )
  every = {
    "sdedit": [of("SDEdit", "0.5", yes, no), of("SDEdit", "0.9", no, yes)],
    "ilvr": [of("ILVR", "2", yes, yes), of("ILVR", "4", no, no)],
  }
  ends = [of("unchanged", "", no)]
  best, *others = editing_images.comparison(every, {}, {}, ends)
  assert best[:2] == ["ILVR", "2"] and best[-1].startswith(f"+{2 * n} -0, p = 4")
  assert {(row[0], row[1], row[-1]) for row in others} == {
    ("SDEdit", "0.9", "+0 -0, p = 1"), ("unchanged", "", "+0 -0, p = 1"),
  }  # fmt: skip


def test_jitter_and_flicker_of_frames_as_they_should_be():
  clip = editing_frames.clips_of(1, 6)[0]
  after = [clip.moved(clip.turn.after.objects, i) for i in range(clip.n)]
  right = read_all(np.stack([draw(objects, SIZE) for objects in after]))
  assert all(clip.verdict(i, reading).correct for i, reading in enumerate(right))
  assert editing_frames.flicker(right) == 0 and editing_frames.jitter(clip, right) < 0.05
  before = read_all(clip.images)
  assert not any(clip.verdict(i, reading).done for i, reading in enumerate(before))
  assert editing_frames.flicker([right[0], before[1], right[2], right[3]]) == 2 / 3
  still = [right[0]] * clip.n  # at its first place: off by the whole path
  path = np.var(clip.motion, axis=0, ddof=1).mean() ** 0.5
  assert editing_frames.jitter(clip, still) == pytest.approx(path, rel=0.02)


def test_strokes_have_no_shape_and_renders_are_faithful():
  scenes = editing_strokes.scenes_of(4)
  readings = read_all(np.stack([draw(scene.objects, SIZE) for scene in scenes]))
  pairs = list(zip(scenes, readings, strict=True))
  assert all(editing_strokes.faithful(*pair) for pair in pairs)
  assert all(map(editing_strokes.realistic, readings))
  assert not any(
    editing_strokes.faithful(s, r) for s, r in zip(scenes, readings[::-1], strict=True)
  )
  strokes = editing_strokes.strokes_of(scenes)
  assert strokes.shape == (4, SIZE, SIZE, 3) and strokes.dtype == np.uint8
  again = editing_strokes.strokes_of(scenes)
  assert np.all(strokes == again)
  wrong = editing_strokes.wrong_captions(scenes)
  assert all(text != scene.caption for text, scene in zip(wrong, scenes, strict=True))


def test_the_page_says_what_has_not_been_run(tmp_path):
  (tmp_path / editing.CONFIGS[0]).write_text(json.dumps({"sampling": {"cfg": 2.5}}))
  args = argparse.Namespace(imagic=str(tmp_path), count=1, steps=20)
  text = editing.page(tmp_path, tmp_path, args, "COMMAND")
  assert text.count("Not run") == 6 and "Imagic" in text.split("Not run: ")[1].splitlines()[0]


def test_drawings_of_other_settings_are_not_mixed(tmp_path):
  agree(tmp_path, {"steps": 4})
  agree(tmp_path, {"steps": 4})
  with pytest.raises(SystemExit, match="other settings"):
    agree(tmp_path, {"steps": 20})


def test_parts_are_shared_among_processes():
  args = argparse.Namespace(jobs=2)
  found = editing.shares(["images", "frames"], ["a", "b", "c"], args)
  assert [flags[0] for flags in found] == ["--only=images", "--only=images", "--only=frames"]
  assert [flags[1] for flags in found[:2]] == ["--editors=a,c", "--editors=b"]
