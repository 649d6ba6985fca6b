"""What is read of programs: texts as the TPU compiler writes them, and one compiled here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from t2i_jax.plan.hlo import shape_bytes
from t2i_jax.plan.program import Program, memory_of

# What a TPU program looks like: attributes with line breaks, a loop of 5 whose reduce-scatter is a
# fusion, a slice of a stack, a result written into a stack, one array in VMEM.
HLO = """HloModule jit_step, is_scheduled=true

%all-reduce-scatter.1 (input: bf16[64,128]) -> bf16[16,128] {
  %input = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.9 = bf16[64,128]{1,0:T(8,128)(2,1)} all-reduce(%input), channel_id=4, to_apply=%add
  ROOT %slice.9 = bf16[16,128]{1,0:T(8,128)(2,1)} slice(%all-reduce.9), slice={[0:16], [0:128]}
}

%fused_slice (param_0: bf16[5,64,128], param_1: s32[]) -> bf16[64,128] {
  %param_0 = bf16[5,64,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %param_1 = s32[]{:T(128)} parameter(1)
  %ds = bf16[1,64,128]{2,1,0:T(8,128)(2,1)} dynamic-slice(%param_0, %param_1)
  ROOT %out = bf16[64,128]{1,0:T(8,128)(2,1)} bitcast(%ds)
}

%fused_update (param_0: bf16[5,64,128], param_1: bf16[64,128]) -> bf16[5,64,128] {
  %param_0 = bf16[5,64,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %param_1 = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(1)
  %new = bf16[1,64,128]{2,1,0:T(8,128)(2,1)} bitcast(%param_1)
  ROOT %dus = bf16[5,64,128]{2,1,0:T(8,128)(2,1)} dynamic-update-slice(%param_0, %new, %param_1)
}

%body (p: (s32[], bf16[5,64,128], bf16[5,64,128])) -> (s32[], bf16[5,64,128], bf16[5,64,128]) {
  %p = (s32[]{:T(128)}, bf16[5,64,128]{2,1,0}, bf16[5,64,128]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %w = bf16[5,64,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %one = bf16[64,128]{1,0:T(8,128)(2,1)} fusion(%w, %i), kind=kLoop, calls=%fused_slice
  %ag = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} all-gather(%one), channel_id=3, dimensions={0}
  %splash_mha_fwd.1 = bf16[64,128]{1,0:T(8,128)(2,1)} custom-call(%ag, %one), frontend_attributes={kernel_metadata={
"a": {"b": 1
}}, metadata={op_name="jit(step)/while/body/kernel"}
  %rs = bf16[16,128]{1,0:T(8,128)(2,1)} fusion(%splash_mha_fwd.1), kind=kCustom, calls=%all-reduce-scatter.1
  %acc = bf16[5,64,128]{2,1,0:T(8,128)(2,1)} fusion(%w, %splash_mha_fwd.1), kind=kLoop, calls=%fused_update
  ROOT %t = (s32[]{:T(128)}, bf16[5,64,128]{2,1,0}, bf16[5,64,128]{2,1,0}) tuple(%i, %w, %acc)
}

%condition (p: (s32[], bf16[5,64,128], bf16[5,64,128])) -> pred[] {
  %p.1 = (s32[]{:T(128)}, bf16[5,64,128]{2,1,0}, bf16[5,64,128]{2,1,0}) parameter(0)
  %n = s32[]{:T(128)} constant(5)
  %j = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%j, %n), direction=LT
}

ENTRY %main (x: bf16[5,64,128]) -> f32[8,128] {
  %x = bf16[5,64,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %start = (s32[]{:T(128)}, bf16[5,64,128]{2,1,0}, bf16[5,64,128]{2,1,0}) tuple(%x)
  %loop = (s32[]{:T(128)}, bf16[5,64,128]{2,1,0}, /*index=2*/bf16[5,64,128]{2,1,0}) while(%start), condition=%condition, body=%body, metadata={op_name="jit(step)/while"}
  %ar = f32[8,128]{1,0:T(8,128)} all-reduce(%x), channel_id=7, to_apply=%add
  ROOT %copy = f32[8,128]{1,0:T(8,128)} copy(%ar)
}
"""  # noqa: E501

# What counts once: clones of one reduce-scatter, an asynchronous operation in pieces. What counts
# twice: copies that an unrolled loop left, and what the compiler made late, all on channel 1.
CLONED = """
%all-reduce-scatter.5.clone.1 (input: bf16[64,16]) -> bf16[64,1] {
  %all-reduce.3 = bf16[64,16]{0,1} all-reduce(%pad), channel_id=38, to_apply=%add
}

%all-reduce-scatter.5.clone (input: bf16[64,16]) -> bf16[64,1] {
  %all-reduce.2 = bf16[64,16]{0,1} all-reduce(%pad), channel_id=38, to_apply=%add
}

%piece.1 (p: bf16[4,16]) -> bf16[64,16] {
  %all-gather.1 = bf16[64,16]{1,0} all-gather(%p), channel_id=7, dimensions={0}
}

ENTRY %main (p: bf16[4,16]) -> bf16[64,16] {
  %rs.1 = bf16[64,1] fusion(%p), kind=kCustom, calls=%all-reduce-scatter.5.clone
  %rs.2 = bf16[64,1] fusion(%p), kind=kCustom, calls=%all-reduce-scatter.5.clone.1
  %piece = bf16[64,16] fusion(%p), kind=kCustom, calls=%piece.1
  %all-gather.2 = bf16[64,16]{1,0:S(1)} all-gather(%p), channel_id=7, dimensions={0}
  %all-gather.3 = bf16[32,16]{1,0} all-gather(%q), channel_id=8, dimensions={0}
  %all-reduce.9 = (f32[], f32[8]{0}) all-reduce(%a, %b), channel_id=9, to_apply=%add
  %all-reduce.10 = (f32[], f32[8]{0}) all-reduce(%c, %d), channel_id=9, to_apply=%add
  %collective-permute-start.2 = (f32[4], f32[4]) collective-permute-start(%b), channel_id=1
  %collective-permute-start.1 = (f32[8], f32[8]) collective-permute-start(%a), channel_id=1
  %done = f32[8] collective-permute-done(%collective-permute-start.1)
}
"""

ONE = 64 * 128 * 2  # bytes of a layer
SMALL = 8 * 128 * 4


def test_loops_have_their_trips():
  (loop,) = Program(HLO).loops
  assert (loop.times, loop.source) == (5, "jit(step)/while")


@pytest.mark.newest
def test_collectives_inside_loops_and_fusions():
  sent = Program(HLO).sent()
  found = {kind: (s.static, s.run, s.bytes, s.in_loops) for kind, s in sent.items()}
  assert found == {
    "all-gather": (1, 5, 5 * ONE, 1),
    "reduce-scatter": (1, 5, 5 * ONE, 1),
    "all-reduce": (1, 1, SMALL, 0),
  }


def test_collectives_are_counted_once_each():
  counts = {"all-gather": 2, "all-reduce": 2, "reduce-scatter": 1, "collective-permute": 2}
  assert Program(CLONED).collectives() == counts


@pytest.mark.skipif(jax.device_count() < 4, reason="needs 4 devices")
def test_a_program_compiled_here_is_what_it_was_written_as():
  """Six layers, each gathered in a scan; their sum reduced once; memory as arrays have it."""
  layers, width, rows, n = 6, 64, 8, 4
  mesh = Mesh(np.array(jax.devices()[:n]), ("fsdp",), axis_types=(AxisType.Auto,))

  def local(x, stack):
    def layer(x, shard):
      return jnp.tanh(x @ jax.lax.all_gather(shard, "fsdp", tiled=True)), None

    return jax.lax.psum(jax.lax.scan(layer, x, stack)[0].sum(), "fsdp")

  specs = (P("fsdp"), P(None, "fsdp"))
  step = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)
  shapes = ((rows, width), (layers, width, width))
  args = [
    jax.ShapeDtypeStruct(shape, jnp.float32, sharding=jax.NamedSharding(mesh, spec))
    for shape, spec in zip(shapes, specs, strict=True)
  ]
  compiled = jax.jit(step).lower(*args).compile()
  program = Program(compiled.as_text())
  assert [loop.times for loop in program.loops] == [layers]
  found = {kind: (s.static, s.run, s.bytes, s.in_loops) for kind, s in program.sent().items()}
  gathered = layers * width * width * 4
  assert found == {"all-gather": (1, layers, gathered, 1), "all-reduce": (1, 1, 4, 0)}
  assert program.collectives() == {"all-gather": 1, "all-reduce": 1}
  memory = memory_of(compiled)
  assert memory.arguments == (rows * width + layers * width * width) * 4 // n
  assert memory.temporary >= width * width * 4  # a layer, gathered
  assert memory.peak >= memory.arguments


def test_instructions_are_counted():
  program = Program(HLO)
  assert program.count("custom-call", "splash_mha_fwd") == (1, 5)
  assert program.count("fusion") == (3, 15)


def test_traffic_counts_slices_updates_and_no_vmem():
  traffic = Program(HLO).traffic()
  # Slice: read and written. Gather: read, its result is in VMEM. Kernel: one operand in HBM, one
  # result. Reduce-scatter: read, a quarter written. Update: read, written.
  body = (2 + 1 + 2 + 1.25 + 2) * ONE + 4  # and the loop's counter
  # The all-reduce reads a whole stack here.
  assert traffic.by_loop == {"body": 5 * body, "": 5 * ONE + SMALL + 2 * SMALL}
  assert traffic.bytes == sum(traffic.by_loop.values())


@pytest.mark.parametrize(
  "shape, size",
  [
    ("bf16[2,3]{1,0}", 12),
    ("f32[]", 4),
    ("s8[4]{0}", 4),
    ("(f32[8]{0}, pred[3]{0})", 35),
    ("bf16[10,64]{1,0:T(8,128)(2,1)}", 16 * 128 * 2),  # whole tiles
    ("bf16[64,10]{0,1:T(8,128)(2,1)}", 16 * 128 * 2),
    ("bf16[8,128]{1,0:T(8,128)(2,1)S(1)}", 0),  # VMEM
  ],
)
def test_bytes_of_a_shape(shape, size):
  assert shape_bytes(shape) == size
