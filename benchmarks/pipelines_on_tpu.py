"""What whole published pipelines need of TPUs that are not here: docs/pipelines_on_tpu.md.

python -m benchmarks.pipelines_on_tpu [--rows=SDXL]

Writes the page of what docs/pipelines_on_tpu.json records. With --rows, folders with the published
config.json of every part and no weights are first opened as by `t2i sample --from`, in bfloat16,
and the three programs of each model that matches compiled for a slice and recorded. Needs the
package libtpu and no TPU. Nothing is allocated or run, so there is no time of a sample.
"""

import argparse
import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.pages import made_by, table, write
from benchmarks.published_folders import FLUX1_DEV, FLUX2_KLEIN_4B, SDXL, Pipeline, folder_of
from t2i_jax.inference.folder import Prepared, prepare
from t2i_jax.models import matmul_flops
from t2i_jax.parallel import overridden
from t2i_jax.plan import Program, memory_of
from t2i_jax.plan.describe import GIB
from t2i_jax.plan.pod import topology_devices, total_bytes
from t2i_jax.systems.draw import Drawing

ROOT = Path(__file__).parents[1]
FOUND, PAGE = ROOT / "docs/pipelines_on_tpu.json", ROOT / "docs/pipelines_on_tpu.md"
BATCH = 4
SIZE = (1024, 1024)


class Chip(NamedTuple):
  """cloud.google.com/tpu/docs: bfloat16 FLOP/s, bytes/s of HBM, bytes of HBM."""

  peak: float
  bandwidth: float
  hbm: float


CHIPS = {"v5e": Chip(197e12, 819e9, 16e9), "v6e": Chip(918e12, 1640e9, 32e9)}


class Model(NamedTuple):
  """One published model, and how it samples.

  published  seconds of four images on this slice, and where that is said
  mesh       data, fsdp
  """

  name: str
  pipeline: Pipeline
  steps: int
  overrides: dict[str, str]
  published: str
  topology: str = "v6e:2x2"
  mesh: tuple[int, int] = (1, 4)

  @property
  def chip(self) -> Chip:
    return CHIPS[self.topology.split(":")[0]]


MODELS = (
  Model("FLUX.1-dev", FLUX1_DEV, 28, {}, "5.5 s (maxdiffusion's README)"),
  Model(
    "FLUX.2-klein-4B",
    FLUX2_KLEIN_4B,
    4,
    {"sampling.cfg": "1.0"},  # distilled
    "3.65 s (maxdiffusion's README)",
  ),
  # As there: the weights on each chip, and one image.
  Model(
    "SDXL", SDXL, 20, {}, "2.33 s (huggingface.co/blog/sdxl_jax, jax 0.4.16)", "v5e:2x2", (4, 1)
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


def measured(model: Model) -> dict[str, Any]:
  """Compiles and reads the programs of a model; bytes and FLOPs, of one chip."""
  devices = topology_devices(model.topology)
  settings = {"mesh.data": str(model.mesh[0]), "mesh.fsdp": str(model.mesh[1])}
  settings |= {"sampling.batch": str(BATCH), "sampling.steps": str(model.steps)}
  settings |= {"model.attention": "splash"} | model.overrides
  with tempfile.TemporaryDirectory() as temporary:
    folder = folder_of(model.pipeline, Path(temporary, "model"))
    made = prepare(folder, settings, SIZE, "bfloat16", devices=devices)
    with overridden(made.config.mesh.rules):
      lowered = Drawing(made.system, made.config.sampling, made.mesh).lower(made.abstract)
      work = flops(made)
  programs = {}
  for name, program in lowered.items():
    began = time.process_time()
    compiled = program.compile()
    seconds = time.process_time() - began
    memory, text = memory_of(compiled), Program(compiled.as_text())
    programs[name] = {
      "arguments": memory.arguments,
      "peak": memory.peak,
      "sent": {kind: one.bytes for kind, one in text.sent().items() if one.run},
      "flops": work[name],
      "traffic": text.traffic().bytes,
      "compile_cpu": seconds,
    }
    print(json.dumps({f"{model.name} {name}": programs[name]}), flush=True)
  return {"weights": total_bytes(made.abstract, a_device=True), "programs": programs}


HEAD = [
  "model", "program", "arguments, GiB", "peak, GiB", "collectives, GiB", "TFLOP",
  "at peak, ms", "HBM traffic, GiB", "at bandwidth, ms", "compile, s of CPU",
]  # fmt: skip


def lines(model: Model, found: dict[str, Any]) -> list[list[str]]:
  """A line a program, of what was recorded of a model."""
  rows = []
  for name, one in found["programs"].items():
    sent = ", ".join(f"{kind} {size / GIB:.1f}" for kind, size in one["sent"].items())
    at_peak, at_bandwidth = (1e3 * seconds for seconds in bounds(model, one))
    rows.append([
      model.name, name, f"{one['arguments'] / GIB:.2f}", f"{one['peak'] / GIB:.2f}",
      sent or "none", f"{one['flops'] / 1e12:.1f}", f"{at_peak:.0f}",
      f"{one['traffic'] / GIB:.0f}", f"{at_bandwidth:.0f}", f"{one['compile_cpu']:.0f}",
    ])  # fmt: skip
  rows[0][1] += f"; all weights {found['weights'] / GIB:.2f} GiB"
  return rows


def bounds(model: Model, program: dict[str, Any]) -> tuple[float, float]:
  """Seconds of a program at the peak rate of a chip, and at the bandwidth of its memory."""
  return program["flops"] / model.chip.peak, program["traffic"] / model.chip.bandwidth


TEXT = """\
# Whole pipelines on TPU slices that are not there

The three programs of `t2i sample --from=FOLDER`, for {size[0]} x {size[1]} pixels and {batch}
images at once, weights and activations in bfloat16, compiled from the published config.json files;
figures are of one chip and of the whole batch. FLUX.1-dev: 28 steps, one network call a step
(embedded guidance 3.5); FLUX.2-klein-4B: 4 steps without guidance; SDXL: 20 steps of Euler, guided,
both calls as one of two rows.

| model | slice of 4 chips, mesh (data x fsdp) | HBM of a chip, GiB | TFLOP/s in bfloat16 | GB/s |
|---|---|---|---|---|
{slices}

{table}

"At peak" and "at bandwidth" are lower bounds of the time, not measurements: matmul, attention and
convolution FLOPs over the peak rate, and estimated HBM traffic (docs/tpu_programs.md says by which
rules) over the bandwidth. FLUX.1-dev and FLUX.2-klein-4B were compiled before convolutions over few
images were left as they are (docs/sdxl_on_tpu.md), which concerns their decoders. Published seconds
of the same on this slice: {published}.
"""


def page(found: dict[str, Any]) -> str:
  """The page, of the models that were compiled."""
  done = [model for model in MODELS if model.name in found]
  slices = []
  for model in done:
    chip, mesh = model.chip, "{} x {}".format(*model.mesh)
    slices.append(
      f"| {model.name} | {model.topology}, {mesh} | {chip.hbm / GIB:.1f} | {chip.peak / 1e12:.0f} "
      f"| {chip.bandwidth / 1e9:.0f} |"
    )
  rows = [line for model in done for line in lines(model, found[model.name])]
  published = "; ".join(f"{model.name} {model.published}" for model in done)
  return TEXT.format(
    size=SIZE, batch=BATCH, slices="\n".join(slices), table=table(HEAD, rows), published=published
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rows", help="pattern of the names of models to compile and record")
  args = parser.parse_args()
  found = json.loads(FOUND.read_text())
  for model in (model for model in MODELS if args.rows and re.fullmatch(args.rows, model.name)):
    found[model.name] = measured(model)
    FOUND.write_text(json.dumps(found, indent=1) + "\n")
  command = "python -m benchmarks.pipelines_on_tpu"
  write(PAGE, page(found), made_by(command, "benchmarks/pipelines_on_tpu.py"))


if __name__ == "__main__":
  main()
