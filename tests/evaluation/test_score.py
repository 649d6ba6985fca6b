"""The score of drawers whose score is known: exact, blank, mirrored, recoloured."""

import dataclasses
import io
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from t2i_jax.data.scenes import COLORS, LEVELS, Fact, prompts, render
from t2i_jax.data.scenes.facts import Spec
from t2i_jax.errors import ConfigError
from t2i_jax.evaluation.phrases import fact_phrase
from t2i_jax.evaluation.score import KEPT, derange, score, score_curve

PER_CELL = 30


def drawer(change=lambda scene: scene, level="easy"):
  """A draw function that renders the asked scenes exactly, after `change`."""
  known = {
    scene.caption: scene
    for category in LEVELS[level].categories
    for heldout in (False, True)
    for scene in prompts(level, category, heldout, PER_CELL)
  }

  def draw(captions, seed):
    size = LEVELS[level].floor
    return np.stack([render(change(known[caption]), size) for caption in captions])

  return draw


def moved(change):
  """Applies `change` to every object of a scene."""
  return lambda scene: dataclasses.replace(
    scene, objects=tuple(change(thing) for thing in scene.objects)
  )


@pytest.fixture(scope="module")
def exact():
  return score(drawer(), "easy", size=32, per_cell=PER_CELL)


def test_exact_drawings_reach_the_ceiling_and_their_shuffles_do_not(exact):
  assert {(c.category, c.heldout) for c in exact.cells} == {
    (category, heldout) for category in LEVELS["easy"].categories for heldout in (False, True)
  }
  for cell in exact.cells:
    assert cell.model.n == cell.ceiling.n == cell.shuffled.n == PER_CELL
    assert cell.model.rate == cell.ceiling.rate >= 0.95
    # Another caption of the cell means something else, and is false of an exact render.
    assert cell.shuffled.rate == 0
    assert all(rate.rate >= 0.95 for rate in cell.details.values())


def test_blank_images_score_nothing():
  blank = score(
    lambda captions, seed: np.full((len(captions), 32, 32, 3), 240, np.uint8),
    "easy",
    size=32,
    per_cell=5,
  )
  for cell in blank.cells:
    assert cell.model.rate == 0
    assert cell.ceiling.rate == 1
    assert cell.samples[0].seen == () and cell.samples[0].failed
  relation = blank.cell("relation", False).details["relation right where objects are"]
  assert relation.n == 0  # no image had the objects


def test_mirrored_objects_fail_the_relation_alone():
  draw = drawer(moved(lambda thing: dataclasses.replace(thing, x=1 - thing.x, y=1 - thing.y)))
  result = score(draw, "easy", size=32, per_cell=PER_CELL, categories=["relation"])
  assert result.categories == ("relation",)
  for cell in result.cells:
    assert cell.model.rate == 0
    assert cell.details["objects right"].rate >= 0.95
    assert cell.details["relation right where objects are"].rate == 0
    assert any(
      word in cell.samples[0].failed[0] for word in ("left of", "right of", "above", "below")
    )


def test_recoloured_objects_keep_their_shape():
  names = list(COLORS)
  draw = drawer(
    moved(lambda o: dataclasses.replace(o, color=names[(names.index(o.color) + 1) % len(names)]))
  )
  cell = score(draw, "easy", size=32, per_cell=PER_CELL, categories=["single"]).cell(
    "single", False
  )
  assert cell.model.rate == 0
  assert cell.details["shape right"].rate >= 0.95
  assert cell.details["colour right"].rate == 0


def test_what_fits_no_name_is_called_unknown():
  smear = np.full((32, 32, 3), 240, np.uint8)
  smear[14:18, 2:30] = COLORS["red"]  # a bar, which is no shape
  smear[4:12, 4:12] = (110, 110, 110)  # a square in no colour

  def draw(captions, seed):
    return np.repeat(smear[None], len(captions), 0)

  cell = score(draw, "easy", size=32, per_cell=2, categories=["single"]).cell("single", True)
  assert sorted(cell.samples[0].seen) == [
    "a red object of unknown shape",
    "a square of unknown colour",
  ]


@pytest.mark.newest
def test_draws_once_in_cell_order_with_the_seed():
  calls, ticks = [], []

  def draw(captions, seed):
    calls.append((captions, seed))
    return np.zeros((len(captions), 32, 32, 3), np.uint8)

  score(draw, "easy", size=32, per_cell=3, seed=5, progress=lambda *at: ticks.append(at))
  ((captions, seed),) = calls
  assert seed == 5
  assert captions[:3] == [s.caption for s in prompts("easy", "single", False, 3, 5)]
  assert captions[-3:] == [s.caption for s in prompts("easy", "relation", True, 3, 5)]
  assert ticks == [(n, 18) for n in (3, 6, 9, 12, 15, 18)]


def test_keeps_the_first_images_of_each_cell(exact):
  draw = drawer()
  for cell in exact.cells:
    scenes = prompts("easy", cell.category, cell.heldout, PER_CELL)
    assert [s.caption for s in cell.samples] == [s.caption for s in scenes[:KEPT]]
    for sample, scene in zip(cell.samples, scenes, strict=False):
      assert np.array_equal(sample.image, draw([scene.caption], 0)[0])
      if sample.correct:
        assert len(sample.seen) == len(scene.objects) and not sample.failed
  assert len(exact.samples) == KEPT * len(exact.cells)


def test_json_is_plain_and_gates_on_the_lower_bound(exact):
  saved = json.loads(json.dumps(exact.to_json(), allow_nan=False))
  assert saved["level"] == "easy" and saved["size"] == 32 and saved["confidence"] == 0.95
  first = saved["cells"][0]
  assert set(first) == {
    "category", "heldout", "model", "shuffled", "ceiling", "details", "samples",
  }  # fmt: skip
  assert 0 < first["model"]["lower"] < first["model"]["rate"]
  assert set(first["samples"][0]) == {"caption", "correct", "failed", "seen"}


def test_console_table_names_every_rate(exact):
  console = Console(width=140, record=True, file=io.StringIO())
  console.print(exact.table())
  text = console.export_text()
  for cell in exact.cells:
    assert cell.category in text and cell.model.interval() in text
  for word in ("held-out", "shuffled", "ceiling", "colour right", f"n = {PER_CELL}"):
    assert word in text


def test_curve_has_a_line_a_category(exact):
  svg = score_curve([(4.0, exact), (2.0, exact)])
  assert svg.count("<polyline") == svg.count("<polygon") == len(exact.categories)
  assert "minutes of training" in svg and "seen" in svg
  assert "held-out" in score_curve([(4.0, exact)], heldout=True)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"level": "esay"}, "Nearest: 'easy'"),
    ({"size": 16}, "16 px are below 32 px"),
    ({"categories": ["long"]}, "no category 'long'; it has single"),
    ({"per_cell": 0}, "per_cell = 0 prompts"),
  ],
)
def test_what_cannot_be_scored_is_refused_before_drawing(options, message):
  def draw(captions, seed):
    raise AssertionError("drew")

  arguments = {"level": "easy", "size": 32, **options}
  with pytest.raises(ConfigError, match=message):
    score(draw, arguments.pop("level"), **arguments)


@pytest.mark.parametrize("shape, dtype", [((5, 32, 32, 3), np.uint8), ((6, 32, 32, 3), np.float32)])
def test_wrong_images_are_refused(shape, dtype):
  with pytest.raises(ValueError, match=r"instead of uint8 \(6, 32, 32, 3\)"):
    score(lambda captions, seed: np.zeros(shape, dtype), "easy", size=32, per_cell=1)


@given(st.lists(st.integers(0, 6), max_size=60), st.integers(0, 99))
def test_derangement_gives_nobody_their_own(keys, seed):
  others = derange(keys, np.random.default_rng(seed))
  assert sorted(others) == list(range(len(keys)))
  if keys and max(Counter(keys).values()) <= len(keys) / 2:
    assert all(keys[i] != keys[j] for i, j in enumerate(others))


def test_derangement_depends_on_the_generator():
  pairings = {tuple(derange(range(50), np.random.default_rng(seed))) for seed in range(10)}
  assert len(pairings) == 10


@pytest.mark.parametrize(
  "fact, words",
  [
    (Fact("exists", Spec("red", "circle")), "a red circle"),
    (Fact("exists", Spec("orange", "star", "small")), "a small orange star"),
    (Fact("exists", Spec("orange", None)), "an orange object"),
    (Fact("count", Spec("red", "circle"), n=3), "exactly 3 red circles"),
    (Fact("count", Spec("red", "cross"), n=1), "exactly 1 red cross"),
    (Fact("count", Spec(None, "cross"), n=2), "exactly 2 crosses"),
    (Fact("total", n=2), "2 objects in all"),
    (Fact("total", n=1), "1 object in all"),
    (Fact("absent", Spec("green")), "no green objects"),
    (
      Fact("relation", Spec("red", "circle"), "inside", Spec("blue", "square")),
      "a red circle inside a blue square",
    ),
  ],
)
def test_facts_in_words(fact, words):
  assert fact_phrase(fact) == words
