"""What a compiled program needs and moves in a step: memory, collectives, HBM traffic.

Read from `compiled.as_text()`, scheduled HLO, where XLA's own cost analysis counts the body of a
loop once and kernels not at all. Traffic is an estimate, to compare programs of equal shapes: of a
kernel that reads an operand twice one reading is counted.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from t2i_jax.plan.hlo import Op, arrays, group_size, parse, shape_bytes

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# What moves nothing by itself: names for what is there, and the ends of asynchronous copies.
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "iota", "after-all"}
_FREE |= {"partition-id", "replica-id", "copy-done", "slice-done", "async-done", "async-update"}
_FREE |= {"opt-barrier", "optimization-barrier", "add-dependency"}
_FREE |= {f"{kind}-done" for kind in KINDS}


class Memory(NamedTuple):
  """Bytes of one device, by the compiler's account.

  arguments  of the program, padded as they lie in memory
  temporary  what it allocates beside arguments and results
  peak       the most that is in use at once
  """

  arguments: int
  temporary: int
  peak: int


def memory_of(compiled: Any) -> Memory:
  """The memory of a compiled program, on any platform."""
  found = compiled.memory_analysis()
  return Memory(found.argument_size_in_bytes, found.temp_size_in_bytes, found.peak_memory_in_bytes)


@dataclass(frozen=True)
class Loop:
  """A while loop: the name of its body, how often that runs in a step, and the op_name it has."""

  body: str
  times: int
  source: str


@dataclass
class Sent:
  """Collectives of a kind: instructions, executions, and bytes of the whole arrays in a step.

  in_loops  instructions inside loops
  """

  static: int = 0
  run: int = 0
  bytes: int = 0
  in_loops: int = 0


@dataclass
class Traffic:
  """Bytes read and written in HBM by a step, in all and by the loop (its body) they happen in."""

  bytes: int = 0
  by_loop: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Program:
  """The computations of a compiled program, from its text, `compiled.as_text()`."""

  def __init__(self, text: str):
    self.computations, self.entry = parse(text)

  def _trips(self, loop: Op) -> int:
    """How often a loop runs: as it says, or the largest integer in its condition."""
    known = loop.attribute(r'known_trip_count":\{"n":"(\d+)"')
    if known:
      return int(known)
    condition, numbers = loop.attribute(r"condition=%?([\w.\-]+)"), [0]
    for op in self._reached(condition):
      if op.kind == "constant" and op.shape.startswith("s32[]"):
        numbers += [int(n) for n in re.findall(r"^\((\d+)\)", op.rest)]
    return max(numbers)

  def _reached(self, name: str) -> Iterator[Op]:
    for op in self.computations.get(name, ()):
      yield op
      for callee in op.callees:
        yield from self._reached(callee)

  @cached_property
  def executed(self) -> list[tuple[Loop | None, int, list[Op]]]:
    """(innermost loop or None, executions in a step, instructions) of all but fused code."""
    found = []

    def visit(name: str, loop: Loop | None, times: int) -> None:
      ops = self.computations.get(name, [])
      found.append((loop, times, ops))
      for op in ops:
        if op.kind == "while":
          body, runs = op.attribute(r"body=%?([\w.\-]+)"), times * self._trips(op)
          visit(body, Loop(body, runs, op.attribute(r'op_name="([^"]*)"')), runs)
        elif op.kind in ("call", "conditional"):
          for callee in op.callees:
            visit(callee, loop, times)

    visit(self.entry, None, 1)
    return found

  @property
  def loops(self) -> list[Loop]:
    """In the order of the program."""
    return list(dict.fromkeys(loop for loop, _, _ in self.executed if loop is not None))

  def count(self, kind: str, name: str = "") -> tuple[int, int]:
    """Instructions of a kind whose own name matches a pattern, and how often they are run."""
    static = run = 0
    for _, times, ops in self.executed:
      n = sum(op.kind == kind and re.search(name, op.name) is not None for op in ops)
      static, run = static + n, run + n * times
    return static, run

  def collectives(self) -> Counter[str]:
    """Collective instructions by kind; one in the block of a scan is one."""
    return Counter({kind: found.static for kind, found in self.sent().items()})

  def sent(self) -> dict[str, Sent]:
    """Collectives by kind, those inside fusions included.

    The pieces of an asynchronous one lie in several fusions and share channel and shape: it counts
    once. Instructions outside fusions count each, since what the compiler makes late is all on one
    channel, and so are the copies of an unrolled loop. On TPU a reduce-scatter is an all-reduce in
    a fused computation of that name, which may have clones. The bytes are of the gathered array, or
    of the array before it is reduced.
    """
    total: dict[str, Sent] = defaultdict(Sent)
    for loop, times, ops in self.executed:
      of_fusions: dict[tuple[str, str], int] = {}
      of_its_own: dict[tuple[str, str], list[int]] = defaultdict(list)
      for op, around in self._collectives(ops, ""):
        kind, size = _sent_by(op)
        if "all-reduce-scatter" in around:
          of_fusions["reduce-scatter", around.split(".clone")[0]] = size
          continue
        key = kind, op.attribute(r"channel_id=(\d+)") + re.sub(r"\{[^}]*\}", "", op.shape)
        if around:
          of_fusions[key] = size
        else:
          of_its_own[key].append(size)
      single = {key: [size] for key, size in of_fusions.items()}
      for (kind, _), sizes in (single | of_its_own).items():
        found = total[kind]
        found.static += len(sizes)
        found.run += times * len(sizes)
        found.bytes += times * sum(sizes)
        found.in_loops += len(sizes) * (loop is not None)
    return dict(total)

  def _collectives(self, ops: list[Op], around: str) -> Iterator[tuple[Op, str]]:
    """Collective instructions, each with the fused computation that it is in."""
    for op in ops:
      if op.kind.removesuffix("-start") in KINDS:
        yield op, around
      elif op.kind not in ("while", "call", "conditional"):
        for callee in op.callees:
          yield from self._collectives(self.computations.get(callee, []), callee)

  def traffic(self) -> Traffic:
    """Operands and results of every instruction that live in HBM, times its executions.

    Of what a fusion slices out of or writes into a larger array only that part counts.
    """
    total = Traffic()
    for loop, times, ops in self.executed:
      shapes = {op.name: op.shape for op in ops}
      size = times * sum(self.op_bytes(op, shapes) for op in ops)
      total.bytes += size
      total.by_loop["" if loop is None else loop.body] += size
    return total

  def op_bytes(self, op: Op, shapes: dict[str, str]) -> int:
    """HBM bytes of one execution of an instruction.   shapes: of its operands by name"""
    if op.kind in _FREE or op.kind in ("while", "call", "conditional"):
      return 0
    if op.kind == "dynamic-slice" or op.kind == "slice":
      read = shape_bytes(op.shape, hbm=False) if shape_bytes(shapes[op.operands[0]]) else 0
      return read + shape_bytes(op.shape)
    if op.kind == "dynamic-update-slice":
      update = shape_bytes(shapes[op.operands[1]], hbm=False)
      written = update if shape_bytes(op.shape) else 0
      return written + shape_bytes(shapes[op.operands[1]])
    if op.kind == "fusion" and op.callees:
      return self._fusion_bytes(op, shapes)
    if op.kind.endswith("-start"):
      # (what is read, what is written, a flag), of copies the other way round: both once.
      parts = arrays(op.shape)
      big = [part for part in parts if not part.startswith("u32[]")][:2]
      small = min((shape_bytes(part, hbm=False) for part in big), default=0)
      whole = op.kind != "slice-start" and op.kind != "async-start"
      return sum((shape_bytes(p, hbm=False) if whole else small) for p in big if shape_bytes(p))
    read = sum(shape_bytes(shapes.get(name, "")) for name in dict.fromkeys(op.operands))
    return read + shape_bytes(op.shape)

  def _fusion_bytes(self, op: Op, shapes: dict[str, str]) -> int:
    inner = self.computations.get(op.callees[0], [])
    by_name = {o.name: o for o in inner}
    users: dict[str, list[Op]] = defaultdict(list)
    for o in inner:
      for name in o.operands:
        users[name].append(o)
    total = 0
    for o in inner:
      if o.kind != "parameter":
        continue
      number = re.match(r"\((\d+)\)", o.rest)
      index = int(number[1]) if number else 0
      shape = shapes.get(op.operands[index], o.shape) if index < len(op.operands) else o.shape
      if not shape_bytes(shape):
        continue
      total += _read_of(o, users, shape_bytes(shape, hbm=False))
    root = next((o for o in inner if o.root), None)
    return total + self._written(root, by_name, op.shape)

  def _written(self, root: Op | None, by_name: dict[str, Op], shape: str) -> int:
    """HBM bytes that a fusion writes: of a dynamic-update-slice, the update."""
    if root is None:
      return shape_bytes(shape)
    parts = arrays(shape)
    results = [by_name.get(name) for name in root.operands] if root.kind == "tuple" else [root]
    if len(results) != len(parts):
      return shape_bytes(shape)
    total = 0
    for result, part in zip(results, parts, strict=True):
      while result is not None and result.kind == "bitcast":
        result = by_name.get(result.operands[0])
      if result is not None and result.kind == "dynamic-update-slice" and shape_bytes(part):
        update = by_name.get(result.operands[1])
        total += shape_bytes(update.shape, hbm=False) if update else shape_bytes(part)
      else:
        total += shape_bytes(part)
    return total


def _sent_by(op: Op) -> tuple[str, int]:
  """The kind of a collective, and the bytes of the whole array."""
  kind = op.kind.removesuffix("-start")
  # Of a start's (operands, results), the larger half is the whole array.
  sizes = [shape_bytes(part, hbm=False) for part in arrays(op.shape)]
  size = max(sizes) if op.kind != kind else sum(sizes)
  return kind, size * group_size(op) if kind == "reduce-scatter" else size


def _read_of(parameter: Op, users: dict[str, list[Op]], whole: int) -> int:
  """Bytes that a fusion reads of a parameter of `whole` bytes: of a slice, the slice."""
  total, waiting = 0, [parameter]
  while waiting:
    op = waiting.pop()
    for user in users[op.name]:
      if user.kind in ("dynamic-slice", "slice"):
        total += shape_bytes(user.shape, hbm=False)
      elif user.kind == "dynamic-update-slice" and user.operands[0] == op.name:
        continue  # written in place
      elif user.kind == "bitcast":
        waiting.append(user)
      else:
        return whole
  return min(total, whole)
