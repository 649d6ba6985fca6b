"""Paired differences against scipy and published intervals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, multinomial

from t2i_jax.evaluation.paired import Paired


def test_a_published_paired_interval():
  # Newcombe, Stat. Med. 17 (1998) 2635-2650, method 10: 36, 12, 2, 0 of 50.
  found = Paired(both=36, lost=2, won=12, neither=0)
  assert found.difference == pytest.approx(0.2)
  assert found.interval() == pytest.approx((0.0569, 0.3404), abs=5e-5)


@settings(deadline=None)
@given(st.tuples(*[st.integers(0, 40)] * 4))
def test_mcnemar_is_the_sign_test_of_the_changes(counts):
  found = Paired(*counts)
  if found.lost + found.won:
    expected = binomtest(found.won, found.lost + found.won).pvalue
    assert found.p_value == pytest.approx(expected, rel=1e-9)
  else:
    assert found.p_value == 1
  low, high = found.interval()
  assert low <= (found.difference if found.n else 0) <= high
  swapped = Paired(found.both, found.won, found.lost, found.neither)
  assert swapped.interval() == pytest.approx((-high, -low))


def test_a_paired_interval_covers_the_truth_about_95_times_in_100():
  shares = [0.5, 0.2, 0.1, 0.2]  # both, lost, won, neither
  draws = multinomial.rvs(200, shares, size=2000, random_state=0)
  bounds = [Paired(*map(int, row)).interval() for row in draws]
  covered = sum(low <= -0.1 <= high for low, high in bounds) / len(bounds)
  assert 0.935 < covered < 0.97


def test_pairs_are_counted_in_order():
  before, after = [True, True, False, False, True], [True, False, True, False, True]
  assert Paired.of(before, after) == Paired(2, 1, 1, 1)
  with pytest.raises(ValueError):
    Paired.of(before, after[1:])
