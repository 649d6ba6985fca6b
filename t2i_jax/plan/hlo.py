"""The parser of compiled programs: instructions of scheduled HLO, and bytes of their shapes."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8}
_ARRAY = re.compile(r"\b(pred|bf16|f\d+|[su]\d+)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"^ +(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ?([a-z][\w\-]*)\(")
_CALLED = r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"


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
    """Names of the computations that it calls, except those of a loop."""
    found = re.findall(_CALLED, self.rest)
    branches = re.search(r"branch_computations=\{([^}]*)\}", self.rest)
    return found + (re.findall(r"[\w.\-]+", branches[1]) if branches else [])

  def attribute(self, pattern: str) -> str:
    """The first group of a pattern in the operands and attributes; "" where it does not occur."""
    found = re.search(pattern, self.rest)
    return found[1] if found else ""


def parse(text: str) -> tuple[dict[str, list[Op]], str]:
  """The computations of an HLO module by name, and the name of the one that is its entry."""
  computations: dict[str, list[Op]] = {}
  entry = inside = ""
  for line in _joined(text):
    found = _INSTRUCTION.match(line)
    if found and inside:
      op = _parsed(line[found.end() :], bool(found[1]), found[2])
      computations[inside].append(op)
    elif line.rstrip().endswith("{") and line[:1] in "%E":
      inside = line.removeprefix("ENTRY ").split(" ")[0].lstrip("%")
      entry = inside if line.startswith("ENTRY") else entry
      computations[inside] = []
  return computations, entry


def arrays(shape: str) -> list[str]:
  """The arrays in a shape's text, each with its layout."""
  return [found[0] for found in _ARRAY.finditer(shape)]


def shape_bytes(shape: str, hbm: bool = True) -> int:
  """Bytes of the arrays in a shape's text, as they lie in memory, padded to whole tiles.

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


def group_size(op: Op) -> int:
  """How many devices take part in a collective."""
  mesh = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", op.rest)
  if mesh:
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", mesh[2]))
  iota = re.search(r"replica_groups=\[\d+,(\d+)\]", op.rest)
  listed = re.search(r"replica_groups=\{\{([^}]*)\}", op.rest)
  if iota:
    return int(iota[1])
  return len(listed[1].split(",")) if listed else 1


def _tiled(sizes: list[int], layout: str) -> list[int]:
  """Sizes from the minor dimension on, padded to the first tile: {1,0:T(8,128)...}."""
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
