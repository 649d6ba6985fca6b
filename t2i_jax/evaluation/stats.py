"""Success rates with binomial confidence intervals."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import nan, sqrt
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
