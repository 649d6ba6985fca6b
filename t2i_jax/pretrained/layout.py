"""Where a slice of one of our arrays lies in a published tensor: einops patterns.

A pattern goes from the published tensor (source) to our array (target), "(n k) d -> d n k". An axis
that is a product in the target is always read whole; a slice of a factor of a source axis is read
as runs of rows or columns.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple, Protocol

import einops
import numpy as np

Region = tuple[int, int, int]  # axis, start, stop
Span = tuple[int, int]  # start, stop
Reader = Callable[[tuple[slice, ...]], np.ndarray]


class Mapped(Protocol):
  """How one published tensor, or a region of it, maps to our array (names.Part)."""

  @property
  def pattern(self) -> str: ...
  @property
  def sizes(self) -> Mapping[str, int]: ...
  @property
  def target(self) -> Region | None: ...
  @property
  def source(self) -> Region | None: ...


class Sides(NamedTuple):
  """A pattern's axes, each a tuple of factors, outermost first; () for 1."""

  source: tuple[tuple[str, ...], ...]
  target: tuple[tuple[str, ...], ...]


@cache
def parse(pattern: str) -> Sides:
  """The axes of both sides of "a (b c) 1 -> ..."."""

  def axes(side: str) -> tuple[tuple[str, ...], ...]:
    groups = re.findall(r"\(([^)]*)\)|(\S+)", side)
    found = (inside.split() if inside else [alone] for inside, alone in groups)
    return tuple(tuple(name for name in factors if name != "1") for factors in found)

  left, right = pattern.split("->")
  return Sides(axes(left), axes(right))


def _spans(shape: tuple[int, ...], region: Region | None) -> list[Span]:
  spans = [(0, size) for size in shape]
  if region is not None:
    spans[region[0]] = region[1:]
  return spans


def axis_sizes(part: Mapped, shape: tuple[int, ...]) -> dict[str, int]:
  """The size of every axis of the pattern;   shape: of our array, of one layer.

  Raises ValueError where the pattern does not fit the shape.
  """
  sides, spans = parse(part.pattern), _spans(shape, part.target)
  sizes = {name: part.sizes[name] for name in sum(sides.target, ()) if name in part.sizes}
  for factors, (start, stop) in zip(sides.target, spans, strict=True):
    unknown = [name for name in factors if name not in sizes]
    known = math.prod(sizes[name] for name in factors if name in sizes)
    if len(unknown) == 1:
      sizes[unknown[0]] = (stop - start) // known
    if len(unknown) > 1 or math.prod(sizes[name] for name in factors) != stop - start:
      raise ValueError(f"{part.pattern!r} with {dict(part.sizes)} does not fit {shape}")
  return sizes


def stored_shape(part: Mapped, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Shape of the published tensor, or of its region `part.source`;   shape: of our array."""
  sizes = axis_sizes(part, shape)
  return tuple(math.prod(sizes[n] for n in factors) for factors in parse(part.pattern).source)


def runs(factors: tuple[str, ...], sizes: Mapping[str, int], spans: Mapping[str, Span]):
  """The runs [start, stop) of an axis that hold the given spans of its factors, in order."""
  partial = [j for j, name in enumerate(factors) if spans[name] != (0, sizes[name])]
  if not partial:
    return [(0, math.prod(sizes[name] for name in factors))]
  last = partial[-1]
  outer, inner = factors[:last], math.prod(sizes[name] for name in factors[last + 1 :])
  start, stop = spans[factors[last]]
  found = []
  for index in itertools.product(*(range(*spans[name]) for name in outer)):
    flat = 0
    for i, name in zip(index, outer, strict=True):
      flat = flat * sizes[name] + i
    flat *= sizes[factors[last]]
    found.append(((flat + start) * inner, (flat + stop) * inner))
  return found


def _read_runs(read: Reader, wanted: list[list[Span]], first: int = 0) -> np.ndarray:
  for axis in range(first, len(wanted)):
    if len(wanted[axis]) > 1:
      pieces = ([*wanted[:axis], [run], *wanted[axis + 1 :]] for run in wanted[axis])
      return np.concatenate([_read_runs(read, piece, axis + 1) for piece in pieces], axis)
  return read(tuple(slice(*spans[0]) for spans in wanted))


def take(
  part: Mapped, shape: tuple[int, ...], wanted: tuple[Span, ...], read: Reader
) -> tuple[tuple[slice, ...], np.ndarray] | None:
  """The part of a slice `wanted` of our array that a published tensor holds.

  shape  of our array, of one layer
  Returns the position inside that slice, and the values; None where the tensor holds none of it.
  """
  sides, sizes = parse(part.pattern), axis_sizes(part, shape)
  spans = {name: (0, size) for name, size in sizes.items()}
  into, cut = [], []
  for factors, own, (start, stop) in zip(
    sides.target, _spans(shape, part.target), wanted, strict=True
  ):
    low, high = max(own[0], start), min(own[1], stop)
    if low >= high:
      return None
    into.append(slice(low - start, high - start))
    inside = (low - own[0], high - own[0])
    if len(factors) == 1:
      spans[factors[0]] = inside
      cut.append(slice(None))
    else:  # a product, or the 1 of a single slot: read whole, and sliced afterwards
      cut.append(slice(*inside))
  per_axis = [runs(factors, sizes, spans) for factors in sides.source]
  if part.source is not None:
    axis, offset, _ = part.source
    per_axis[axis] = [(a + offset, b + offset) for a, b in per_axis[axis]]
  lengths = {name: stop - start for name, (start, stop) in spans.items()}
  block = einops.rearrange(_read_runs(read, per_axis), part.pattern, **lengths)
  return tuple(into), block[tuple(cut)]


def give(part: Mapped, layer: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray]:
  """The inverse of `take`: the position in the published tensor, and the values of our array."""
  sizes = axis_sizes(part, layer.shape)
  left, right = part.pattern.split("->")
  own = tuple(slice(*span) for span in _spans(layer.shape, part.target))
  values = einops.rearrange(layer[own], f"{right} -> {left}", **sizes)
  return tuple(slice(*span) for span in _spans(values.shape, part.source)), values
