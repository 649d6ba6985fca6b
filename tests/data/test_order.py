import numpy as np
import pytest

from t2i_jax.data.order import index_at, rng_at


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1024, 1025, 5000])
def test_each_epoch_is_a_permutation(size):
  for epoch in range(3):
    pairs = [index_at(epoch * size + i, size, seed=5) for i in range(size)]
    assert {e for e, _ in pairs} == {epoch}
    assert sorted(i for _, i in pairs) == list(range(size))


@pytest.mark.parametrize("size", [200, 2000])  # either side of SMALL
def test_epochs_and_seeds_differ(size):
  orders = {
    (seed, epoch): tuple(index_at(epoch * size + i, size, seed)[1] for i in range(size))
    for seed in range(3)
    for epoch in range(3)
  }
  assert len(set(orders.values())) == 9
  for order in orders.values():  # a random permutation leaves about one in place
    assert sum(i == j for i, j in enumerate(order)) < 10


def test_every_order_of_three_is_about_as_likely():
  counts: dict[tuple, int] = {}
  for epoch in range(1200):
    order = tuple(index_at(3 * epoch + i, 3, seed=0)[1] for i in range(3))
    counts[order] = counts.get(order, 0) + 1
  assert len(counts) == 6
  assert min(counts.values()) > 150  # expected 200, standard deviation 13


def test_a_position_far_out_costs_nothing():
  epoch, index = index_at(10**15 + 7, 3 * 10**9, seed=2**31)
  assert epoch == (10**15 + 7) // (3 * 10**9)
  assert 0 <= index < 3 * 10**9


def test_random_numbers_by_position():
  first = rng_at(12, seed=3).random(4)
  np.testing.assert_array_equal(first, rng_at(np.int64(12), seed=3).random(4))
  assert not np.allclose(first, rng_at(13, seed=3).random(4))
  assert not np.allclose(first, rng_at(12, seed=4).random(4))
  draws = [int(rng_at(p, seed=0).integers(3)) for p in range(3000)]
  assert np.bincount(draws).min() > 900  # expected 1000, standard deviation 26
