"""Tables from published tensors to our parameters, read in both directions.

One `Entry` is one of our arrays; its `Part`s are the tensors, or regions of them, that fill it.
The functions make the entries of one of our layers; they say what torch's layers of that kind
are. Ours are in models.layers, models.attention and models.streams.

Rotary models: published ones turn interleaved pairs (0, 1), (2, 3) ...; models.positions.rotate
turns the halves. So q, k and their norms' gains are reordered within each head:
"(p two) -> (two p)".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from t2i_jax.pretrained.layout import Region, their_shape

Shape = tuple[int, ...]
Sizes = Mapping[str, int]
NONE: Sizes = {}


@dataclass(frozen=True)
class Part:
  """One of their tensors, or a region of it, and where it lies in ours.

  name     of their tensor, {i} for the layer
  pattern  einops, theirs -> ours, of one layer; 1 where a region is one slot of our axis
  sizes    of the pattern's axes that our shape does not tell
  ours     (axis, start, stop) of our layer's array that it fills; None: all of it
  theirs   (axis, start, stop) of their tensor that it takes; None: all of it
  """

  name: str
  pattern: str
  sizes: Sizes = field(default_factory=dict)
  ours: Region | None = None
  theirs: Region | None = None


@dataclass(frozen=True)
class Entry:
  """One of our arrays, by its path "double/image/heads/q/kernel".

  first   the number {i} of the first layer of our stack
  copies  so many equal tensors are stored of an array that is no stack of ours
  mean    slots that its only part leaves of our axis take the mean of those that it fills
  """

  path: str
  parts: tuple[Part, ...]
  first: int = 0
  copies: int = 0
  mean: bool = False

  @property
  def stacked(self) -> bool:
    """Our array has a leading axis of layers."""
    return not self.copies and "{i}" in self.parts[0].name

  def layer_shape(self, shape: Shape) -> Shape:
    return shape[1:] if self.stacked else shape

  def layers(self, shape: Shape) -> range:
    """The numbers {i} of our array's layers; of one that is no stack, one."""
    return range(self.first, self.first + (shape[0] if self.stacked else 1))


class Rows(NamedTuple):
  """Rows of a fused matrix and of its bias."""

  name: str
  start: int
  stop: int


class Columns(NamedTuple):
  """Columns of a matrix that is fed two things side by side; its bias is of both."""

  name: str
  start: int
  stop: int


class Chunks(NamedTuple):
  """`vectors` of a modulation; with `swapped`, the width, theirs are (scale, shift)."""

  linear: "Linear"
  vectors: int
  swapped: int = 0


Linear = str | Rows | Columns  # a torch Linear [outputs, inputs], by name without .weight


def matrix(linear: Linear, pattern: str, ours: Region | None = None, sizes: Sizes = NONE) -> Part:
  """The weight of a Linear."""
  if isinstance(linear, str):
    return Part(f"{linear}.weight", pattern, sizes, ours)
  axis = 0 if isinstance(linear, Rows) else 1
  return Part(f"{linear.name}.weight", pattern, sizes, ours, (axis, linear.start, linear.stop))


def vector(linear: Linear, pattern: str, ours: Region | None = None, sizes: Sizes = NONE) -> Part:
  """The bias of a Linear."""
  if isinstance(linear, Rows):
    return Part(f"{linear.name}.bias", pattern, sizes, ours, (0, linear.start, linear.stop))
  name = linear if isinstance(linear, str) else linear.name
  return Part(f"{name}.bias", pattern, sizes, ours)


def dense(
  path: str,
  linear: Linear,
  kernel: str = "o i -> i o",
  row: str = "o -> o",
  *,
  bias: bool = True,
  first: int = 0,
  copies: int = 0,
  **sizes: int,
) -> list[Entry]:
  """models.layers.Dense."""
  entries = [Entry(f"{path}/kernel", (matrix(linear, kernel, None, sizes),), first, copies)]
  if bias:
    entries.append(Entry(f"{path}/bias", (vector(linear, row, None, sizes),), first, copies))
  return entries


def conv_patches(path: str, name: str, patch: int) -> list[Entry]:
  """A Dense over patches (row, column, channel) that is stored as a convolution."""
  return dense(path, name, "d c p q -> (p q c) d", p=patch, q=patch)


def packed_in(path: str, name: str, patch: int, *, bias: bool = True) -> list[Entry]:
  """A Dense over patches that are stored as (channel, row, column)."""
  return dense(path, name, "d (c p q) -> (p q c) d", bias=bias, p=patch, q=patch)


def packed_out(path: str, name: str, patch: int) -> list[Entry]:
  """A Dense to patches that are stored as (channel, row, column)."""
  return dense(path, name, "(c p q) d -> d (p q c)", "(c p q) -> (p q c)", p=patch, q=patch)


def embedder(
  path: str, first: Linear, second: Linear, *, bias: bool = True, copies: int = 0
) -> list[Entry]:
  """models.layers.Embedder."""
  return [
    *dense(f"{path}/first", first, bias=bias, copies=copies),
    *dense(f"{path}/second", second, bias=bias, copies=copies),
  ]


def mlp(
  path: str, up: Linear, down: Linear, *, down_bias: bool = True, first: int = 0
) -> list[Entry]:
  """models.layers.FeedForward of two matrices."""
  return [
    *dense(f"{path}/up", up, first=first),
    *dense(f"{path}/down", down, bias=down_bias, first=first),
  ]


def gated_mlp(path: str, up: Linear, down: Linear) -> list[Entry]:
  """models.layers.FeedForward "swiglu" without biases, of one matrix of gate and up."""
  return [
    *dense(f"{path}/up", up, "(two f) d -> d two f", bias=False),
    *dense(f"{path}/down", down, bias=False),
  ]


def adaln(path: str, *pieces: Chunks, bias: bool = True, first: int = 0) -> list[Entry]:
  """models.layers.Modulation, its chunks those of the pieces one after another."""
  kernels: list[Part] = []
  rows: list[Part] = []
  start = 0
  for linear, count, swapped in pieces:
    if swapped:
      assert isinstance(linear, str)
      ours = ((start + 1, Rows(linear, 0, swapped)), (start, Rows(linear, swapped, 2 * swapped)))
      kernels += [matrix(of, "d e -> e 1 d", (1, slot, slot + 1)) for slot, of in ours]
      rows += [vector(of, "d -> 1 d", (0, slot, slot + 1)) for slot, of in ours]
    else:
      kernels.append(matrix(linear, "(s d) e -> e s d", (1, start, start + count)))
      rows.append(vector(linear, "(s d) -> s d", (0, start, start + count)))
    start += count
  entries = [Entry(f"{path}/kernel", tuple(kernels), first)]
  return [*entries, Entry(f"{path}/bias", tuple(rows), first)] if bias else entries


def gain(path: str, name: str, *, rope: bool = False, first: int = 0) -> list[Entry]:
  """The gain of a norm; with rope, of a head that is turned."""
  part = Part(name, "(p two) -> (two p)", {"two": 2}) if rope else Part(name, "k -> k")
  return [Entry(path, (part,), first)]


def heads(
  path: str,
  q: Linear,
  k: Linear,
  v: Linear,
  norms: tuple[str, str] | None,
  *,
  rope: bool,
  bias: bool = True,
  first: int = 0,
) -> list[Entry]:
  """models.attention.Heads.   norms: the tensors of q's and k's gains, where there are any"""
  n, turned = ("(n p two)", "n (two p)") if rope else ("(n k)", "n k")
  sizes = {"two": 2} if rope else NONE
  key, value = (1, 0, 1), (1, 1, 2)
  kv = (
    matrix(k, f"{n} d -> d 1 {turned}", key, sizes),
    matrix(v, "(n k) d -> d 1 n k", value),
  )
  entries = [
    Entry(f"{path}/q/kernel", (matrix(q, f"{n} d -> d {turned}", None, sizes),), first),
    Entry(f"{path}/kv/kernel", kv, first),
  ]
  if bias:
    key, value = (0, 0, 1), (0, 1, 2)
    rows = (
      vector(k, f"{n} -> 1 {turned}", key, sizes),
      vector(v, "(n k) -> 1 n k", value),
    )
    entries += [
      Entry(f"{path}/q/bias", (vector(q, f"{n} -> {turned}", None, sizes),), first),
      Entry(f"{path}/kv/bias", rows, first),
    ]
  if norms is not None:
    entries += gain(f"{path}/q_gain", norms[0], rope=rope, first=first)
    entries += gain(f"{path}/k_gain", norms[1], rope=rope, first=first)
  return entries


def heads_out(path: str, linear: Linear, *, bias: bool = True, first: int = 0) -> list[Entry]:
  """models.attention.heads_out."""
  return dense(path, linear, "d (n k) -> n k d", bias=bias, first=first)


class Piece(NamedTuple):
  """One part of one layer of one of our arrays."""

  entry: Entry
  part: Part
  layer: int  # of our stack, from 0


def tensors_of(entries: list[Entry], shapes: Mapping[str, Shape]) -> dict[str, list[Piece]]:
  """Every published tensor by name, and what it is made of, in the order of the table."""
  found: dict[str, list[Piece]] = {}
  for name, piece in _pieces(entries, shapes):
    found.setdefault(name, []).append(piece)
  return found


def _pieces(entries: list[Entry], shapes: Mapping[str, Shape]) -> Iterator[tuple[str, Piece]]:
  for entry in entries:
    for number in range(entry.copies) if entry.copies else entry.layers(shapes[entry.path]):
      layer = number - entry.first if entry.stacked else 0
      for part in entry.parts:
        yield part.name.format(i=number), Piece(entry, part, layer)


def their_shapes(entries: list[Entry], shapes: Mapping[str, Shape]) -> dict[str, Shape]:
  """The shape of every published tensor, from those of our arrays by path."""
  found: dict[str, Shape] = {}
  for name, (entry, part, _) in _pieces(entries, shapes):
    shape = list(their_shape(part, entry.layer_shape(shapes[entry.path])))
    if part.theirs is not None:  # a fused tensor ends where the last of its regions does
      axis, _, stop = part.theirs
      shape[axis] = max(stop, found[name][axis] if name in found else 0)
    found[name] = tuple(shape)
  return found
