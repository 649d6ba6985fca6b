"""Retrieval on toy features whose answers are known, and data that it cannot score."""

import numpy as np
import pytest

from t2i_jax.data.record import Record
from t2i_jax.errors import DataError
from t2i_jax.evaluation.retrieval import (
  by_cosine,
  by_pixels,
  concepts_of,
  figure,
  score_drawn,
  score_encoder,
  sentence,
  table,
)

CONCEPTS = ["fox", "fox", "cat", "dog", "sun", "sea", "car"]


def turned(*degrees):
  """Unit vectors of the plane."""
  angle = np.deg2rad(np.array(degrees, np.float32))
  return np.stack([np.cos(angle), np.sin(angle)], axis=1)


REAL = turned(0, 90, 10, 20, 30, 40, 50)


def test_places_among_the_nearest():
  """At 4 degrees fox is first; at 24, dog, sun, cat come before it; at 180 fox (90) is first."""
  scores = by_cosine(turned(4, 24, 180, 50), REAL)
  found = figure("q", "encoder", scores, ["fox", "fox", "fox", "cow"], CONCEPTS)
  assert {k: (r.successes, r.n) for k, r in found.top.items()} == {1: (2, 3), 5: (3, 3)}
  far = figure("q", "encoder", by_cosine(turned(24), REAL), ["car"], CONCEPTS)  # sixth of seven
  assert {k: r.successes for k, r in far.top.items()} == {1: 0, 5: 0}


def test_chance_is_that_of_images_at_random():
  """One of 7 and two of 7; none of five missed: 1 - C(5, 5) / C(7, 5)."""
  scores = np.zeros((2, 7), np.float32)
  found = figure("q", "encoder", scores, ["fox", "cat"], CONCEPTS)
  assert found.chance[1] == pytest.approx((2 / 7 + 1 / 7) / 2)
  assert found.chance[5] == pytest.approx((1 - 1 / 21 + 5 / 7) / 2)


def test_equal_images_share_a_place_and_some_may_be_left_out():
  scores = np.array([[0.5, 0.1, 0.5, 0.2, 0, 0, 0]], np.float32)
  assert figure("q", "encoder", scores, ["cat"], CONCEPTS).top[1].successes == 1  # as near as fox
  allowed = np.array([[False, True, False, True, False, False, False]])
  found = figure("q", "encoder", scores, ["fox"], CONCEPTS, allowed)
  assert found.top[1].successes == 0 and found.top[5].successes == 1 and found.chance[1] == 0.5
  assert figure("q", "encoder", scores, ["cat"], CONCEPTS, allowed).top[1].n == 0


def test_pixels_are_ordered_by_their_distance():
  rng = np.random.default_rng(0)
  a, b = (rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8) for n in (3, 5))
  want = -np.sum(np.square(a[:, None] / 255.0 - b[None] / 255.0), axis=(2, 3, 4))
  np.testing.assert_allclose(by_pixels(a, b), want, atol=1e-4)


def colour(*levels):
  """Images of one grey each."""
  return np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels])


def embed(images):
  """Grey as an angle: pixels and features order these images alike."""
  return turned(*(images[:, 0, 0, 0] / 2))


def test_drawn_images_and_the_encoders_own_recall():
  real, drawn = colour(0, 10, 100, 200), colour(3, 98, 12)
  concepts = ["fox", "cat", "dog", "cow"]
  texts = ["a fox", "a dog", "a cow"]
  found = score_drawn("train", texts, ["fox", "dog", "cow"], drawn, real, concepts, embed)
  for one in found.figures:
    assert (one.top[1].successes, one.top[1].n, one.top[5].successes) == (2, 3, 3)
  assert [s.right for s in found.samples] == [True, True, False]
  np.testing.assert_array_equal(found.samples[1].nearest, real[2])
  saved = found.to_json()
  assert saved["images"] == 4 and saved["figures"][0]["top1"]["chance"] == pytest.approx(0.25)
  assert "top 1 66.7%" in sentence(found) and table([found]).row_count == 2
  own = score_encoder(
    "val",
    list("abcd"),
    colour(0, 100, 20, 70),
    ["fox", "cat", "fox", "cat"],
    ["one", "one", "two", "two"],
    embed,
    colour(4, 96, 22, 20)[:, ::2, ::2],
  )
  views, others = own.figures[:2]
  assert (views.top[1].successes, views.top[1].n) == (3, 4)
  assert (others.top[1].successes, others.chance[1]) == (4, 0.5)


def test_concepts_of_records():
  fox = Record(b"x", ("a fox",), "one/fox", {"concept": "fox", "n": 3})
  bare = Record(b"x", ("a cat",), "two/cat", {"style": "two"})
  assert concepts_of([fox]) == ["fox"] and concepts_of([fox, bare], "key") == [fox.key, bare.key]
  with pytest.raises(
    DataError, match=r"'two/cat' has no 'concept' .*\(it has style\).*concept=key"
  ):
    concepts_of([fox, bare])
  with pytest.raises(DataError, match="no 'n'"):
    concepts_of([fox], "n")
