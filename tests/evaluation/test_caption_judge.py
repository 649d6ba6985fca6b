"""Captions read back: of every scene that is captioned by a list, and what is wrong with others."""

import numpy as np
import pytest

from t2i_jax.data.scenes import Fact, Spec, make_scene, prompts, render
from t2i_jax.evaluation.caption_judge import judge_caption, read_caption, score_captions

LISTS = ("single", "binding", "count", "relation", "surrounding")


@pytest.mark.parametrize("level", ["easy", "counts", "full"])
def test_true_captions_of_scenes_are_read_and_judged_true(level):
  for index in range(400):
    scene, facts = make_scene(index, level, "train"), None
    if scene.category not in LISTS:
      continue
    for caption in scene.captions:
      facts = read_caption(caption)
      # "two green objects" names no shape; at level full, "above A and left of B" is no list.
      assert facts is not None or "object" in caption or level == "full", caption
      if scene.category in ("single", "binding"):
        assert set(facts) == set(scene.facts), caption
    if facts is not None and len(scene.objects) == facts[-1].n:  # it lists all that there is
      assert judge_caption(scene.caption, scene.objects).correct, scene.caption


@pytest.mark.parametrize("caption, facts", [
  ("a red circle", (Fact("exists", Spec("red", "circle")), Fact("total", n=1))),
  ("Two small blue crosses and an orange star.", (
    Fact("count", Spec("blue", "cross", "small"), n=2),
    Fact("exists", Spec("orange", "star")), Fact("total", n=3))),
  ("there is a red circle to the left of a blue square", (
    Fact("exists", Spec("red", "circle")), Fact("exists", Spec("blue", "square")),
    Fact("relation", Spec("red", "circle"), "left of", Spec("blue", "square")),
    Fact("total", n=2))),
  ("a red circle a blue square", None), ("a red", None), ("", None), ("a mauve circle", None),
  ("a red circle and", None), ("a red circle above a blue square or so", None),
])  # fmt: skip
def test_reading(caption, facts):
  assert read_caption(caption) == facts


def test_what_is_missing_made_up_or_the_wrong_way_round():
  objects = next(
    s.objects for s in (make_scene(i, "easy", "train") for i in range(100))
    if s.category == "relation"
  )  # fmt: skip
  a, b = (f"a {o.color} {o.shape}" for o in objects)
  there = [judge_caption(f"{a} {r} {b}", objects).correct
           for r in ("left of", "right of", "above", "below")]  # fmt: skip
  assert sum(there) == 1
  assert judge_caption(f"{b} and {a}", objects).correct
  for wrong in (a, f"{a} and {a}", f"{a}, {b} and {b}", f"{a} and a {objects[1].color} star"):
    assert not judge_caption(wrong, objects).objects, wrong


def test_scores_of_the_truth_of_one_caption_and_of_noise():
  def of_truth(images, seed):
    drawn = {
      render(scene, 32).tobytes(): scene.caption
      for category in ("single", "binding", "relation")
      for heldout in (False, True)
      for scene in prompts("easy", category, heldout, 20, seed)
    }
    return [drawn[image.tobytes()] for image in images]

  for cell in score_captions(of_truth, "easy", size=32, per_cell=20).cells:
    assert cell.model.rate == 1 and cell.shuffled.rate <= 0.1
    assert cell.majority.rate < 0.5  # there are 3 held-out singles
  for cell in score_captions(lambda p, seed: ["x"] * len(p), "easy", size=32, per_cell=5).cells:
    assert cell.model.rate == cell.objects.rate == 0 and np.isfinite(cell.majority.rate)
