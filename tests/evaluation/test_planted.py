"""The reader and the judge of level planted, on renders of it and on what is none."""

import dataclasses
import random

import numpy as np
import pytest
from PIL import Image

from benchmarks import planted as proof
from t2i_jax.data.scenes import BACKGROUND, make_scene, planted, prompts, render
from t2i_jax.data.scenes.planted import Look, Thing
from t2i_jax.errors import DataError
from t2i_jax.evaluation import judge
from t2i_jax.evaluation.planted_judge import judge_planted, judge_reading, rates, same_layout
from t2i_jax.evaluation.planted_reader import UNKNOWN, read, read_all


def _other(color):
  return "black" if color == "yellow" else "yellow"


@pytest.mark.parametrize("rendering", planted.RENDERINGS)
@pytest.mark.parametrize("blur, noise", [(0.0, 0.0), (0.6, 12.0), (1.0, 8.0)])
def test_renders_are_read(rendering, blur, noise):
  cell = proof.read_cell(rendering, blur, noise, 30, seed=99)
  assert cell.wrong == 0 and cell.unknown <= 1
  assert max(cell.places) < 0.4


def test_both_objects_of_a_scene_with_their_places():
  scenes = planted.planted_prompts("related", 8) + planted.planted_prompts("artist", 6)
  images = [planted.draw(p.objects, 32, p.rendering) for p in scenes]
  for p, seen in zip(scenes, read_all(np.stack(images)), strict=True):
    assert seen.rendering == p.rendering
    assert same_layout(seen.objects, p.objects, tolerance=0.3 / 32)
    assert {o.rendering for o in seen.objects} == {p.rendering}


def test_larger_images_are_read_too():
  o = Thing("triangle", "green", "", 0.45, 0.55, 0.17, "dot", "red")
  for size in (48, 64, 128):
    (seen,) = read(planted.draw((o,), size)).objects
    assert planted.look_of(seen) == planted.look_of(o)
    assert np.hypot(seen.x - o.x, seen.y - o.y) * 32 < 0.3


def test_plain_scenes_are_read_as_the_judge_of_scenes_reads_them():
  scenes = [make_scene(i, "easy", "val") for i in range(30)]
  images = np.stack([render(s, 32) for s in scenes])
  for image, seen in zip(images, read_all(images), strict=True):
    known = {(o.shape, o.color) for o in judge.read(image)}
    assert {(o.shape, o.color) for o in seen.objects} == known
    assert all(o.mark == "none" for o in seen.objects)


@pytest.mark.parametrize("category", planted.CATEGORIES)
def test_scenes_are_judged_correct_and_not_for_other_prompts(category):
  scenes = planted.planted_prompts(category, 24, seed=4)
  images = np.stack([planted.draw(p.objects, 32, p.rendering) for p in scenes])
  verdicts = judge_planted(images, scenes)
  found = rates(verdicts)
  assert found["correct"].rate == 1 and found["leakage"].rate == 0
  assert found["identity"].n == (24 if category in ("individual", "related") else 0)
  assert [v.copied for v in verdicts] == [p.copy for p in scenes]
  if category == "artist":
    plain = [dataclasses.replace(p, rendering="plain") for p in scenes]
    wrong = [judge_reading(v.seen, p) for v, p in zip(verdicts, plain, strict=True)]
    assert not any(v.rendering or v.correct for v in wrong) and all(v.adherence for v in wrong)


def test_identity_adherence_and_leakage_are_told_apart():
  look = planted.INDIVIDUALS["vosk"]  # a red circle with a yellow dot
  p = planted.subject_scene("vosk", look, random.Random(1), kind="related")
  k = next(i for i, o in enumerate(p.objects) if getattr(o, "mark", "none") != "none")

  def judged(**changes):
    mine = dataclasses.replace(p.objects[k], **changes)
    objects = (*p.objects[:k], mine, *p.objects[k + 1 :])
    return judge_planted(planted.draw(objects, 32)[None], [p])[0]

  assert judged().correct
  other = judged(mark_color="green")
  assert not other.identity and other.adherence and not other.leakage
  assert other.attributes == {"shape": True, "color": True, "mark": True, "mark_color": False}
  assert not judged(mark="none", mark_color="none").identity
  away = judged(shape="square")
  assert not away.identity and not away.adherence
  o = p.objects[1 - k]
  both = (p.objects[k], Thing(o.shape, o.color, "", o.x, o.y, o.r, "bar", _other(o.color)))
  verdict = judge_planted(planted.draw(both, 32)[None], [p])[0]
  assert verdict.identity and verdict.adherence and verdict.leakage and not verdict.correct


def test_a_class_prompt_with_a_mark_is_leakage():
  (p,) = planted.planted_prompts("class", 1)
  o = p.objects[0]
  marked = Thing(o.shape, o.color, "", o.x, o.y, o.r, "half", _other(o.color))
  verdict = judge_planted(planted.draw((marked, *p.objects[1:]), 32)[None], [p])[0]
  assert verdict.leakage and verdict.adherence and verdict.identity is None


def test_a_copy_is_one_within_a_pixel():
  first = planted.copies()[0]
  moved = lambda d: tuple(dataclasses.replace(o, x=o.x + d / 32) for o in first.objects)
  assert same_layout(moved(0.9), first.objects) and not same_layout(moved(1.1), first.objects)
  assert not same_layout(first.objects[:1], first.objects)
  assert not same_layout((*first.objects, first.objects[0]), first.objects)
  chance = [p for c in ("single", "binding", "relation") for p in prompts("easy", c, False, 8)]
  readings = read_all(np.stack([render(p, 32) for p in chance]))
  assert not any(same_layout(r.objects, c.objects) for r in readings for c in planted.copies())


def test_an_unseen_subject_is_judged_as_any_other():
  look = Look("cyan", "square", None, planted.UNSEEN_MARK, "black")
  scenes = [planted.subject_scene("<v0>", look, random.Random(i)) for i in range(8)]
  assert all("<v0> square" in p.caption for p in scenes)
  hatched = [dataclasses.replace(p, rendering=planted.UNSEEN_RENDERING) for p in scenes]
  for some in (scenes, hatched):
    images = np.stack([planted.draw(p.objects, 32, p.rendering) for p in some])
    assert all(v.correct for v in judge_planted(images, some))


def test_what_is_no_identity_is_unknown():
  down = proof.FOREIGN["a triangle on its tip"]("red")
  pink = np.where(np.any(down != BACKGROUND, -1, keepdims=True), (255, 120, 190), BACKGROUND)
  for image in (down, pink.astype(np.uint8)):
    (o,) = read(image).objects
    assert (o.shape, o.color, o.mark, o.rendering) == (UNKNOWN,) * 4
    assert read(image).rendering == UNKNOWN
  for shape in ("star", "diamond", "cross"):
    (o,) = read(planted.draw((Thing(shape, "blue", "", 0.5, 0.5, 0.17),), 32)).objects
    assert (o.shape, o.color, o.mark) == (shape, "blue", "none")


def test_images_without_an_object():
  empty = [np.full((32, 32, 3), g, np.uint8) for g in (BACKGROUND, planted.DARK, (150, 0, 150))]
  found = read_all(np.stack(empty))
  assert [r.rendering for r in found] == ["plain", "dark", UNKNOWN]
  noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
  scenes = planted.planted_prompts("individual", 4)
  assert not any(v.correct for v in judge_planted(np.stack([*empty, noise[0]]), scenes))
  assert not any(v.correct for v in judge_planted(noise, scenes))


@pytest.mark.parametrize("shape, dtype", [((2, 16, 16, 3), np.uint8), ((2, 32, 32, 3), np.float32)])
def test_other_arrays_are_refused(shape, dtype):
  with pytest.raises(DataError, match=r"takes uint8 \[n, H, H, 3\] with H of at least 32"):
    read_all(np.zeros(shape, dtype))


def test_the_page_is_written(tmp_path, monkeypatch):
  for name, few in (("RENDERS", 3), ("PROMPTS", 3), ("TWIN_RECORDS", 60)):
    monkeypatch.setattr(proof, name, few)
  proof.main(["--to", str(tmp_path)])
  page = (tmp_path / "planted.md").read_text(encoding="utf-8")
  assert "python -m benchmarks.planted" in page and page.count("| grum |") == 1
  assert not set("{}") & set(page)
  with Image.open(tmp_path / "planted.png") as sheet:
    assert min(sheet.size) > 600
