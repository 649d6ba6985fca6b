"""Wilson and paired intervals against scipy and published ones, and the counting of outcomes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, multinomial

from t2i_jax.evaluation.stats import Paired, Rate, wilson


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_is_scipys(counts):
  successes, n = counts
  for confidence in (0.8, 0.95, 0.99):
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx(tuple(expected), abs=1e-12)


def test_published_example():
  # Newcombe, Stat. Med. 17 (1998) 857-872, table I, method 3.
  assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)


@pytest.mark.parametrize("p", [0.02, 0.5, 0.93])
def test_interval_covers_the_truth_about_95_times_in_100(p):
  n = 250
  covered = sum(binom.pmf(k, n, p) for k in range(n + 1) if wilson(k, n)[0] <= p <= wilson(k, n)[1])
  assert 0.93 < covered < 0.975


def test_ends_are_exact():
  assert wilson(0, 250)[0] == 0.0
  assert wilson(250, 250)[1] == 1.0
  assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("successes, n", [(-1, 5), (6, 5), (1, 0)])
def test_impossible_counts_are_refused(successes, n):
  with pytest.raises(ValueError, match=f"{successes} successes of {n}"):
    wilson(successes, n)


def test_confidence_must_be_a_probability():
  with pytest.raises(ValueError, match="confidence 95"):
    wilson(1, 2, confidence=95)


def test_rate_counts_and_prints():
  rate = Rate.of(i % 4 == 0 for i in range(200))
  assert (rate.successes, rate.n, rate.rate) == (50, 200, 0.25)
  assert rate.lower < 0.25 < rate.upper
  assert rate.percent() == "25.0%"
  low, high = (100 * bound for bound in wilson(50, 200))
  assert rate.interval() == f"[{low:.1f}, {high:.1f}]"


def test_rate_of_nothing():
  rate = Rate.of([])
  assert math.isnan(rate.rate)
  assert rate.percent() == "none"
  assert rate.to_json() == {"successes": 0, "n": 0, "rate": None, "lower": 0.0, "upper": 1.0}


def test_a_published_paired_interval():
  # Newcombe, Stat. Med. 17 (1998) 2635-2650, method 10: 36, 12, 2, 0 of 50.
  found = Paired(both=36, lost=2, won=12, neither=0)
  assert found.difference == pytest.approx(0.2)
  assert found.interval() == pytest.approx((0.0569, 0.3404), abs=5e-5)


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
