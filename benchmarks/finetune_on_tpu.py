"""What training a published pipeline further needs of TPUs that are not here: tpu_programs.md.

python -m benchmarks.finetune_on_tpu [--rows='FLUX.*']
python -m benchmarks.flux_on_tpu

The first compiles configs/finetune.py of folders with the published config.json of every part, as
`t2i plan` does, and records the figures in docs/tpu_programs.json; the second writes the page, and
benchmarks.sdxl_on_tpu that of SDXL's rows. A program takes a quarter of an hour or more. Needs the
package libtpu and no TPU.
"""

import argparse
import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.pages import ROOT
from benchmarks.published_folders import FLUX1_DEV, SD35_LARGE, SDXL, folder_of
from t2i_jax.config import load_config
from t2i_jax.data.batch import Features
from t2i_jax.data.features import Cached
from t2i_jax.data.latents import MOMENTS, Latents, network_text
from t2i_jax.parallel import mesh_of
from t2i_jax.plan import Program, memory_of
from t2i_jax.plan.describe import GIB, system_of
from t2i_jax.plan.pod import compile_train_step, topology_devices, total_bytes
from t2i_jax.pretrained.folder import open_folder
from t2i_jax.training.encode_text import stored_text

FOUND = ROOT / "docs/tpu_programs.json"
SIZE = (1024, 1024)
PIPELINES = {"FLUX.1-dev": FLUX1_DEV, "SD3.5-large": SD35_LARGE, "SDXL": SDXL}


class Row(NamedTuple):
  """A program.

  data  "images"; "latents": the step has no autoencoder; "latents and text": features of the text
        besides, and no text encoders
  mesh  data, fsdp
  effort  jax_exec_time_optimization_effort: 0 is the compiler's default, -1 its least
  """

  model: str
  data: str
  topology: str = "v5p:4x4x4"
  mesh: tuple[int, int] = (4, 16)
  remat: str = "attention"
  rows_a_chip: int = 2
  effort: float = 0.0

  @property
  def title(self) -> str:
    return f"{self.model} from {self.data}"

  @property
  def name(self) -> str:
    return f"{self.title} {self.topology} {self.mesh[0]}x{self.mesh[1]} {self.remat}"


ROWS = tuple(
  Row(model, data) for model in ("FLUX.1-dev", "SD3.5-large") for data in ("latents", "images")
)
SDXL_ROWS = (
  Row("SDXL", "latents and text", "v5p:2x2x1", (1, 4), rows_a_chip=4),
  Row("SDXL", "latents", "v5p:2x2x1", (1, 4), rows_a_chip=4),
  Row("SDXL", "images", "v5p:2x2x1", (1, 4), rows_a_chip=4),
  # By default not compiled after 30 minutes of CPU and 17 GB.
  Row("SDXL", "latents and text", "v6e:4x4", (1, 16), rows_a_chip=4, effort=-1.0),
)


def latents_of(folder: Path) -> Latents:
  """What a folder of latents of the pipeline's autoencoder says of itself."""
  vae = open_folder(folder / "vae")[1]
  shape = vae.latent_shape((*SIZE, 3))
  return Latents("", "", SIZE, shape, MOMENTS, "float32", "", "", network_text(vae), 1)


def texts_of(config: ConfigDict) -> dict[str, Cached]:
  """What a folder of features of the config's text encoders says of itself."""
  found = {}
  for name, encoder in system_of(config).text.items():
    stored = stored_text(encoder, "", "", (), "float16")
    tokens = np.zeros((1, stored.length, stored.width), np.float32)
    pooled = np.zeros((1, stored.pooled), np.float32) if stored.pooled else None
    found[name] = Cached(stored, Features(tokens, np.ones(tokens.shape[:2], bool), pooled))
  return found


def measured(row: Row) -> dict[str, Any]:
  """Compiles a row and reads its program; memory and bytes in GiB, of one chip."""
  devices = topology_devices(row.topology)
  settings = {
    "mesh.data": row.mesh[0], "mesh.fsdp": row.mesh[1],
    "train.batch": row.rows_a_chip * len(devices),
    "model.remat": row.remat, "model.attention": "splash",
  }  # fmt: skip
  with tempfile.TemporaryDirectory() as temporary:
    folder = folder_of(PIPELINES[row.model], Path(temporary, row.model))
    variant = f"{folder}:{SIZE[0]}x{SIZE[1]}"
    overrides = {key: str(value) for key, value in settings.items()}
    config = load_config(f"{ROOT}/configs/finetune.py:{variant}", overrides)
    latents = None if row.data == "images" else latents_of(folder)
    texts = texts_of(config) if row.data == "latents and text" else {}
    jax.config.update("jax_exec_time_optimization_effort", row.effort)
    began = time.process_time()
    compiled, state, _ = compile_train_step(config, mesh_of(config.mesh, devices), latents, texts)
    seconds = time.process_time() - began
  memory, program = memory_of(compiled), Program(compiled.as_text())
  sent = sorted(program.sent().items())
  return {
    "trained": total_bytes(state.ema) // 4,
    "frozen": total_bytes(state.frozen) // 4,
    "peak": memory.peak / GIB,
    "arguments": memory.arguments / GIB,
    "temporary": memory.temporary / GIB,
    "sent": {kind: found.bytes / GIB for kind, found in sent},
    "run": {kind: found.run for kind, found in sent},
    "forward": program.count("custom-call", "splash_mha_fwd")[1],
    "backward": program.count("custom-call", "splash_mha_d")[1],
    "traffic": program.traffic().bytes / GIB,
    "fusions": program.count("fusion"),
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
    table.append([row.title, *sizes, *memory, *sent, f"{one['compile_cpu']:.0f}"])
  return table


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rows", default=".*", help="pattern of the names of rows to compile")
  args = parser.parse_args()
  for row in (row for row in (*ROWS, *SDXL_ROWS) if re.fullmatch(args.rows, row.name)):
    one = measured(row)
    print(json.dumps({row.name: one}), flush=True)
    found = json.loads(FOUND.read_text()) | {row.name: one}
    FOUND.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
  main()
