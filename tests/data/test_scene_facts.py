"""Scenes: the truth of statements, the shapes' geometry and their pixels."""

import json
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from t2i_jax.data.scenes import (
  BACKGROUND,
  CHANGES,
  COLORS,
  LEVELS,
  SHAPES,
  Fact,
  Object,
  Scene,
  Spec,
  facts_from_json,
  facts_to_json,
  false_facts,
  falsify,
  holds,
  make_scene,
  prompts,
  render,
)
from t2i_jax.data.scenes.geometry import (
  AREAS,
  OUTLINES,
  clearance,
  coverage,
  relation_between,
  signed_distance,
)
from t2i_jax.data.scenes.vocabulary import INVERSE
from t2i_jax.errors import ConfigError


def scenes(level: str, split: str, n: int) -> list[Scene]:
  return [make_scene(i, level, split) for i in range(n)]


# -- geometry -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("r", [4.0, 11.3])
def test_coverage_is_that_of_supersampled_polygons(shape, r):
  side, fine, x, y = 40, 16, 19.3, 20.6
  rim = OUTLINES.get(shape)
  if rim is None:
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    rim = np.stack([np.cos(angle), np.sin(angle)], 1)
  big = Image.new("L", (side * fine, side * fine))
  corners = [((x + r * a) * fine - 0.5, (y + r * b) * fine - 0.5) for a, b in rim]
  ImageDraw.Draw(big).polygon(corners, fill=255)
  expected = np.asarray(big, np.float32).reshape(side, fine, side, fine).mean((1, 3)) / 255
  found = coverage(shape, x, y, r, np.arange(side), np.arange(side))
  assert np.abs(found - expected).max() < 0.3  # at a star's tips
  assert (
    np.abs(found - expected).sum() < 0.06 * expected.sum()
  )  # of its 39 pixels, a star's 30 on the rim
  assert found.sum() == pytest.approx(AREAS[shape] * r * r, rel=0.03)
  centroid = (found.sum(0) @ (np.arange(side) + 0.5)) / found.sum()
  assert centroid == pytest.approx(x, abs=0.1)


@pytest.mark.parametrize("shape", OUTLINES)
def test_signed_distance_against_a_dense_outline(shape):
  start = OUTLINES[shape]
  end = np.roll(start, -1, 0)
  t = np.linspace(0, 1, 400)[:, None, None]
  outline = (start + t * (end - start)).reshape(-1, 2)
  points = np.random.default_rng(0).uniform(-1.6, 1.6, (300, 2))
  brute = np.sqrt(((points[:, None] - outline) ** 2).sum(-1)).min(1)
  found = signed_distance(shape, points[:, 0], points[:, 1])
  assert np.allclose(np.abs(found), brute, atol=5e-3)
  assert found[np.abs(points).max(1) > 1.35].min() > 0
  assert signed_distance(shape, np.zeros(1), np.zeros(1))[0] < 0


def test_relation_of_every_arrangement():
  def circle(x, y, r=0.1):
    return Object("circle", "red", "small", x, y, r)

  middle = circle(0.5, 0.5)
  for (dx, dy), expected in {
    (-0.3, 0.1): "left of",
    (0.3, -0.2): "right of",
    (0.1, -0.3): "above",
    (-0.2, 0.3): "below",
  }.items():
    moved = circle(0.5 + dx, 0.5 + dy)
    assert relation_between(moved, middle) == expected
    assert relation_between(middle, moved) == INVERSE[expected]
  big = circle(0.52, 0.5, 0.3)
  assert relation_between(middle, big) == "inside"
  assert relation_between(big, middle) == "surrounding"
  assert clearance(middle, big) == pytest.approx(0.3 - 0.1 - 0.02, abs=1e-6)
  corner = Object("square", "red", "large", 0.5, 0.5, 0.3)
  assert (
    relation_between(circle(0.27, 0.25, 0.09), corner) == "above"
  )  # sticks out by 0.02 and more


# -- rendering ------------------------------------------------------------------------------------


def test_an_image_is_the_objects_on_the_background():
  scene = make_scene(0, "easy", "train")
  image = render(scene, 64)
  assert image.shape == (64, 64, 3) and image.dtype == np.uint8
  for o in scene.objects:
    assert tuple(image[int(o.y * 64), int(o.x * 64)]) == COLORS[o.color]
  assert (image == BACKGROUND).all(-1).mean() > 0.5


@pytest.mark.parametrize("level", LEVELS)
def test_resolutions_agree(level):
  for scene in scenes(level, "val", 20):
    small = render(scene, 64).astype(float)
    large = render(scene, 256).reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(small - large).mean() < 1.0


def test_below_the_floor_is_refused_with_both_numbers():
  with pytest.raises(ConfigError, match="size = 32 is below 48 pixels"):
    render(make_scene(0, "full", "train"), 32)


# -- facts ----------------------------------------------------------------------------------------

RED, BLUE = Spec("red", "circle"), Spec("blue", "square")
PAIR = (
  Object("circle", "red", "small", 0.2, 0.5, 0.09),
  Object("square", "blue", "large", 0.7, 0.5, 0.18),
)


@pytest.mark.parametrize(
  "fact, truth",
  [
    (Fact("exists", RED), True),
    (Fact("exists", Spec("red", "square")), False),
    (Fact("exists", Spec("blue", "square", "large")), True),
    (Fact("exists", Spec("blue", "square", "small")), False),
    (Fact("count", Spec(), n=2), True),
    (Fact("count", Spec(color="red"), n=1), True),
    (Fact("count", Spec(shape="square"), n=2), False),
    (Fact("total", n=2), True),
    (Fact("total", n=3), False),
    (Fact("absent", Spec(color="green")), True),
    (Fact("absent", Spec(shape="circle")), False),
    (Fact("absent", Spec("blue", "circle")), True),
    (Fact("relation", RED, "left of", BLUE), True),
    (Fact("relation", BLUE, "right of", RED), True),
    (Fact("relation", BLUE, "left of", RED), False),
    (Fact("relation", RED, "inside", BLUE), False),
    (Fact("relation", RED, "left of", RED), False),
  ],
)
def test_what_is_true_of_two_objects(fact, truth):
  assert holds(fact, PAIR) is truth


def test_facts_survive_json():
  for scene in scenes("full", "train", 100):
    text = json.dumps(facts_to_json(scene.facts))
    assert facts_from_json(json.loads(text)) == scene.facts
  assert facts_to_json((Fact("total", n=2),)) == [{"kind": "total", "n": 2}]


def test_falsified_captions_have_one_false_fact():
  rng = random.Random(0)
  for scene in scenes("full", "train", 200):
    changed = falsify(scene, rng)
    different = [f for f, g in zip(changed, scene.facts, strict=True) if f != g]
    assert len(different) == 1 and not holds(different[0], scene.objects)


def test_every_kind_of_fact_can_be_falsified():
  seen = {(c, f.kind) for s in scenes("full", "train", 200) for c, _, f in false_facts(s)}
  assert {c for c, _ in seen} == set(CHANGES)
  assert {kind for _, kind in seen} == {"exists", "count", "total", "relation", "absent"}


def test_a_change_that_the_caption_does_not_allow_is_refused():
  (scene,) = prompts("easy", "single", False, 1)
  with pytest.raises(ValueError, match="relation"):
    falsify(scene, random.Random(0), "relation")
  assert falsify(scene, random.Random(0), "total")[1].n == 2
