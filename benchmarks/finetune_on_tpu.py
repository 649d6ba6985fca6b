"""What training a published pipeline further needs of TPUs that are not here: tpu_programs.md.

python -m benchmarks.finetune_on_tpu [--rows='FLUX.*']
python -m benchmarks.flux_on_tpu

The first compiles configs/finetune.py of folders with the published config.json of every part, as
`t2i plan` does, and records the figures in docs/tpu_programs.json; the second writes the page. A
program takes a quarter of an hour or more. Needs the package libtpu and no TPU.
"""

import argparse
import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.pages import ROOT
from benchmarks.published_folders import FLUX1_DEV, SD35_LARGE, Pipeline, folder_of
from t2i_jax.config import load_config
from t2i_jax.data.latents import MOMENTS, Latents, network_text
from t2i_jax.parallel import mesh_of
from t2i_jax.plan import Program, memory_of
from t2i_jax.plan.describe import GIB
from t2i_jax.plan.pod import compile_train_step, topology_devices, total_bytes
from t2i_jax.pretrained.folder import open_folder

FOUND = ROOT / "docs/tpu_programs.json"
TOPOLOGY, MESH = "v5p:4x4x4", (4, 16)
ROWS_A_CHIP = 2
SIZE = (1024, 1024)
PIPELINES = {"FLUX.1-dev": FLUX1_DEV, "SD3.5-large": SD35_LARGE}


class Row(NamedTuple):
  """A program.   cached: the data are latents, and the step has no autoencoder"""

  model: str
  cached: bool

  @property
  def name(self) -> str:
    return f"{self.model} from {'latents' if self.cached else 'images'}"

  @property
  def pipeline(self) -> Pipeline:
    return PIPELINES[self.model]


ROWS = tuple(Row(model, cached) for model in PIPELINES for cached in (True, False))


def latents_of(folder: Path) -> Latents:
  """What a folder of latents of the pipeline's autoencoder says of itself."""
  vae = open_folder(folder / "vae")[1]
  shape = vae.latent_shape((*SIZE, 3))
  made = ("", "", SIZE, shape, MOMENTS, "float32", "", "", network_text(vae), ROWS_A_CHIP)
  return Latents(*made)


def measured(row: Row) -> dict[str, Any]:
  """Compiles a row and reads its program; memory and bytes in GiB, of one chip."""
  devices = topology_devices(TOPOLOGY)
  settings = {
    "mesh.data": MESH[0], "mesh.fsdp": MESH[1], "train.batch": ROWS_A_CHIP * len(devices),
    "model.remat": "attention", "model.attention": "splash",
  }  # fmt: skip
  with tempfile.TemporaryDirectory() as temporary:
    folder = folder_of(row.pipeline, Path(temporary, row.model))
    variant = f"{folder}:{SIZE[0]}x{SIZE[1]}"
    overrides = {key: str(value) for key, value in settings.items()}
    config = load_config(f"{ROOT}/configs/finetune.py:{variant}", overrides)
    mesh = mesh_of(config.mesh, devices)
    began = time.process_time()
    compiled, state, _ = compile_train_step(
      config, mesh, latents_of(folder) if row.cached else None
    )
    seconds = time.process_time() - began
  memory, program = memory_of(compiled), Program(compiled.as_text())
  sent = {kind: found.bytes / GIB for kind, found in sorted(program.sent().items())}
  return {
    "trained": total_bytes(state.ema) // 4,
    "frozen": total_bytes(state.frozen) // 4,
    "peak": memory.peak / GIB,
    "arguments": memory.arguments / GIB,
    "sent": sent,
    "traffic": program.traffic().bytes / GIB,
    "compile_cpu": seconds,
  }


def lines(found: dict[str, Any]) -> list[list[str]]:
  """The page's table, its head first, of the rows that were compiled."""
  head = "model|trained|frozen|peak, GiB|arguments|all-gather, GiB|reduce-scatter|all-reduce"
  table = [[*head.split("|"), "compile, s of CPU"]]
  for row in (row for row in ROWS if row.name in found):
    one = found[row.name]
    sizes = [f"{one[name] / 1e9:.2f} G" for name in ("trained", "frozen")]
    memory = [f"{one[name]:.2f}" for name in ("peak", "arguments")]
    kinds = ("all-gather", "reduce-scatter", "all-reduce")
    sent = [f"{one['sent'].get(kind, 0.0):.1f}" for kind in kinds]
    table.append([row.name, *sizes, *memory, *sent, f"{one['compile_cpu']:.0f}"])
  return table


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rows", default=".*", help="pattern of the names of rows to compile")
  args = parser.parse_args()
  for row in (row for row in ROWS if re.fullmatch(args.rows, row.name)):
    one = measured(row)
    print(json.dumps({row.name: one}), flush=True)
    found = json.loads(FOUND.read_text()) | {row.name: one}
    FOUND.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
  main()
