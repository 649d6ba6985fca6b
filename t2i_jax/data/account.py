"""What a build found and what became of it: found = used + rejected, for each kind of thing."""

from collections import Counter
from typing import Any


class Account:
  """Counts by kind ("items", "captions", "files", "members", ...); rejected ones by reason, too.

  What is found is counted where it is listed, the rest where it ends: `check` compares the two.
  """

  def __init__(self) -> None:
    self.found: Counter[str] = Counter()
    self.used: Counter[str] = Counter()
    self.rejected: dict[str, Counter[str]] = {}

  def find(self, kind: str, n: int = 1) -> None:
    self.found[kind] += n

  def use(self, kind: str, n: int = 1) -> None:
    self.used[kind] += n

  def reject(self, kind: str, reason: str, n: int = 1) -> None:
    """Counts n rejected ones.   reason: "kind" or "kind: detail"; kinds are counted"""
    if n:
      self.rejected.setdefault(kind, Counter())[reason.split(":")[0]] += n

  def add(self, other: "Account") -> None:
    """Adds the counts of another account."""
    self.found.update(other.found)
    self.used.update(other.used)
    for kind, reasons in other.rejected.items():
      self.rejected.setdefault(kind, Counter()).update(reasons)

  def check(self) -> None:
    """Raises AssertionError where something that was found is neither used nor rejected."""
    for kind in self.found | self.used | dict.fromkeys(self.rejected, 0):
      found, used, lost = self.found[kind], self.used[kind], self._rejected(kind).total()
      if found != used + lost:
        raise AssertionError(f"{kind}: {found} found, but {used} used and {lost} rejected")

  def _rejected(self, kind: str) -> Counter[str]:
    return self.rejected.get(kind, Counter())

  def to_json(self) -> dict[str, Any]:
    """{kind: {"found": n, "used": n, "rejected": {reason: n}}}"""
    return {
      kind: {
        "found": self.found[kind],
        "used": self.used[kind],
        "rejected": dict(sorted(self._rejected(kind).items())),
      }
      for kind in sorted(+self.found)
    }


def account_lines(account: dict[str, Any]) -> list[str]:
  """An account's JSON as a line for each kind."""
  lines = []
  for kind, counts in account.items():
    rejected = counts["rejected"]
    line = f"{kind}: {counts['found']:,} found = {counts['used']:,} used + "
    line += f"{sum(rejected.values()):,} rejected"
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in rejected.items())
    lines.append(f"{line} ({reasons})" if reasons else line)
  return lines
