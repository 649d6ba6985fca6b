"""The table from logical axes to the mesh."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from t2i_jax.errors import MeshError
from t2i_jax.parallel import (
  RULES,
  check_divides,
  constrain,
  make_mesh,
  overridden,
  shardings,
  spec,
)

needs_eight = pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 devices")


@pytest.mark.parametrize(
  "axes, want",
  [
    (("embed", "mlp"), P("fsdp", "tensor")),
    (("layers", "embed", None, "kv_heads", "head_dim"), P(None, "fsdp", None, "tensor", None)),
    (("batch", "sequence", None), P(("data", "fsdp"), "context", None)),
    (P("vocab", "embed"), P("tensor", "fsdp")),
    ((), P()),
  ],
)
def test_spec(axes, want):
  assert spec(axes) == want


@pytest.mark.parametrize("axes", [("embed", "embed"), ("mlp", "heads"), ("batch", "embed")])
def test_two_dimensions_on_one_mesh_axis_are_refused(axes):
  with pytest.raises(MeshError, match="two dimensions to one mesh axis"):
    spec(axes)


def test_every_rule_names_a_mesh_axis():
  named = [m for rule in RULES.values() for m in ([rule] if isinstance(rule, str) else rule or [])]
  assert set(named) == {"data", "fsdp", "tensor", "context", "expert"}


@needs_eight
def test_check_divides_names_the_weight_the_size_and_the_axis():
  mesh = make_mesh(1, 4, 2)
  shapes = {"a": {"q": jax.ShapeDtypeStruct((8, 6, 4), jnp.float32)}}
  axes = {"a": {"q": P("embed", "heads", "head_dim")}}
  check_divides(shapes, axes, mesh)
  shapes["a"]["q"] = jax.ShapeDtypeStruct((8, 5, 4), jnp.float32)
  with pytest.raises(MeshError, match=r"a/q has heads = 5, which mesh\.tensor = 2"):
    check_divides(shapes, axes, mesh)
  shapes["a"]["q"] = jax.ShapeDtypeStruct((6, 6, 4), jnp.float32)
  with pytest.raises(MeshError, match=r"a/q has embed = 6, which mesh\.fsdp = 4"):
    check_divides(shapes, axes, mesh)


@pytest.mark.newest
@needs_eight
def test_shardings_split_an_array_as_the_table_says():
  mesh = make_mesh(1, 4, 2)
  where = shardings({"w": P("embed", "mlp")}, mesh)["w"]
  assert where.shard_shape((8, 6)) == (2, 3)


@needs_eight
def test_constrain_pins_to_the_mesh_in_scope_and_is_nothing_without_one():
  x = jnp.zeros((8, 4))
  assert constrain(x, "batch", None) is x
  mesh = make_mesh(2, 4, 1)
  with jax.set_mesh(mesh):
    y = jax.jit(lambda x: constrain(x + 1, "batch", None))(x)
  assert y.sharding.shard_shape(y.shape) == (1, 4)


@needs_eight
def test_rules_of_a_config_change_where_a_weight_lies_and_only_in_their_scope():
  mesh, axes = make_mesh(2, 2, 2), {"w": P("embed", "mlp"), "x": P("batch", "sequence")}
  local = lambda: {k: s.shard_shape((8, 8)) for k, s in shardings(axes, mesh).items()}
  assert local() == {"w": (4, 4), "x": (2, 8)}
  with overridden(("embed=data+fsdp", "mlp=")):
    assert local() == {"w": (2, 8), "x": (2, 8)}
    shapes = {"w": jax.ShapeDtypeStruct((6, 8), jnp.float32), "x": jnp.zeros((8, 8))}
    with pytest.raises(MeshError, match=r"w has embed = 6, which mesh"):
      check_divides(shapes, axes, mesh)
    with overridden(("sequence=tensor",)):  # in place of the others, not besides them
      assert local() == {"w": (4, 4), "x": (2, 4)}
  check_divides(shapes, axes, mesh)
  assert local() == {"w": (4, 4), "x": (2, 8)}


@pytest.mark.parametrize("text, said", [
  ("embed=fsdpp", "'embed=fsdpp'.*Mesh axes are data, fsdp"),
  ("embd=fsdp", "nearest logical axis is embed"),
  ("embed", "write 'axis=mesh axes"),
])  # fmt: skip
def test_rules_that_name_no_axis_are_refused(text, said):
  with pytest.raises(MeshError, match=said), overridden((text,)):
    pass


def test_rules_that_put_two_dimensions_on_one_axis_are_refused():
  with overridden(("mlp=fsdp",)), pytest.raises(MeshError, match="two dimensions to one mesh axis"):
    spec(("embed", "mlp"))
