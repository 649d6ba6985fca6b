"""From published tensors to our arrays, one shard at a time, and back."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding, SingleDeviceSharding

from t2i_jax.pretrained.layout import Span, give, take
from t2i_jax.pretrained.names import Entry, Part, Piece, Shape
from t2i_jax.pretrained.tensors import Tensors

Bounds = tuple[Span, ...]
ROWS = 4096  # rows of a vocabulary that are held in memory at once


class Faults:
  """Names of tensors whose values are invalid."""

  def __init__(self) -> None:
    self.not_finite: set[str] = set()
    self.unequal: set[str] = set()


def read_shard(
  entry: Entry, shape: Shape, bounds: Bounds, dtype: Any, tensors: Tensors, faults: Faults
) -> np.ndarray:
  """A slice of one of our arrays, read and cast tensor by tensor.   shape: of the whole array"""
  shard = np.empty([stop - start for start, stop in bounds], dtype)
  layers = range(*bounds[0]) if entry.stacked else range(1)
  inner = bounds[1:] if entry.stacked else bounds
  for layer in layers:
    into = shard[layer - layers.start] if entry.stacked else shard
    for part in entry.parts:
      name = part.name.format(i=entry.first + layer)
      placed = _values(entry, part, shape, inner, name, tensors)
      if placed is None:
        continue
      where, values = placed
      with np.errstate(over="ignore"):  # overflow in float16 is reported as not finite below
        into[where] = values
      if not np.isfinite(into[where].astype(np.float32, copy=False)).all():
        faults.not_finite.add(name)
      for copy in range(1, entry.copies):
        other = part.name.format(i=copy)
        again = _values(entry, part, shape, inner, other, tensors)
        if again is None or not np.array_equal(again[1], values):
          faults.unequal.add(other)
  if entry.mean:
    _fill_with_mean(entry, shape, bounds, shard, tensors)
  return shard


def row_spans(count: int) -> list[Span]:
  """Rows 0 to count in chunks of ROWS."""
  return [(low, min(low + ROWS, count)) for low in range(0, count, ROWS)]


def _fill_with_mean(
  entry: Entry, shape: Shape, bounds: Bounds, shard: np.ndarray, tensors: Tensors
) -> None:
  """Fills the end of the axis of which the part fills only the beginning, within this slice."""
  part = entry.parts[0]
  assert part.target is not None
  axis, _, filled = part.target
  start, stop = bounds[axis]
  if stop <= filled:
    return
  total = np.zeros(())
  for rows in row_spans(filled):
    slots = (*bounds[:axis], rows, *bounds[axis + 1 :])
    placed = _values(entry, part, shape, slots, part.name, tensors)
    assert placed is not None
    total = total + placed[1].sum(axis, keepdims=True, dtype=np.float64)
  end = (slice(None),) * axis + (slice(max(filled - start, 0), None),)
  shard[end] = total / filled


def _values(
  entry: Entry, part: Part, shape: Shape, inner: Bounds, name: str, tensors: Tensors
) -> tuple[tuple[slice, ...], np.ndarray] | None:
  read = lambda slices: tensors.read(name, slices).astype(np.float32, copy=False)
  return take(part, entry.layer_shape(shape), inner, read)


def make_array(shape: Shape, sharding: Sharding, read: Callable[[Bounds], np.ndarray]) -> jax.Array:
  """The array whose slices `read` returns, with one slice in host memory at a time.

  A slice is read once for all devices that hold it, and only for the devices of this process.
  """
  holders: dict[Bounds, list[jax.Device]] = {}
  for device, index in sharding.addressable_devices_indices_map(shape).items():
    slices = index or (slice(None),) * len(shape)
    bounds = tuple(s.indices(n)[:2] for s, n in zip(slices, shape, strict=True))
    holders.setdefault(bounds, []).append(device)
  arrays: list[jax.Array] = []
  for bounds, devices in holders.items():
    shard = read(bounds)
    to = [SingleDeviceSharding(device, memory_kind=sharding.memory_kind) for device in devices]
    arrays += jax.block_until_ready([jax.device_put(shard, one) for one in to])
  return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def make_tensor(
  pieces: list[Piece], shape: Shape, layer_of: Callable[[str, int | None], np.ndarray]
) -> np.ndarray:
  """One published tensor, float32.   layer_of: (path, layer; None: not stacked) -> our values"""
  tensor = np.empty(shape, np.float32)
  for entry, part, layer in pieces:
    where, values = give(part, layer_of(entry.path, layer if entry.stacked else None))
    tensor[where] = values
  return tensor


def host_layers(params: Mapping[str, jax.Array]) -> Callable[[str, int | None], np.ndarray]:
  """Values of our arrays by path and layer, float32 on this host.

  Arrays of other processes are gathered a layer at a time: all processes must make the same calls.
  """

  def layer_of(path: str, layer: int | None) -> np.ndarray:
    array = params[path] if layer is None else params[path][layer]
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
      array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array, np.float32)

  return layer_of
