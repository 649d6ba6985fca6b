"""Differences of success rates in pairs of trials, with their intervals and McNemar's test."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb, nan, sqrt

from t2i_jax.evaluation.stats import CONFIDENCE, wilson


@dataclass(frozen=True)
class Paired:
  """The same trials before and after a change: counts of what was a success then and now.

  both, neither  successes, or failures, both times
  lost, won      successes before alone, or after alone
  """

  both: int
  lost: int
  won: int
  neither: int

  @classmethod
  def of(cls, before: Iterable[bool], after: Iterable[bool]) -> "Paired":
    """Counts trials in the same order. Raises ValueError where their numbers differ."""
    pairs = [(bool(a), bool(b)) for a, b in zip(before, after, strict=True)]
    counts = (pairs.count(pair) for pair in ((True, True), (True, False), (False, True)))
    both, lost, won = counts
    return cls(both, lost, won, len(pairs) - both - lost - won)

  @property
  def n(self) -> int:
    return self.both + self.lost + self.won + self.neither

  @property
  def difference(self) -> float:
    """The rate after less the rate before; nan where there is no trial."""
    return (self.won - self.lost) / self.n if self.n else nan

  def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Newcombe's hybrid score interval of the difference, from two Wilson intervals.

        d - sqrt(dl1^2 - 2 phi dl1 du0 + du0^2),   d + sqrt(du1^2 - 2 phi du1 dl0 + dl0^2)

    with dl, du the distances of a rate (0 before, 1 after) from its Wilson bounds, and phi the
    correlation of the 2 x 2 table with a continuity correction. Without a trial (-1, 1).
    Source: Newcombe, Stat. Med. 17 (1998) 2635-2650, method 10.
    """
    if not self.n:
      return -1.0, 1.0
    before, after = self.both + self.lost, self.both + self.won
    (l0, u0), (l1, u1) = (wilson(count, self.n, confidence) for count in (before, after))
    p0, p1, phi = before / self.n, after / self.n, self._phi()
    below = _hypotenuse(p1 - l1, u0 - p0, phi)
    above = _hypotenuse(u1 - p1, p0 - l0, phi)
    return self.difference - below, self.difference + above

  def _phi(self) -> float:
    before, after = self.both + self.lost, self.both + self.won
    margins = before * (self.n - before) * after * (self.n - after)
    excess: float = self.both * self.neither - self.lost * self.won
    if excess > 0:
      excess = max(excess - self.n / 2, 0.0)
    return excess / sqrt(margins) if margins else 0.0

  @property
  def p_value(self) -> float:
    """McNemar's exact test, two-sided: of the trials that changed, half were lost by chance."""
    changed, few = self.lost + self.won, min(self.lost, self.won)
    tail: int = sum(comb(changed, k) for k in range(few + 1))
    return min(1.0, 2 * tail / 2**changed)


def _hypotenuse(a: float, b: float, correlation: float) -> float:
  return sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b))
