"""Programs of SDXL for TPUs that are not here: docs/sdxl_on_tpu.md.

python -m benchmarks.finetune_on_tpu --rows='SDXL.*'
python -m benchmarks.pipelines_on_tpu --rows=SDXL
python -m benchmarks.sdxl_on_tpu [--rows=block]

The first two compile and record, a row at a time, and take long. The third writes the page of what
is recorded, in seconds; with --rows=block it first compiles a residual block, a minute of CPU.
Needs the package libtpu and no TPU. Nothing is allocated or run, so there is no step time.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import finetune_on_tpu, pipelines_on_tpu
from benchmarks.pages import made_by, table, write
from benchmarks.published_folders import SDXL
from t2i_jax.models.convolution import GroupNorm, ResBlock
from t2i_jax.models.params import abstract_of, with_params
from t2i_jax.models.unet import RES_EPS
from t2i_jax.parallel import compiler_options, make_mesh
from t2i_jax.plan import Program, memory_of
from t2i_jax.plan.describe import GIB
from t2i_jax.plan.pod import topology_devices

ROOT = Path(__file__).parents[1]
TEXT, PAGE = ROOT / "benchmarks/sdxl_on_tpu.md", ROOT / "docs/sdxl_on_tpu.md"
SOURCES = ("benchmarks/sdxl_on_tpu.py", "benchmarks/sdxl_on_tpu.md", "configs/finetune.py")
SAMPLED = next(model for model in pipelines_on_tpu.MODELS if model.name == "SDXL")
KINDS = ("all-gather", "reduce-scatter", "all-reduce")

BLOCK = "SDXL residual block v5p"
IMAGES, SIDE = 4, 128  # on the chip; of the first level


def block() -> dict[str, dict[str, float]]:
  """Value and gradient of a residual block of the first level, with the compiler's default and with
  our options: bytes, and cycles by the compiler's own estimate; of one chip."""
  c = SDXL.parts["unet"]
  width, norm = c.widths[0], partial(GroupNorm, groups=c.groups, eps=RES_EPS)
  make = lambda rngs: ResBlock(rngs, width, width, norm, c.vector_width)
  mesh = make_mesh(devices=topology_devices("v5p:2x2x1")[:1])
  of = partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16, sharding=jax.NamedSharding(mesh, jax.P()))
  params = jax.tree.map(lambda leaf: of(leaf.shape, dtype=leaf.dtype), abstract_of(make))
  x, vector = of((IMAGES, SIDE, SIDE, width)), of((IMAGES, c.vector_width))

  def both(params: Any, x: jax.Array, vector: jax.Array, slope: jax.Array) -> Any:
    y, pull = jax.vjp(lambda *args: with_params(make)(args[0])(*args[1:]), params, x, vector)
    return y, pull(slope)

  found = {}
  for name, options in (("default", {}), ("ours", compiler_options(mesh))):
    compiled = jax.jit(both, compiler_options=options).lower(params, x, vector, x).compile()
    program = Program(compiled.as_text())
    found[name] = {
      "traffic": program.traffic().bytes,
      "temporary": memory_of(compiled).temporary,
      "cycles": sum(times * _cycles(op) for _, times, ops in program.executed for op in ops),
    }
  return found


def _cycles(op: Any) -> int:
  return int(op.attribute(r'"estimated_cycles":"(\d+)"') or 0)


def steps(found: dict[str, Any]) -> str:
  """The table of train steps, of the rows that were compiled."""
  rows = [row for row in finetune_on_tpu.SDXL_ROWS if row.name in found]
  if not rows:
    return "No program is recorded: one had not been compiled after a quarter of an hour of a core."
  head = "data|slice, mesh (data x fsdp)|remat|peak, GiB|arguments|temporary"
  sent = [f"{kind}: run / GiB" for kind in KINDS]
  lines = []
  for row in rows:
    one = found[row.name]
    where = [row.data, f"{row.topology}, {row.mesh[0]} x {row.mesh[1]}", row.remat]
    memory = [f"{one[key]:.2f}" for key in ("peak", "arguments", "temporary")]
    each = [f"{one['run'].get(kind, 0)} / {one['sent'].get(kind, 0.0):.1f}" for kind in KINDS]
    lines.append([*where, *memory, *each, f"{one['traffic']:.0f}", f"{one['compile_cpu']:.0f}"])
  return table([*head.split("|"), *sent, "HBM traffic, GiB", "compile, s of CPU"], lines)


def sampler(found: dict[str, Any]) -> str:
  """The table of the sampler's programs, and what bounds their time."""
  if SAMPLED.name not in found:
    return "No program is recorded: one had not been compiled after a quarter of an hour of a core."
  one = found[SAMPLED.name]
  bounds = [max(pipelines_on_tpu.bounds(SAMPLED, each)) for each in one["programs"].values()]
  rows = table(pipelines_on_tpu.HEAD, pipelines_on_tpu.lines(SAMPLED, one))
  return f"{rows}\n\nThe larger bound of each, added: {sum(bounds):.2f} s."


def page(found: dict[str, Any], sampled: dict[str, Any]) -> str:
  lines = [
    [
      "the compiler's default" if name == "default" else "without space-to-batch",
      f"{one['traffic'] / GIB:.2f}",
      f"{one['temporary'] / GIB:.2f}",
      f"{one['cycles'] / 1e6:.1f}",
    ]
    for name, one in found[BLOCK].items()
  ]
  head = ["", "HBM traffic, GiB", "temporary, GiB", "cycles by the compiler's estimate, million"]
  text = TEXT.read_text().replace("{block}", table(head, lines)).replace("{steps}", steps(found))
  return text.replace("{sampler}", sampler(sampled)).replace("{published}", SAMPLED.published)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rows", choices=["block"], help="what to compile and record")
  args = parser.parse_args()
  if args.rows:
    found = json.loads(finetune_on_tpu.FOUND.read_text()) | {BLOCK: block()}
    finetune_on_tpu.FOUND.write_text(json.dumps(found, indent=1) + "\n")
  recorded = (json.loads(of.FOUND.read_text()) for of in (finetune_on_tpu, pipelines_on_tpu))
  write(PAGE, page(*recorded), made_by("python -m benchmarks.sdxl_on_tpu", *SOURCES))


if __name__ == "__main__":
  main()
