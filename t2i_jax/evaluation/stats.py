"""Success rates with binomial confidence intervals, alone and in pairs."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb, nan, sqrt
from statistics import NormalDist

CONFIDENCE = 0.95


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
  """Wilson score interval of a binomial proportion, without continuity correction.

      (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),   p = successes / n

  It is within [0, 1] and keeps its coverage at rates near 0 and 1 and at small n, unlike the normal
  interval.

  successes, n  counts, 0 <= successes <= n; n = 0 gives (0, 1)
  confidence    two-sided coverage, in (0, 1)
  Returns (lower, upper).      Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212.
  Raises ValueError when the counts are not those of a proportion.
  """
  if not 0 <= successes <= n:
    raise ValueError(f"{successes} successes of {n}: must be 0 <= successes <= n")
  if not 0 < confidence < 1:
    raise ValueError(f"confidence {confidence} is not between 0 and 1")
  if n == 0:
    return 0.0, 1.0
  z = NormalDist().inv_cdf((1 + confidence) / 2)
  p = successes / n
  scale = 1 + z * z / n
  centre = (p + z * z / (2 * n)) / scale
  half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
  # At the ends the exact bound is 0 or 1, which rounding would miss by an ulp.
  lower = 0.0 if successes == 0 else centre - half
  upper = 1.0 if successes == n else centre + half
  return lower, upper


@dataclass(frozen=True)
class Rate:
  """A count of successes among n trials, with its 95% Wilson interval."""

  successes: int
  n: int

  @classmethod
  def of(cls, outcomes: Iterable[bool]) -> "Rate":
    """Counts the true values among `outcomes`."""
    kept = [bool(outcome) for outcome in outcomes]
    return cls(sum(kept), len(kept))

  @property
  def rate(self) -> float:
    """successes / n; nan where n = 0."""
    return self.successes / self.n if self.n else nan

  @property
  def lower(self) -> float:
    """Lower 95% bound, for claims of "at least"."""
    return wilson(self.successes, self.n)[0]

  @property
  def upper(self) -> float:
    """Upper 95% bound."""
    return wilson(self.successes, self.n)[1]

  def percent(self) -> str:
    """The rate, "91.2%", or "none" where n = 0."""
    return f"{100 * self.rate:.1f}%" if self.n else "none"

  def interval(self) -> str:
    """The interval in percent, "[87.0, 94.1]"."""
    return f"[{100 * self.lower:.1f}, {100 * self.upper:.1f}]"

  def to_json(self) -> dict[str, float | int | None]:
    """{"successes", "n", "rate", "lower", "upper"}; rate is null when n is 0."""
    return {
      "successes": self.successes,
      "n": self.n,
      "rate": self.rate if self.n else None,
      "lower": self.lower,
      "upper": self.upper,
    }


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
