"""Where a slice of one of our arrays lies in a published tensor: einops patterns.

A pattern goes from their tensor to ours, "(n k) d -> d n k". Only axes that are products on our
side are read whole; on theirs a slice of any factor is read as runs of whole rows or columns.
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


class Placed(Protocol):
  """What is said of one published tensor, or of a region of it (names.Part)."""

  @property
  def pattern(self) -> str: ...
  @property
  def sizes(self) -> Mapping[str, int]: ...
  @property
  def ours(self) -> Region | None: ...
  @property
  def theirs(self) -> Region | None: ...


class Sides(NamedTuple):
  """A pattern's axes, each a tuple of factors, outermost first; () where it says 1."""

  theirs: tuple[tuple[str, ...], ...]
  ours: tuple[tuple[str, ...], ...]


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


def axis_sizes(part: Placed, shape: tuple[int, ...]) -> dict[str, int]:
  """The size of every axis of the pattern;   shape is that of our layer's whole array.

  Raises ValueError where the pattern does not fit it.
  """
  sides, spans = parse(part.pattern), _spans(shape, part.ours)
  sizes = {name: part.sizes[name] for name in sum(sides.ours, ()) if name in part.sizes}
  for factors, (start, stop) in zip(sides.ours, spans, strict=True):
    unknown = [name for name in factors if name not in sizes]
    known = math.prod(sizes[name] for name in factors if name in sizes)
    if len(unknown) == 1:
      sizes[unknown[0]] = (stop - start) // known
    if len(unknown) > 1 or math.prod(sizes[name] for name in factors) != stop - start:
      raise ValueError(f"{part.pattern!r} with {dict(part.sizes)} does not make {shape}")
  return sizes


def their_shape(part: Placed, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Of their tensor, or of the region of it that `part` takes;   shape of our layer's array."""
  sizes = axis_sizes(part, shape)
  return tuple(math.prod(sizes[n] for n in factors) for factors in parse(part.pattern).theirs)


def runs(factors: tuple[str, ...], sizes: Mapping[str, int], spans: Mapping[str, Span]):
  """The runs [start, stop) of an axis that hold what is asked of its factors, in order."""
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
  part: Placed, shape: tuple[int, ...], wanted: tuple[Span, ...], read: Reader
) -> tuple[tuple[slice, ...], np.ndarray] | None:
  """What their tensor holds of the slice `wanted` of our layer's array of this shape.

  Returns where it goes inside that slice, and the values; None where it holds nothing of it.
  """
  sides, sizes = parse(part.pattern), axis_sizes(part, shape)
  spans = {name: (0, size) for name, size in sizes.items()}
  into, cut = [], []
  for factors, own, (start, stop) in zip(sides.ours, _spans(shape, part.ours), wanted, strict=True):
    low, high = max(own[0], start), min(own[1], stop)
    if low >= high:
      return None
    into.append(slice(low - start, high - start))
    inside = (low - own[0], high - own[0])
    if len(factors) == 1:
      spans[factors[0]] = inside
      cut.append(slice(None))
    else:  # a product, or the 1 of a single slot: whole, and cut afterwards
      cut.append(slice(*inside))
  per_axis = [runs(factors, sizes, spans) for factors in sides.theirs]
  if part.theirs is not None:
    axis, offset, _ = part.theirs
    per_axis[axis] = [(a + offset, b + offset) for a, b in per_axis[axis]]
  lengths = {name: stop - start for name, (start, stop) in spans.items()}
  block = einops.rearrange(_read_runs(read, per_axis), part.pattern, **lengths)
  return tuple(into), block[tuple(cut)]


def give(part: Placed, layer: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray]:
  """The inverse of `take`: where in their tensor the values of our layer's array go, and these."""
  sizes = axis_sizes(part, layer.shape)
  left, right = part.pattern.split("->")
  own = tuple(slice(*span) for span in _spans(layer.shape, part.ours))
  values = einops.rearrange(layer[own], f"{right} -> {left}", **sizes)
  return tuple(slice(*span) for span in _spans(values.shape, part.theirs)), values
