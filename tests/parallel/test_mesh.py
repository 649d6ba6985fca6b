"""Meshes, and the rows that a process owns."""

import jax
import numpy as np
import pytest

from t2i_jax.errors import MeshError
from t2i_jax.parallel import MESH_AXES, batch_sharding, compiler_options, make_mesh, owned_rows

needs_eight = pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 devices")


@needs_eight
@pytest.mark.parametrize(
  "asked, got",
  [((-1, 1, 1), (8, 1, 1)), ((2, -1, 2), (2, 2, 2)), ((1, 4, -1), (1, 4, 2)), ((2, 2, 2),) * 2],
)
def test_minus_one_takes_what_is_left(asked, got):
  mesh = make_mesh(*asked)
  assert mesh.axis_names == MESH_AXES
  assert tuple(mesh.shape.values()) == (*got, 1, 1)
  assert len({device.id for device in mesh.devices.flat}) == 8


@needs_eight
@pytest.mark.parametrize(
  "asked, words",
  [
    ((3, 1, 1), ["data 3 x fsdp 1 x tensor 1", "needs 3 devices", "has 8"]),
    ((-1, 3, 1), ["8 devices are not a multiple of 3"]),
    ((-1, -1, 1), ["at most one"]),
    ((0, 8, 1), ["positive"]),
    ((-2, 1, 1), ["positive"]),
  ],
)
def test_a_mesh_that_does_not_fit_is_named_with_both_numbers(asked, words):
  with pytest.raises(MeshError) as error:
    make_mesh(*asked)
  assert all(word in str(error.value) for word in words), error.value


@needs_eight
def test_sequences_and_experts_have_an_axis_of_their_own():
  mesh = make_mesh(2, context=-1, expert=2)
  assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "tensor": 1, "context": 2, "expert": 2}


@needs_eight
@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1), (1, 1, 8), (1, 2, 1, 2, 2)])
def test_one_process_owns_every_row(sizes):
  mesh = make_mesh(*sizes)
  assert owned_rows(mesh, 16).tolist() == list(range(16))


@pytest.mark.newest
@needs_eight
def test_rows_lie_over_data_and_fsdp_and_repeat_over_tensor():
  mesh = make_mesh(2, 2, 2)
  x = jax.device_put(np.arange(8), batch_sharding(mesh))
  held = {s.device.id: s.data.tolist() for s in x.addressable_shards}
  for d in range(2):
    for f in range(2):
      want = [4 * d + 2 * f, 4 * d + 2 * f + 1]
      assert [held[device.id] for device in mesh.devices[d, f].flat] == [want, want]


@needs_eight
def test_a_batch_that_does_not_divide_is_named_with_the_nearest_that_does():
  mesh = make_mesh(2, 4, 1)
  with pytest.raises(MeshError, match=r"batch 30 .* 2 x 4 = 8\. Use 32"):
    owned_rows(mesh, 30)
  with pytest.raises(MeshError, match=r"Use 8\."):
    owned_rows(mesh, 3)


def test_a_torus_that_must_be_split_is_split():
  """A v5p slice of 8 x 8 x 4 chips holds a 16 x 16 mesh, though no axis of it has 16 chips."""

  class Chip:
    platform, device_kind, process_index, core_on_chip, slice_index = "tpu", "TPU v5", 0, 0, 0

    def __init__(self, id: int):
      self.id, self.coords = id, (id % 8, id // 8 % 8, id // 64)

    def __repr__(self):
      return f"chip {self.id}"

  mesh = make_mesh(16, -1, devices=[Chip(i) for i in range(256)])
  assert mesh.devices.shape == (16, 16, 1, 1, 1)
  assert sorted(chip.id for chip in mesh.devices.flat) == list(range(256))


def test_options_of_the_tpu_compiler_are_for_tpus_alone():
  assert compiler_options(make_mesh()) == {}
