"""Low-rank matrices of published layers as adapters of our projections, and back.

A published layer with weight W [outputs, inputs] may be a region of one of our kernels (k of a
`kv`), or hold regions of several (a fused q, k, v, or the output of attention beside an MLP). The
tables that map its weight (pretrained.names) map its matrices, too: the pattern's input axes are
those of `down`, its output axes those of `up`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import einops
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from t2i_jax.errors import RestoreError
from t2i_jax.models.adapters import Adapter, Adapters
from t2i_jax.models.lora import Projection, projections
from t2i_jax.models.params import abstract_of
from t2i_jax.pretrained.known import spec_for
from t2i_jax.pretrained.layout import axis_sizes, parse
from t2i_jax.pretrained.lora_files import PEFT_PREFIX, Matrices, kohya_prefix, read_matrices
from t2i_jax.pretrained.names import Part, Piece, Shape, stored_shapes, tensors_of
from t2i_jax.pretrained.single_file import ORIGINALS
from t2i_jax.pretrained.spec import Spec
from t2i_jax.pretrained.tensors import some

BACKBONE = "backbone"
BACKBONE_PREFIXES = ("unet.", "transformer.", "diffusion_model.", PEFT_PREFIX, "")
KERNEL, WEIGHT = "/kernel", ".weight"
Network = tuple[Any, Any]  # (how it is made, its config)


class Table(NamedTuple):
  """A published layout of a network.

  pieces  of the weight of each of its linear layers, by the layer's name
  shapes  of these weights;   own: of our arrays, by path
  """

  spec: Spec
  pieces: Mapping[str, list[Piece]]
  shapes: Mapping[str, Shape]
  own: Mapping[str, Shape]


def table_of(spec: Spec, config: Any) -> Table:
  make = partial(spec.module, config)
  own = {
    path: leaf.shape
    for path, leaf in traverse_util.flatten_dict(abstract_of(make), sep="/").items()
  }
  entries = [e for e in spec.entries(config) if e.path.endswith(KERNEL) and e.path in own]
  adapted = projections(make)
  linear = lambda part: not any(parse(part.pattern).source[2:])
  entries = [
    e for e in entries if e.path.removesuffix(KERNEL) in adapted and all(map(linear, e.parts))
  ]
  shapes = stored_shapes(entries, own)
  layer = lambda name: name.removesuffix(WEIGHT)
  pieces = {layer(name): found for name, found in tensors_of(entries, own).items()}
  return Table(spec, pieces, {layer(name): shape for name, shape in shapes.items()}, own)


def tables_of(config: Any) -> list[Table]:
  """diffusers' or transformers' layout, and the one of its authors where there is another."""
  specs = [spec_for(config)]
  specs += [one.spec for one in ORIGINALS if type(config) is one.spec.config]
  return [table_of(spec, config) for spec in specs]


def read_adapters(path: str | Path, networks: Mapping[str, Network]) -> dict[str, Adapters]:
  """The adapters of a file or folder, by part.

  networks  part of a system -> how it is made, and its config
  Raises RestoreError for a file that is damaged, or of another model, naming its layers.
  """
  found: dict[str, Adapters] = {}
  left = read_matrices(path)
  for part, (make, config) in networks.items():
    for table in tables_of(config):
      own = _named(left, part, table, networks)
      if own:
        found[part] = _adapters({name: left[key] for name, key in own.items()}, table, make)
        left = {key: one for key, one in left.items() if key not in own.values()}
        break
  if left:
    parts = ", ".join(networks)
    raise RestoreError(
      f"{path} is the adapter of another model: {some(left)} {'is' if len(left) == 1 else 'are'} "
      f"no layer of {parts} here."
    )
  return found


def _named(
  left: Mapping[str, Matrices], part: str, table: Table, networks: Mapping[str, Network]
) -> dict[str, str]:
  """Layers of a table -> their names in the file."""
  found = {}
  flat = {name.replace(".", "_"): name for name in table.pieces}
  prefixes = BACKBONE_PREFIXES if part == BACKBONE else (f"{part}.",)
  kohya = {f"{kohya_prefix(part, networks)}_", f"{kohya_prefix(part, (part,))}_"}
  for key in left:
    for prefix in prefixes:
      name = _layer(key.removeprefix(prefix), table) if key.startswith(prefix) else None
      if name is not None:
        found[name] = key
        break
    for prefix in kohya:
      if key.startswith(prefix) and key.removeprefix(prefix) in flat:
        found[flat[key.removeprefix(prefix)]] = key
  return found


def _layer(name: str, table: Table) -> str | None:
  """A layer's name in the table, which older files have without a prefix."""
  for one in (name, (table.spec.renamed(name + WEIGHT) or "").removesuffix(WEIGHT)):
    if one in table.pieces:
      return one
  return None


class _Block(NamedTuple):
  """What one published layer adds to one layer of our kernel.

  a  [*inputs, rank];   b [rank, *outputs], 0 outside of `slot` or of the region that it fills
  """

  source: str  # the layer's name with {i}, by which ranks of all layers are laid out
  a: np.ndarray
  b: np.ndarray
  slot: int | None
  scale: float
  magnitude: np.ndarray | None  # of the outputs of its region


def _adapters(layers: Mapping[str, Matrices], table: Table, make: Any) -> Adapters:
  """Our adapters of published layers, by the path of our projection."""
  there = projections(make)
  blocks: dict[str, dict[int, list[_Block]]] = {}
  for name, matrices in layers.items():
    shape = table.shapes[name][:2]
    if (matrices.up.shape[0], matrices.down.shape[1]) != shape:
      raise RestoreError(
        f"{name}: {matrices.up.shape} x {matrices.down.shape} is not the layer's {shape} here: it "
        "is the adapter of another model."
      )
    for piece in table.pieces[name]:
      path = piece.entry.path.removesuffix(KERNEL)
      shape = piece.entry.layer_shape(table.own[piece.entry.path])
      block = _block(matrices, piece.part, shape, there[path])
      blocks.setdefault(path, {}).setdefault(piece.layer, []).append(block)
  return {path: _stacked(own, there[path]) for path, own in sorted(blocks.items())}


def _axes(part: Part, inputs: int) -> tuple[str, str, str, str]:
  """Of the pattern of a weight: published inputs, ours, published outputs, ours."""
  sides = parse(part.pattern)
  group = lambda factors: f"({' '.join(factors)})" if factors else "1"
  out, into = sides.source[:2]
  ours = [group(factors) for factors in sides.target]
  return group(into), " ".join(ours[:inputs]), group(out), " ".join(ours[inputs:])


def _block(m: Matrices, part: Part, shape: Shape, to: Projection) -> _Block:
  into, inputs, out, outputs = _axes(part, to.inputs)
  sizes = axis_sizes(part, shape)
  down, up, magnitude = m.down, m.up, m.magnitude
  if part.source is not None:
    axis, start, stop = part.source
    if axis == 0:
      up = up[start:stop]
      magnitude = None if magnitude is None else magnitude[start:stop]
    elif magnitude is None:
      down = down[:, start:stop]
    else:
      raise RestoreError(
        f"{part.name}: this layer is two here, and its magnitudes are those of both: a DoRA of it "
        "is not supported."
      )
  a = einops.rearrange(down, f"r {into} -> {inputs} r", **_used(sizes, into))
  b = einops.rearrange(up, f"{out} r -> r {outputs}", **_used(sizes, out))
  if magnitude is not None:
    magnitude = einops.rearrange(magnitude, f"{out} -> {outputs}", **_used(sizes, out))
  slot, outer = None, shape[to.inputs :]
  if part.target is not None:
    axis, start, stop = part.target
    at = axis - to.inputs
    region = (slice(None),) * at + (slice(start, stop),)
    whole = np.zeros((b.shape[0], *outer), np.float32)
    whole[(slice(None), *region)] = b
    b = whole
    if magnitude is not None:
      filled = np.full(outer, np.nan, np.float32)
      filled[region] = magnitude
      magnitude = filled
    slot = start if at == 0 and stop == start + 1 else None
  return _Block(part.name, a, b, slot, m.scale, magnitude)


def _used(sizes: Mapping[str, int], text: str) -> dict[str, int]:
  names = set(text.replace("(", " ").replace(")", " ").split())
  return {name: size for name, size in sizes.items() if name in names}


def _stacked(own: Mapping[int, list[_Block]], to: Projection) -> Adapter:
  """One adapter of all layers of a projection; of a layer without matrices it is 0."""
  every = [block for blocks in own.values() for block in blocks]
  scales = {block.scale for block in every}
  scale = scales.pop() if len(scales) == 1 else 1.0
  factor = lambda block: block.b * np.float32(block.scale / scale)
  slots = to.slots and all(block.slot is not None for block in every)
  counts = to.shape[0] if to.stacked else 1
  rest = to.shape[to.stacked :]
  inputs, outputs = rest[: to.inputs], rest[to.inputs :]
  if slots:
    rank = max(block.a.shape[-1] for block in every)
    a = np.zeros((counts, *inputs, outputs[0], rank), np.float32)
    b = np.zeros((counts, outputs[0], rank, *outputs[1:]), np.float32)
    for layer, blocks in own.items():
      for block in blocks:
        r = block.a.shape[-1]
        a[layer, ..., block.slot, :r] = block.a
        b[layer, block.slot, :r] = factor(block)[:, block.slot]
  else:
    widths: dict[str, int] = {}
    for block in every:
      widths[block.source] = max(widths.get(block.source, 0), block.a.shape[-1])
    starts = dict(zip(widths, np.cumsum([0, *widths.values()]), strict=False))
    rank = sum(widths.values())
    a = np.zeros((counts, *inputs, rank), np.float32)
    b = np.zeros((counts, rank, *outputs), np.float32)
    for layer, blocks in own.items():
      for block in blocks:
        at = slice(starts[block.source], starts[block.source] + block.a.shape[-1])
        a[layer][..., at] = block.a
        b[layer][at] += factor(block)  # regions of one layer's outputs
  magnitude = None
  if any(block.magnitude is not None for block in every):
    magnitude = np.full((counts, *outputs), np.nan, np.float32)
    for layer, blocks in own.items():
      for block in blocks:
        if block.magnitude is not None:
          given = ~np.isnan(block.magnitude)
          magnitude[layer][given] = block.magnitude[given]
  array = lambda x: jnp.asarray(x if to.stacked else x[0])
  m = None if magnitude is None else array(magnitude)
  return Adapter(array(a), array(b), scale, m, slots)


def matrices_of(adapters: Adapters, config: Any) -> dict[str, Matrices]:
  """The matrices of published layers that adapters are, by the layer's name.

  Raises ConfigError for a model without a published layout.
  """
  table = table_of(spec_for(config), config)
  found = {}
  for name, pieces in table.pieces.items():
    own = [p for p in pieces if p.entry.path.removesuffix(KERNEL) in adapters]
    if own:
      shape = table.shapes[name]
      parts = [_taken(adapters[p.entry.path.removesuffix(KERNEL)], p, table) for p in own]
      joined = _joined(parts, shape[:2])._replace(ones=len(shape) - 2)
      if joined.rank:
        found[name] = joined
  return found


def _taken(adapter: Adapter, piece: Piece, table: Table) -> tuple[Any, ...]:
  """down and up of a piece, and the regions of the published matrices that they fill."""
  part, entry = piece.part, piece.entry
  shape = entry.layer_shape(table.own[entry.path])
  a, b = (np.asarray(x, np.float32) for x in (adapter.a, adapter.b))
  if entry.stacked:
    a, b = a[piece.layer], b[piece.layer]
  inputs = a.ndim - 1 - adapter.slots
  if adapter.slots:
    assert part.target is not None
    _, slot, _ = part.target
    a, b = a[..., slot, :], b[slot][:, None]
  elif part.target is not None:
    axis, start, stop = part.target
    b = b[(slice(None),) * (1 + axis - inputs) + (slice(start, stop),)]
  into, ours, out, outputs = _axes(part, inputs)
  sizes = axis_sizes(part, shape)
  down = einops.rearrange(a, f"{ours} r -> r {into}", **_used(sizes, ours))
  up = einops.rearrange(b, f"r {outputs} -> {out} r", **_used(sizes, outputs))
  used = np.any(down != 0, axis=1)  # other ranks are those of other layers of the stack
  if part.target is not None and not adapter.slots:
    used &= np.any(up != 0, axis=0)  # or of the other published layers of this kernel
  return down[used], up[:, used], part.source, adapter.scale


def _joined(parts: Sequence[tuple[Any, ...]], shape: Shape) -> Matrices:
  """One layer's matrices of those of its regions: side by side in the rank, unless all share one
  of the two."""
  downs, ups, scales = [], [], []
  for down, up, source, scale in parts:
    whole_down = np.zeros((down.shape[0], shape[1]), np.float32)
    whole_up = np.zeros((shape[0], up.shape[1]), np.float32)
    rows = cols = slice(None)
    if source is not None:
      axis, start, stop = source
      rows, cols = (slice(start, stop), cols) if axis == 0 else (rows, slice(start, stop))
    whole_down[:, cols], whole_up[rows] = down, up
    downs.append(whole_down)
    ups.append(whole_up)
    scales.append(scale)
  if all(s == scales[0] for s in scales):
    if all(np.array_equal(downs[0], down) for down in downs):
      return Matrices(downs[0], sum(ups[1:], ups[0]), scales[0])
    if all(np.array_equal(ups[0], up) for up in ups):
      return Matrices(sum(downs[1:], downs[0]), ups[0], scales[0])
    return Matrices(np.concatenate(downs), np.concatenate(ups, 1), scales[0])
  scaled = [up * np.float32(s) for up, s in zip(ups, scales, strict=True)]
  return Matrices(np.concatenate(downs), np.concatenate(scaled, 1), 1.0)
