"""The tables: every element of ours once, every tensor of theirs whole, any slice of it exactly."""

import einops
import jax
import numpy as np
import pytest
from tiny_published import AUTOENCODERS, CONFIGS, random_params

from t2i_jax.pretrained.known import SPECS, spec_for
from t2i_jax.pretrained.layout import runs, take
from t2i_jax.pretrained.names import Part, stored_shapes, tensors_of
from t2i_jax.pretrained.single_file import ORIGINALS
from t2i_jax.pretrained.spec import abstract_params, flat, read_config, shapes_of, write_config

ALL = CONFIGS | AUTOENCODERS
TABLES = {name: (name, spec_for(config)) for name, config in ALL.items()}
TABLES |= {
  f"{name}_original": (name, original.spec)
  for name, config in CONFIGS.items()
  for original in ORIGINALS
  if type(config) is original.spec.config
}


def test_every_class_has_a_tiny_config():
  assert {spec_for(config).hf_class for config in ALL.values()} == set(SPECS)


@pytest.mark.parametrize("name, spec", TABLES.values(), ids=TABLES)
def test_tables_fill_both_sides_once(name, spec):
  config = ALL[name]
  shapes, entries = shapes_of(abstract_params(spec.module, config)), spec.entries(config)
  assert sorted(entry.path for entry in entries) == sorted(shapes)
  theirs = stored_shapes(entries, shapes)
  left = {key: np.zeros(shape, int) for key, shape in theirs.items()}
  for entry in entries:
    shape = entry.layer_shape(shapes[entry.path])
    for number in range(entry.copies) if entry.copies else entry.layers(shapes[entry.path]):
      filled = np.zeros(shape, int)
      for part in entry.parts:
        tensor = left[part.name.format(i=number)]

        def read(slices, tensor=tensor):
          tensor[slices] += 1
          return np.ones_like(tensor[slices])

        where, values = take(part, shape, tuple((0, n) for n in shape), read)
        filled[where] += values
      assert (filled == 1).all(), entry.path
  # Of a class that cannot be written, not all is read.
  assert all((count <= 1).all() and count.any() for count in left.values())
  assert bool(spec.unwritten) or all((count == 1).all() for count in left.values())
  assert tensors_of(entries, shapes).keys() == theirs.keys()


@pytest.mark.parametrize("name", ALL)
def test_configs_come_back(name):
  config = ALL[name]
  spec = spec_for(config)
  assert read_config(spec, write_config(spec, config), "here") == config
  assert not (spec.keys.keys() & spec.fixed.keys()) | (spec.keys.keys() & spec.ignored.keys())
  assert spec.write(config).keys() == spec.keys.keys()


PARTS = {
  "heads": Part("w", "(n k) d -> d n k"),
  "turned": Part("w", "(n p two) d -> d n (two p)", {"two": 2}),
  "values": Part("w", "(n k) d -> d 1 n k", {}, (1, 1, 2)),
  "chunks": Part("w", "(s d) e -> e s d", {}, (1, 2, 5)),
  "gated": Part("w", "(two f) d -> d two f", {}, None, (0, 7, 7 + 2 * 6)),
  "columns": Part("w", "d (n k) -> n k d", {}, None, (1, 3, 3 + 4 * 6)),
  "conv": Part("w", "d c p q -> (p q c) d", {"p": 2, "q": 2}),
}
SHAPES = {
  "heads": (5, 4, 6), "turned": (5, 4, 6), "values": (5, 2, 4, 6), "chunks": (5, 6, 4),
  "gated": (5, 2, 6), "columns": (4, 6, 5), "conv": (12, 5),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_slices_are_those_of_the_whole(name):
  """Any slice is what the whole has there; whole factors apart, nothing more is read."""
  part, shape, rng = PARTS[name], SHAPES[name], np.random.default_rng(0)
  full, size = tuple((0, n) for n in shape), []
  tensor = rng.standard_normal((40,) * part.pattern.split("->")[0].count(" ")).astype(np.float32)
  if name in ("heads", "turned", "values", "chunks", "gated", "columns"):
    tensor = rng.standard_normal((60, 60)).astype(np.float32)
  if name == "conv":
    tensor = rng.standard_normal((5, 3, 2, 2)).astype(np.float32)

  def read(slices):
    size.append(tensor[slices].size)
    return tensor[slices]

  whole = np.full(shape, np.nan, np.float32)
  where, values = take(part, shape, full, read)
  whole[where] = values
  for _ in range(40):
    wanted = [tuple(sorted(rng.choice(n + 1, 2, replace=False))) for n in shape]
    got = np.full([b - a for a, b in wanted], np.nan, np.float32)
    size.clear()
    placed = take(part, shape, tuple(wanted), read)
    if placed is not None:
      got[placed[0]] = placed[1]
      if name in ("heads", "chunks", "gated", "columns", "values"):
        assert sum(size) == placed[1].size
    np.testing.assert_array_equal(got, whole[tuple(slice(*span) for span in wanted)])


def test_runs():
  sizes = {"a": 3, "b": 4, "c": 2}
  full = {name: (0, n) for name, n in sizes.items()}
  axis = ("a", "b", "c")
  assert runs(axis, sizes, full) == [(0, 24)]
  assert runs(axis, sizes, full | {"a": (1, 3)}) == [(8, 24)]
  assert runs(axis, sizes, full | {"b": (1, 3)}) == [(2, 6), (10, 14), (18, 22)]
  assert runs((), sizes, full) == [(0, 1)]


def test_turned_heads_score_as_interleaved_ones():
  """q k of rotated halves, reordered, is q k of rotated pairs."""
  rng = np.random.default_rng(0)
  q, k = rng.standard_normal((2, 3, 8))
  angle = rng.uniform(0, 6, (3, 4))
  pairs = lambda x: (x[:, ::2] + 1j * x[:, 1::2]) * np.exp(1j * angle)
  theirs = (pairs(q) * pairs(k).conj()).real.sum(-1)

  def halves(x):
    a, b = np.split(einops.rearrange(x, "b (p two) -> b (two p)", two=2), 2, axis=-1)
    return (a + 1j * b) * np.exp(1j * angle)

  np.testing.assert_allclose((halves(q) * halves(k).conj()).real.sum(-1), theirs, rtol=1e-12)


def test_paths_are_those_of_the_tree():
  config = CONFIGS["flux"]
  tree = random_params(config)
  assert (
    flat(tree)["double/image/heads/q/kernel"] is tree["double"]["image"]["heads"]["q"]["kernel"]
  )
  assert len(flat(tree)) == len(jax.tree.leaves(tree))
