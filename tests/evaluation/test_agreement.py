"""Similarities of pairs of images and captions, beside scipy's cosine; what they reject."""

import numpy as np
import pytest
from scipy.spatial.distance import cosine as distance

from t2i_jax.evaluation.agreement import Thresholds, agreement, best, cosine, reason_against

pytestmark = pytest.mark.newest


def test_beside_scipy():
  a, b, c, d = np.random.default_rng(0).normal(size=(4, 5, 7))
  found = agreement(a, b, c, d)
  for i in range(5):
    image, direction = 1 - distance(a[i], b[i]), 1 - distance(b[i] - a[i], d[i] - c[i])
    text = min(1 - distance(a[i], c[i]), 1 - distance(b[i], d[i]))
    for name, value in (("image_image", image), ("directional", direction), ("text_image", text)):
      assert found.of(i)[name] == pytest.approx(value, abs=1e-12)
  assert agreement(a, b).directional is None and set(agreement(a, b).of(0)) == {"image_image"}


def test_an_edit_without_a_direction_has_none():
  """A bag of words is the same before and after a swap."""
  same = np.ones((1, 3))
  found = agreement(same, 2 * same, same, same)
  assert found.directional == 0 and found.image_image == pytest.approx(1)
  assert cosine(np.zeros((1, 3)), same) == 0


def test_the_first_bound_that_is_missed_is_named():
  least = Thresholds()
  assert tuple(least) == (0.7, 0.2, 0.2)  # InstructPix2Pix's for CLIP ViT-L/14
  right = {"image_image": 0.7, "directional": 0.2, "text_image": 0.2}
  assert reason_against(right, least) is None
  assert reason_against(right | {"directional": 0.19}, least) == "directional similarity below 0.2"
  assert reason_against({"image_image": 0.6}, least) == "image-image similarity below 0.7"
  assert reason_against({}, least) is None


def test_the_best_in_order():
  assert best([0.1, 0.5, 0.3, 0.5], 2) == [1, 3] and best([0.1, 0.5, 0.5], 1) == [1]
  assert best([], 4) == [] and best([1.0], 4) == [0]
