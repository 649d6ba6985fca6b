"""What the 7B joint model's train step needs of 512 TPUs that are not here: docs/joint_on_tpu.md.

python -m benchmarks.joint_on_tpu [--to docs]

Compiles the step that `t2i train --config=configs/transfusion.py:7B` runs, by each attention, and
reads the program; of two layers first, to hold it against what the page says of the kernel: a
figure that is off ends it and is named. Needs the package libtpu and no TPU; minutes each. Nothing
is allocated or run, so there is no step time.
"""

import argparse
import re
import sys
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks.pages import made_by, table, write
from t2i_jax.config import load_config
from t2i_jax.models.implementations import CHUNK
from t2i_jax.parallel import make_mesh, mesh_of
from t2i_jax.plan import Program, memory_of
from t2i_jax.plan.describe import GIB
from t2i_jax.plan.pod import compile_train_step, topology_devices, total_bytes

CONFIG, TOPOLOGY = "configs/transfusion.py:7B", "v5p:8x8x8"
ROWS = (("chunked", "full"), ("splash", "full"), ("splash", "attention"))  # attention, remat
LENGTH = 4096  # of a row
# Two layers, for four chips.
SMALL = {"model.width": "512", "model.depth": "2", "model.heads": "4", "text.vocab": "1024"}
SMALL |= {"train.batch": "4", "mesh.fsdp": "4", "model.attention": "splash"}
KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


def measured(attention: str, remat: str) -> dict[str, Any]:
  """Memory and bytes of one chip, in GiB."""
  config = load_config(CONFIG, {"model.attention": attention, "model.remat": remat})
  mesh = mesh_of(config.mesh, topology_devices(TOPOLOGY))
  start = time.time()
  compiled, state, batch = compile_train_step(config, mesh)
  memory, program = memory_of(compiled), Program(compiled.as_text())
  return {
    "mesh": dict(mesh.shape),
    "parameters": total_bytes(state.ema) // 4,
    "rows": batch.rows.tokens.shape,
    "peak": memory.peak / GIB,
    "arguments": memory.arguments / GIB,
    "traffic": program.traffic().bytes / GIB,
    "sent": program.sent(),
    "seconds": time.time() - start,
  }


def small_text() -> str:
  """The program of two layers with the kernel."""
  mesh = make_mesh(1, 4, devices=topology_devices("v5p:2x2x1"))
  compiled, _, batch = compile_train_step(load_config("configs/transfusion.py", SMALL), mesh)
  assert batch.rows.tokens.shape[1] == LENGTH, batch.rows.tokens.shape
  return compiled.as_text()


def differences(text: str) -> list[str]:
  """What the program of two layers does otherwise than one that keeps no scores."""
  wrong = []
  # With remat "full": forward, forward again, backward; each once a layer.
  kernels = Program(text).count("custom-call", "splash_mha")
  if kernels != (3, 6):
    wrong.append(f"attention kernels, static and run: {kernels}, must be (3, 6)")
  # Beside the keys lie sizes of rope and of the log-sum-exp; of scores, a chunk of queries.
  sizes = re.findall(rf"f32\[([\d,]+),{LENGTH}\]", text)
  largest = max((int(n) for one in sizes for n in one.split(",")), default=CHUNK)
  if largest >= CHUNK:
    wrong.append(f"float32 arrays with {LENGTH} keys: {largest} long, must be below {CHUNK}")
  return wrong


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--to", default="docs")
  args = parser.parse_args()
  if wrong := differences(small_text()):
    sys.exit("\n".join(wrong))
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
    "each of its blocks of queries that sees them. The command first compiles two layers for four",
    "chips: three kernels a layer (remat full: forward twice, backward), no array of scores.",
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
