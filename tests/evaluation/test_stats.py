"""Wilson intervals against scipy, and the counting of outcomes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from t2i_jax.evaluation.stats import Rate, wilson


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
