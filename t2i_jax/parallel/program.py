"""What a compiled program sends between devices."""

import re
from collections import Counter

KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"


def collectives(program: str) -> Counter:
  """Collective operations by kind in `compiled.as_text()`; one in a scanned block is one.

  The pieces of an asynchronous operation share a channel. On TPU a reduce-scatter is an
  all-reduce in a computation of that name.
  """
  seen: set[tuple[str, ...]] = set()
  around = ""
  for line in program.splitlines():
    if line.endswith("{") and not line.startswith(" "):
      around = line.split(" ")[0]
    found = re.search(rf" = (.*?) ({KINDS})(?:-start)?\(", line)
    if found and "all-reduce-scatter" in around:
      seen.add(("reduce-scatter", around.split(".clone")[0]))
    elif found:
      channel = re.search(r"channel_id=\d+", line)
      seen.add((found[2], found[1].split("{")[0], channel[0] if channel else line))
  return Counter(kind for kind, *_ in seen)
