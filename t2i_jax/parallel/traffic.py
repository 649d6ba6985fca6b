"""What a compiled TPU program moves in a step: between chips, and to and from memory.

Read from `compiled.as_text()`, scheduled HLO, where XLA's own cost analysis counts the body of a
loop once and kernels not at all. An estimate, for programs of equal shapes: a kernel that reads an
operand twice is not seen to.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from t2i_jax.parallel.program import KINDS

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8}
_ARRAY = re.compile(r"\b(pred|bf16|f\d+|[su]\d+)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"^ +(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ?([a-z][\w\-]*)\(")
# What moves nothing by itself: names for what is there, and the ends of asynchronous copies.
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "iota", "after-all"}
_FREE |= {"partition-id", "replica-id", "copy-done", "slice-done", "async-done", "async-update"}
_FREE |= {"opt-barrier", "optimization-barrier", "add-dependency"}
_FREE |= {f"{kind}-done" for kind in KINDS.split("|")}
_PASSES = {"bitcast", "get-tuple-element", "copy", "reshape"}  # inside a fusion: another name


@dataclass(frozen=True)
class Op:
  """One instruction: its operands are names in the same computation."""

  name: str
  shape: str
  kind: str
  operands: tuple[str, ...]
  rest: str
  root: bool

  @property
  def callees(self) -> list[str]:
    """Names of the computations that it calls, but for those of a loop."""
    found = re.findall(r"(?:calls|to_apply|async_execution_thread.*?calls)=%?([\w.\-]+)", self.rest)
    branches = re.search(r"branch_computations=\{([^}]*)\}", self.rest)
    return found + (re.findall(r"[\w.\-]+", branches[1]) if branches else [])


def shape_bytes(shape: str, hbm: bool = True) -> int:
  """Bytes of the arrays in a shape's text, as they lie in memory, filled up to whole tiles.

  hbm  leave out those that do not live in HBM: S(1) is VMEM
  """
  total = 0
  for kind, dims, layout in _ARRAY.findall(shape):
    if hbm and "S(" in layout:
      continue
    sizes = [int(d) for d in dims.split(",") if d]
    width = _BYTES.get(kind) or int(re.sub(r"\D.*", "", kind[1:])) / 8
    total += math.ceil(width * math.prod(_tiled(sizes, layout)))
  return total


def _tiled(sizes: list[int], layout: str) -> list[int]:
  """Sizes from the minor dimension on, filled up to the first tile: {1,0:T(8,128)...}."""
  order = re.match(r"\{([\d,]+)", layout)
  tile = re.search(r"T\(([\d,]+)\)", layout)
  if not (order and tile):
    return sizes
  minor = [sizes[int(d)] for d in order[1].strip(",").split(",")]
  for i, part in enumerate(reversed([int(n) for n in tile[1].split(",")])):
    if i < len(minor):
      minor[i] += -minor[i] % part
  return minor


def _closing(text: str, start: int) -> int:
  """Index of the bracket that closes the one at `start`."""
  depth = 0
  for i in range(start, len(text)):
    depth += (text[i] == "(") - (text[i] == ")")
    if not depth:
      return i
  return len(text) - 1


def _parsed(text: str, root: bool, name: str) -> Op:
  """An instruction from what follows its " = "."""
  end = _closing(text, 0) + 1 if text.startswith("(") else len(text.split(" ", 1)[0])
  shape, text = text[:end], text[end:]
  found = _OPCODE.match(text)
  if found is None:
    return Op(name, shape, "", (), text, root)
  last = _closing(text, found.end() - 1)
  operands = tuple(re.findall(r"%([\w.\-]+)", text[found.end() : last]))
  return Op(name, shape, found[1], operands, text[found.end() - 1 :], root)


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
  """The computations of an HLO module by name, from its text."""

  def __init__(self, text: str):
    self.computations: dict[str, list[Op]] = {}
    self.entry, inside = "", ""
    for line in _joined(text):
      found = _INSTRUCTION.match(line)
      if found and inside:
        op = _parsed(line[found.end() :], bool(found[1]), found[2])
        self.computations[inside].append(op)
      elif line.rstrip().endswith("{") and line[:1] in "%E":
        inside = line.removeprefix("ENTRY ").split(" ")[0].lstrip("%")
        self.entry = inside if line.startswith("ENTRY") else self.entry
        self.computations[inside] = []

  def trips(self, condition: str) -> int:
    """How often a loop runs: the largest integer that its condition compares with."""
    numbers = [0]
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

    def walk(name: str, loop: Loop | None, times: int) -> None:
      ops = self.computations.get(name, [])
      found.append((loop, times, ops))
      for op in ops:
        if op.kind == "while":
          body = re.search(r"body=%?([\w.\-]+)", op.rest)
          condition = re.search(r"condition=%?([\w.\-]+)", op.rest)
          source = re.search(r'op_name="([^"]*)"', op.rest)
          if body and condition:
            runs = times * self.trips(condition[1])
            walk(body[1], Loop(body[1], runs, source[1] if source else ""), runs)
        elif op.kind in ("call", "conditional"):
          for callee in op.callees:
            walk(callee, loop, times)

    walk(self.entry, None, 1)
    return found

  @property
  def loops(self) -> list[Loop]:
    """In the order of the program."""
    return [loop for loop, _, _ in self.executed if loop is not None]

  def count(self, kind: str, name: str = "") -> tuple[int, int]:
    """Instructions of a kind whose own name matches a pattern, and how often they are run."""
    static = run = 0
    for _, times, ops in self.executed:
      n = sum(op.kind == kind and re.search(name, op.name) is not None for op in ops)
      static, run = static + n, run + n * times
    return static, run

  def sent(self) -> dict[str, Sent]:
    """Collectives by kind, those inside fusions included; an asynchronous one counts once.

    On TPU a reduce-scatter is an all-reduce in a fused computation of that name. The bytes are of
    the gathered array, or of the array before it is reduced.
    """
    total: dict[str, Sent] = defaultdict(Sent)
    for loop, times, ops in self.executed:
      seen: set[tuple[str, str]] = set()
      for kind, key, size in self._collectives(ops, ""):
        if (kind, key) in seen:
          continue
        seen.add((kind, key))
        found = total[kind]
        found.static += 1
        found.run += times
        found.bytes += times * size
        found.in_loops += loop is not None
    return dict(total)

  def _collectives(self, ops: list[Op], around: str) -> Iterator[tuple[str, str, int]]:
    for op in ops:
      kind = op.kind.removesuffix("-start")
      if kind in KINDS.split("|"):
        channel = re.search(r"channel_id=(\d+)", op.rest)
        scattered = "all-reduce-scatter" in around
        # Of a start's (operands, results), the larger half is the whole array.
        sizes = [shape_bytes(part[0], hbm=False) for part in _arrays(op.shape)]
        size = max(sizes) if op.kind != kind else sum(sizes)
        if kind == "reduce-scatter":
          size *= _group_size(op.rest)
        name = "reduce-scatter" if scattered else kind
        yield name, channel[1] if channel else op.name, size
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
      parts = _arrays(op.shape)
      big = [part for part in parts if not part[0].startswith("u32[]")][:2]
      small = min((shape_bytes(part[0], hbm=False) for part in big), default=0)
      whole = op.kind != "slice-start" and op.kind != "async-start"
      return sum(
        (shape_bytes(p[0], hbm=False) if whole else small) for p in big if shape_bytes(p[0])
      )
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
    parts = [part[0] for part in _arrays(shape)]
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


def _arrays(shape: str) -> list[tuple[str]]:
  return [(found[0],) for found in _ARRAY.finditer(shape)]


def _group_size(rest: str) -> int:
  """How many devices take part in a collective."""
  mesh = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", rest)
  if mesh:
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", mesh[2]))
  iota = re.search(r"replica_groups=\[\d+,(\d+)\]", rest)
  listed = re.search(r"replica_groups=\{\{([^}]*)\}", rest)
  if iota:
    return int(iota[1])
  return len(listed[1].split(",")) if listed else 1


def _joined(text: str) -> Iterator[str]:
  """Lines, each with the pieces that attributes broke off: those may begin with "}}".

  Only a lone "}" closes a computation.
  """
  line = ""
  for piece in text.splitlines():
    header = piece[:1] in "%E" and piece.rstrip().endswith("{")
    if piece == "}" or header or _INSTRUCTION.match(piece):
      yield line
      line = piece
    else:
      line += " " + piece
  yield line
