"""What the 7B joint model's train step needs of 512 TPUs that are not here: docs/joint_on_tpu.md.

python -m benchmarks.joint_on_tpu [--to docs]

Compiles the step that `t2i train --config=configs/transfusion.py:7B` runs, by each attention, and
reads the program. Needs the package libtpu and no TPU; minutes each. Nothing is allocated or run,
so there is no step time.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks.pages import made_by, table, write
from t2i_jax.config import load_config
from t2i_jax.parallel import mesh_of
from t2i_jax.plan.pod import GIB, compile_train_step, topology_devices, total_bytes
from t2i_jax.plan.program import Program

CONFIG, TOPOLOGY = "configs/transfusion.py:7B", "v5p:8x8x8"
ROWS = (("chunked", "full"), ("splash", "full"), ("splash", "attention"))  # attention, remat
KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


def measured(attention: str, remat: str) -> dict[str, Any]:
  """Memory and bytes of one chip, in GiB."""
  config = load_config(CONFIG, {"model.attention": attention, "model.remat": remat})
  mesh = mesh_of(config.mesh, topology_devices(TOPOLOGY))
  start = time.time()
  compiled, state, batch = compile_train_step(config, mesh)
  memory, program = compiled.memory_analysis(), Program(compiled.as_text())
  return {
    "mesh": dict(mesh.shape),
    "parameters": total_bytes(state.ema) // 4,
    "rows": batch.rows.tokens.shape,
    "peak": memory.peak_memory_in_bytes / GIB,
    "arguments": memory.argument_size_in_bytes / GIB,
    "traffic": program.traffic().bytes / GIB,
    "sent": program.sent(),
    "seconds": time.time() - start,
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--to", default="docs")
  args = parser.parse_args()
  found = [measured(*row) for row in ROWS]
  first = found[0]
  rows, length = first["rows"]
  lines = [["", *(f"{attention}, remat {remat}" for attention, remat in ROWS)]]
  lines.append(["peak a chip, GiB", *(f"{one['peak']:.2f}" for one in found)])
  lines.append(["arguments a chip, GiB", *(f"{one['arguments']:.2f}" for one in found)])
  lines.append(["HBM traffic of a step, estimated, GiB", *(f"{o['traffic']:.0f}" for o in found)])
  for kind in KINDS:
    sent = [one["sent"].get(kind) for one in found]
    cells = [f"{s.static} / {s.run} / {s.bytes / GIB:.2f}" if s else "none" for s in sent]
    lines.append([f"{kind}: static / run / GiB", *cells])
  lines.append(["lower and compile, s", *(f"{one['seconds']:.0f}" for one in found)])
  text = [
    "# The joint model of 7B on 512 chips",
    "",
    f"Made by `python -m benchmarks.joint_on_tpu` (jax {jax.__version__}): `{CONFIG}`,",
    f"{first['parameters']:,} parameters, {rows} rows of {length} positions a step",
    f"({rows * length / 2**20:.0f} Mi positions), for {TOPOLOGY}, mesh {first['mesh']}. No TPU was",
    "used: nothing was run. A collective in the layers' loop is one static and runs once a layer.",
    "",
    "`splash` is the fused kernel of jax.experimental.pallas.ops.tpu.splash_attention, given each",
    "row's documents and ends, and for each block of queries the blocks of keys to pass over.",
    "The estimate of traffic counts a kernel's operands once; it reads keys and values once for",
    "each of its blocks of queries that sees them.",
    "",
    table(lines[0], lines[1:]),
  ]
  line = made_by(
    "python -m benchmarks.joint_on_tpu", "benchmarks/joint_on_tpu.py", "configs/transfusion.py"
  )
  write(Path(args.to, "joint_on_tpu.md"), "\n".join(text), line)
  print("\n".join(text))


if __name__ == "__main__":
  main()
