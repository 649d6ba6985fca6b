"""Tables that map published tensors to our parameters, used in both directions.

One `Entry` is one of our arrays; its `Part`s are the tensors, or regions of them, that fill it.
Each function makes the entries of one kind of layer (models.layers, models.attention,
models.streams) from the names of the corresponding torch layers.

Rotary embeddings: published models rotate interleaved pairs (0, 1), (2, 3) ...;
models.positions.rotate rotates the halves. So q, k and the gains of their norms are reordered
within each head: "(p two) -> (two p)".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from t2i_jax.pretrained.layout import Region, stored_shape

Shape = tuple[int, ...]
Sizes = Mapping[str, int]
NONE: Sizes = {}


@dataclass(frozen=True)
class Part:
  """A published tensor, or a region of it, and the region of our array that it fills.

  name     of the published tensor, {i} for the layer
  pattern  einops, published -> ours, of one layer; 1 where the region is one slot of our axis
  sizes    of the pattern's axes that our shape does not determine
  target   region (axis, start, stop) of our array that it fills; None: all of it
  source   region (axis, start, stop) of the published tensor; None: all of it
  """

  name: str
  pattern: str
  sizes: Sizes = field(default_factory=dict)
  target: Region | None = None
  source: Region | None = None


@dataclass(frozen=True)
class Entry:
  """One of our arrays, by its path "double/image/heads/q/kernel".

  first   the index {i} of the first layer of our stack
  copies  number of equal published tensors of an array that is no stack of layers here
  mean    slots of our axis that its only part does not fill take the mean of those that it does
  """

  path: str
  parts: tuple[Part, ...]
  first: int = 0
  copies: int = 0
  mean: bool = False

  @property
  def stacked(self) -> bool:
    """Whether our array has a leading axis of layers."""
    return not self.copies and "{i}" in self.parts[0].name

  def layer_shape(self, shape: Shape) -> Shape:
    return shape[1:] if self.stacked else shape

  def layers(self, shape: Shape) -> range:
    """The indices {i} of our array's layers; one index for an array that is not stacked."""
    return range(self.first, self.first + (shape[0] if self.stacked else 1))


class Rows(NamedTuple):
  """Rows of a fused matrix and of its bias."""

  name: str
  start: int
  stop: int


class Columns(NamedTuple):
  """Columns of a matrix whose input is a concatenation; its bias belongs to the whole."""

  name: str
  start: int
  stop: int


class Chunks(NamedTuple):
  """`vectors` chunks of a modulation;   swapped: the width if published as (scale, shift)"""

  linear: "Linear"
  vectors: int
  swapped: int = 0


Linear = str | Rows | Columns  # a torch Linear [outputs, inputs], by name without .weight


def matrix(linear: Linear, pattern: str, target: Region | None = None, sizes: Sizes = NONE) -> Part:
  """The weight of a Linear."""
  if isinstance(linear, str):
    return Part(f"{linear}.weight", pattern, sizes, target)
  axis = 0 if isinstance(linear, Rows) else 1
  return Part(f"{linear.name}.weight", pattern, sizes, target, (axis, linear.start, linear.stop))


def vector(linear: Linear, pattern: str, target: Region | None = None, sizes: Sizes = NONE) -> Part:
  """The bias of a Linear."""
  if isinstance(linear, Rows):
    return Part(f"{linear.name}.bias", pattern, sizes, target, (0, linear.start, linear.stop))
  name = linear if isinstance(linear, str) else linear.name
  return Part(f"{name}.bias", pattern, sizes, target)


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
  """A Dense over patches (row, column, channel) that is published as a convolution."""
  return dense(path, name, "d c p q -> (p q c) d", p=patch, q=patch)


def packed_in(path: str, name: str, patch: int, *, bias: bool = True) -> list[Entry]:
  """A Dense over patches that are published as (channel, row, column)."""
  return dense(path, name, "d (c p q) -> (p q c) d", bias=bias, p=patch, q=patch)


def packed_out(path: str, name: str, patch: int) -> list[Entry]:
  """A Dense to patches that are published as (channel, row, column)."""
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
  """models.layers.FeedForward "swiglu" without biases; gate and up are one published matrix."""
  return [
    *dense(f"{path}/up", up, "(two f) d -> d two f", bias=False),
    *dense(f"{path}/down", down, bias=False),
  ]


def adaln(path: str, *pieces: Chunks, bias: bool = True, first: int = 0) -> list[Entry]:
  """models.layers.Modulation, whose chunks are those of the pieces in order."""
  kernels: list[Part] = []
  rows: list[Part] = []
  start = 0
  for linear, count, swapped in pieces:
    if swapped:
      assert isinstance(linear, str)
      scale, shift = Rows(linear, 0, swapped), Rows(linear, swapped, 2 * swapped)
      slots = ((start + 1, scale), (start, shift))
      kernels += [matrix(of, "d e -> e 1 d", (1, slot, slot + 1)) for slot, of in slots]
      rows += [vector(of, "d -> 1 d", (0, slot, slot + 1)) for slot, of in slots]
    else:
      kernels.append(matrix(linear, "(s d) e -> e s d", (1, start, start + count)))
      rows.append(vector(linear, "(s d) -> s d", (0, start, start + count)))
    start += count
  entries = [Entry(f"{path}/kernel", tuple(kernels), first)]
  return [*entries, Entry(f"{path}/bias", tuple(rows), first)] if bias else entries


def gain(path: str, name: str, *, rope: bool = False, first: int = 0) -> list[Entry]:
  """The gain of a norm;   rope: of a head with rotary embedding"""
  part = Part(name, "(p two) -> (two p)", {"two": 2}) if rope else Part(name, "k -> k")
  return [Entry(path, (part,), first)]


def layer_norm(path: str, name: str) -> list[Entry]:
  """models.layers.LayerNorm."""
  return [*gain(f"{path}/gain", f"{name}.weight"), *gain(f"{path}/bias", f"{name}.bias")]


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
  """models.attention.Heads.   norms: the tensors of the gains of q and k, if there are any"""
  n, split = ("(n p two)", "n (two p)") if rope else ("(n k)", "n k")
  sizes = {"two": 2} if rope else NONE
  key, value = (1, 0, 1), (1, 1, 2)
  kv = (
    matrix(k, f"{n} d -> d 1 {split}", key, sizes),
    matrix(v, "(n k) d -> d 1 n k", value),
  )
  entries = [
    Entry(f"{path}/q/kernel", (matrix(q, f"{n} d -> d {split}", None, sizes),), first),
    Entry(f"{path}/kv/kernel", kv, first),
  ]
  if bias:
    key, value = (0, 0, 1), (0, 1, 2)
    rows = (
      vector(k, f"{n} -> 1 {split}", key, sizes),
      vector(v, "(n k) -> 1 n k", value),
    )
    entries += [
      Entry(f"{path}/q/bias", (vector(q, f"{n} -> {split}", None, sizes),), first),
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
  layer: int  # index in our stack, from 0


def tensors_of(entries: list[Entry], shapes: Mapping[str, Shape]) -> dict[str, list[Piece]]:
  """Every published tensor by name, with its pieces, in the order of the table."""
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


def stored_shapes(entries: list[Entry], shapes: Mapping[str, Shape]) -> dict[str, Shape]:
  """The shape of every published tensor, from the shapes of our arrays by path."""
  found: dict[str, Shape] = {}
  for name, (entry, part, _) in _pieces(entries, shapes):
    shape = list(stored_shape(part, entry.layer_shape(shapes[entry.path])))
    if part.source is not None:  # a fused tensor ends where the last of its regions does
      axis, _, stop = part.source
      shape[axis] = max(stop, found[name][axis] if name in found else 0)
    found[name] = tuple(shape)
  return found
