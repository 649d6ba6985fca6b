"""Measures of memorisation, against closed forms, scipy and brute force."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from t2i_jax.errors import ConfigError
from t2i_jax.evaluation import memorisation as m
from t2i_jax.process import PROCESSES, Prediction


@pytest.mark.newest
def test_the_difference_of_two_gaussians_is_that_of_their_means():
  """At t = 1 of a flow x0_hat is the mean of the images of a text; in velocity the sign differs."""
  process = PROCESSES["flow"]()
  x_t = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4, 1)), jnp.float32)
  means = jnp.array([0.0, 0.5, -2.0])[:, None, None, None] * jnp.ones_like(x_t)
  ends = process.at(jnp.float32(1.0))
  with_text, without = Prediction(means, "x0"), Prediction(jnp.zeros_like(x_t), "x0")
  for kind in ("x0", "velocity"):
    found = m.text_difference(with_text, without, x_t, ends, kind)
    np.testing.assert_allclose(found, [0, 0.5, 2], atol=1e-6)
  with pytest.raises(ConfigError, match="is 0 or undefined where alpha = 0"):
    m.text_difference(with_text, without, x_t, ends, "eps")
  half = process.at(jnp.float32(0.5))  # velocity = (x_t - x0) / t
  np.testing.assert_allclose(
    m.text_difference(with_text, without, x_t, half, "velocity"), [0, 1, 4], atol=1e-6
  )


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_is_that_of_the_rank_test(ties):
  rng = np.random.default_rng(1)
  a, b = rng.normal(1, 1, 70), rng.normal(0, 1, 90)
  if ties:
    a, b = np.round(a), np.round(b)
  assert m.auc(a, b) == pytest.approx(stats.mannwhitneyu(a, b).statistic / (70 * 90), abs=1e-12)
  assert m.auc(a, a) == pytest.approx(0.5)
  assert m.auc([2, 3], [0, 1]) == 1 and m.auc([0], [1]) == 0 and np.isnan(m.auc([], [1]))


def test_what_is_found_at_a_share_of_false_alarms():
  rng = np.random.default_rng(2)
  a, b = np.round(rng.normal(1, 1, 300), 1), np.round(rng.normal(0, 1, 500), 1)
  for share in (0.0, 0.01, 0.1, 0.5, 1.0):
    thresholds = [*b, -np.inf]
    by_force = max(np.mean(a > x) for x in thresholds if np.mean(b > x) <= share + 1e-12)
    assert m.found_at(a, b, share) == by_force
  assert m.found_at([2, 0.5], [0, 1]) == 0.5  # of two none may be above


def test_the_nearest_image_and_its_threshold():
  rng = np.random.default_rng(3)
  train = rng.integers(0, 256, (50, 32, 32, 3), np.uint8)
  train[7] = train[3]
  drawn = np.stack([train[20], np.clip(train[5] + rng.normal(0, 8, (32, 32, 3)), 0, 255)])
  drawn = np.concatenate([drawn.astype(np.uint8), rng.integers(0, 256, (1, 32, 32, 3), np.uint8)])
  features, queries = m.pixel_features(train), m.pixel_features(drawn)
  np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
  assert not m.pixel_features(np.full((1, 32, 32, 3), 9, np.uint8)).any()
  parts = [features[:17], features[17:40], features[40:]]
  found = m.nearest(queries, parts)
  scores = queries @ features.T
  np.testing.assert_array_equal(found.at, scores.argmax(1))
  np.testing.assert_allclose(found.similarity, scores.max(1), rtol=1e-6)
  hashes = [image.tobytes().hex() for image in train]
  assert m.duplicates(hashes) == {hashes[3]: [3, 7]}
  same = np.array([[one == other for other in hashes] for one in hashes])
  between = m.nearest(features, parts, lambda start, s: same[:, start : start + s.shape[1]])
  assert between.similarity.max() < 0.9
  threshold = m.calibrated(between.similarity)
  assert found.copied(threshold).tolist() == [True, True, False]
  assert np.mean(between.similarity > threshold) <= 0.01
  assert m.calibrated(np.array([-np.inf])) == 1


def test_tile_distances():
  rng = np.random.default_rng(4)
  images = rng.integers(0, 256, (5, 18, 16, 3), np.uint8)
  images[1] = images[0]
  images[1, :4, :4] = 255 - images[0, :4, :4]
  found = m.tile_distances(images)
  for a, b in ((0, 1), (0, 2), (3, 4)):
    x, y = images[[a, b], :16].astype(float) / 255
    tiles = [
      np.sqrt(np.mean(np.square(x[i : i + 4, j : j + 4] - y[i : i + 4, j : j + 4])))
      for i in range(0, 16, 4)
      for j in range(0, 16, 4)
    ]
    assert found[a, b] == found[b, a] == pytest.approx(max(tiles), abs=1e-4)
  assert found.diagonal().max() == 0


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_the_largest_clique(share):
  rng = np.random.default_rng(5)
  near = np.triu(rng.random((12, 12)) < share, 1)
  near = near | near.T
  found = m.largest_clique(near)
  whole = near | np.eye(12, dtype=bool)
  sets = (np.array([i for i in range(12) if mask >> i & 1], int) for mask in range(2**12))
  assert len(found) == max(len(own) for own in sets if whole[np.ix_(own, own)].all())
  assert all(near[i, j] for i in found for j in found if i != j)
  assert len(m.largest_clique(near, enough=2)) == 2
