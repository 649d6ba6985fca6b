"""What whole published pipelines need of TPUs that are not here: docs/pipelines_on_tpu.md.

python -m benchmarks.pipelines_on_tpu

Folders with the published config.json of every part and no weights are opened as by `t2i sample
--from`, in bfloat16, and their three programs compiled for a slice. Needs the package libtpu and no
TPU. Nothing is allocated or run, so there is no time of a sample.
"""

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.pages import made_by, table, write
from benchmarks.published_folders import FLUX1_DEV, FLUX2_KLEIN_4B, Pipeline, folder_of
from t2i_jax.inference.folder import Prepared, prepare
from t2i_jax.models import matmul_flops
from t2i_jax.parallel import overridden
from t2i_jax.plan import Program, memory_of
from t2i_jax.plan.describe import GIB
from t2i_jax.plan.pod import topology_devices, total_bytes
from t2i_jax.systems.draw import Drawing

PAGE = Path(__file__).parents[1] / "docs/pipelines_on_tpu.md"
TOPOLOGY = "v6e:2x2"
# cloud.google.com/tpu/docs/v6e: bfloat16 FLOP/s, bytes/s of HBM, bytes of HBM, of a chip.
PEAK, BANDWIDTH, HBM = 918e12, 1640e9, 32e9
BATCH = 4


class Model(NamedTuple):
  """One published model, and how it samples.

  published  seconds of four images on this slice, and where that is said
  """

  name: str
  pipeline: Pipeline
  steps: int
  overrides: dict[str, str]
  published: str


MODELS = (
  Model("FLUX.1-dev", FLUX1_DEV, 28, {}, "5.5 s (maxdiffusion's README)"),
  Model(
    "FLUX.2-klein-4B",
    FLUX2_KLEIN_4B,
    4,
    {"sampling.cfg": "1.0"},  # distilled
    "3.65 s (maxdiffusion's README)",
  ),
)


def flops(made: Prepared) -> dict[str, float]:
  """FLOPs of a chip in each program of a batch, by the traced program."""
  system, drawing = made.system, Drawing(made.system, made.config.sampling, made.mesh)
  of = jax.ShapeDtypeStruct
  tokens = {
    name: (of((BATCH, text.length), jnp.int32), of((BATCH, text.length), jnp.bool_))
    for name, text in system.text.items()
  }
  cond = jax.eval_shape(system.encode_text, made.abstract, tokens)
  x0 = of((BATCH, *system.x_shape), jnp.float32)
  time = system.process.at(jnp.float32(0.5))
  calls = 2 if made.config.sampling.cfg != 1 else 1
  steps = len(drawing.times.t) - 1
  once = lambda run, *args: matmul_flops(run, *args) / made.mesh.size
  network = lambda p, x, c: system.denoise(p, x, time, c).value
  return {
    "encoders": once(system.encode_text, made.abstract, tokens),
    "sampler": calls * steps * once(network, made.abstract, x0, cond),
    "decoder": once(system.decode, made.abstract, x0),
  }


def rows_of(model: Model) -> list[list[str]]:
  """A row a program."""
  devices = topology_devices(TOPOLOGY)
  settings = {"mesh.data": "1", "mesh.fsdp": "4", "sampling.batch": str(BATCH)}
  settings |= {"sampling.steps": str(model.steps), "model.attention": "splash"} | model.overrides
  with tempfile.TemporaryDirectory() as temporary:
    folder = folder_of(model.pipeline, Path(temporary))
    made = prepare(folder, settings, (1024, 1024), "bfloat16", devices=devices)
    with overridden(made.config.mesh.rules):
      lowered = Drawing(made.system, made.config.sampling, made.mesh).lower(made.abstract)
      work = flops(made)
  weights = total_bytes(made.abstract, a_device=True)
  rows = []
  for name, program in lowered.items():
    began = time.process_time()
    compiled = program.compile()
    seconds = time.process_time() - began
    memory, text = memory_of(compiled), Program(compiled.as_text())
    sent = text.sent()
    gathered = ", ".join(f"{kind} {one.bytes / GIB:.1f}" for kind, one in sent.items() if one.run)
    traffic = text.traffic().bytes
    rows.append([
      model.name, name, f"{memory.arguments / GIB:.2f}", f"{memory.peak / GIB:.2f}",
      gathered or "none", f"{work[name] / 1e12:.1f}", f"{1e3 * work[name] / PEAK:.0f}",
      f"{traffic / GIB:.0f}", f"{1e3 * traffic / BANDWIDTH:.0f}", f"{seconds:.0f}",
    ])  # fmt: skip
    print(rows[-1], flush=True)
  print(f"{model.name}: all weights {weights / GIB:.2f} GiB a chip of {HBM / GIB:.1f}", flush=True)
  rows[0][1] += f"; all weights {weights / GIB:.2f} GiB"
  return rows


HEAD = [
  "model", "program", "arguments, GiB", "peak, GiB", "collectives, GiB", "TFLOP",
  "at peak, ms", "HBM traffic, GiB", "at bandwidth, ms", "compile, s of CPU",
]  # fmt: skip
TEXT = """\
# Whole pipelines on a TPU slice that is not there

The three programs of `t2i sample --from=FOLDER`, for 1024 x 1024 pixels and {batch} images at once
on {topology} (4 chips, fsdp 4), weights and activations in bfloat16, compiled from the published
config.json files; figures are of one chip and of the whole batch. FLUX.1-dev: 28 steps, one network
call a step (embedded guidance 3.5); FLUX.2-klein-4B: 4 steps without guidance. A v6e chip has
{hbm:.1f} GiB of HBM, {peak:.0f} TFLOP/s in bfloat16 and {bandwidth:.0f} GB/s.

{table}

"At peak" and "at bandwidth" are lower bounds of the time, not measurements: matmul, attention and
convolution FLOPs over the peak rate, and estimated HBM traffic (docs/tpu_programs.md says by which
rules) over the bandwidth. Published seconds of the same on this slice: {published}.
"""


def main() -> None:
  rows = [row for model in MODELS for row in rows_of(model)]
  published = "; ".join(f"{model.name} {model.published}" for model in MODELS)
  text = TEXT.format(
    batch=BATCH, topology=TOPOLOGY, hbm=HBM / GIB, peak=PEAK / 1e12, bandwidth=BANDWIDTH / 1e9,
    table=table(HEAD, rows), published=published,
  )  # fmt: skip
  write(
    PAGE, text, made_by("python -m benchmarks.pipelines_on_tpu", "benchmarks/pipelines_on_tpu.py")
  )


if __name__ == "__main__":
  main()
