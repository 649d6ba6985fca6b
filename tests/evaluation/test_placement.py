"""Copied layouts, spread and total variation in closed form."""

import math

import numpy as np
import pytest

from t2i_jax.data.scenes import Object
from t2i_jax.evaluation.placement import PIXEL, cell_of, repeats, spread, total_variation


def at(x, y, r=0.17):
  return Object("circle", "red", "", x, y, r)


def test_a_layout_is_repeated_within_a_pixel_of_place_and_radius():
  layouts = [at(0.3, 0.3), at(0.7, 0.6)]
  assert repeats(at(0.3 + 0.99 * PIXEL, 0.3), layouts)
  assert repeats(at(0.7, 0.6, 0.17 - 0.99 * PIXEL), layouts)
  assert not repeats(at(0.3 + 1.01 * PIXEL, 0.3), layouts)
  assert not repeats(at(0.3 + 0.8 * PIXEL, 0.3 + 0.8 * PIXEL), layouts)
  assert not repeats(at(0.7, 0.6, 0.17 + 1.01 * PIXEL), layouts)
  assert not repeats(at(0.3, 0.3), [])


def test_by_chance_a_uniform_place_is_repeated_as_often_as_the_discs_are_large():
  rng = np.random.default_rng(0)
  layouts = [at(0.3, 0.3), at(0.7, 0.6), at(0.5, 0.8)]
  found = [repeats(at(*xy), layouts) for xy in rng.uniform(size=(20_000, 2))]
  chance = 3 * math.pi * PIXEL**2
  assert abs(np.mean(found) - chance) < 4 * (chance / 20_000) ** 0.5


def test_spread_of_a_square_and_of_uniform_places():
  corners = [at(x, y) for x in (0.25, 0.75) for y in (0.25, 0.75)]
  assert spread(corners) == pytest.approx(0.25 * 2**0.5)
  assert spread([at(0.4, 0.4)] * 3) == pytest.approx(0.0)
  places = np.random.default_rng(1).uniform(size=(20_000, 2))
  assert spread([at(*xy) for xy in places]) == pytest.approx(6**-0.5, rel=0.01)
  assert math.isnan(spread([]))


def test_total_variation_of_bernoullis_is_the_difference_of_their_rates():
  assert total_variation([1] * 3 + [0] * 7, [1] * 10 + [0] * 10) == pytest.approx(0.2)
  assert total_variation("aabb", "bbaa") == 0
  assert total_variation("aab", "cd") == 1
  assert math.isnan(total_variation([], "a"))


def test_cells_are_counted_by_row_and_column():
  assert [cell_of(at(x, y)) for x, y in ((0.1, 0.9), (0.5, 0.5), (1.0, 0.0))] == [
    (2, 0),
    (1, 1),
    (0, 2),
  ]
