"""What the pod's config needs of 256 TPUs that are not here: docs/pod.md.

python -m benchmarks.pod_on_tpu [--rows='v5p.*']

Compiles the train step of configs/latents_dit_xl2_flow.py as `t2i plan` does, for v5e:16x16, holds
it against the chip and against what docs/pod.json records, and writes the page; a figure that is
off ends it and is named. With --rows, compiles the rows that match first and records them; minutes
each. Needs the package libtpu and no TPU. Nothing is allocated or run, so there is no step time.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.pages import made_by, table, write
from t2i_jax.cli.plan import lines
from t2i_jax.config import load_config
from t2i_jax.plan.describe import GIB
from t2i_jax.plan.pod import plan_step

ROOT = Path(__file__).parents[1]
FOUND, PAGE, TEXT = (ROOT / f for f in ("docs/pod.json", "docs/pod.md", "benchmarks/pod_on_tpu.md"))
CONFIG = "configs/latents_dit_xl2_flow.py"
SOURCES = ("benchmarks/pod_on_tpu.py", "benchmarks/pod_on_tpu.md", CONFIG)
CHECKED = "v5e:16x16"
# A row's name -> topology and what is changed of the config.
ROWS: dict[str, tuple[str, dict[str, str]]] = {
  CHECKED: (CHECKED, {}),
  "v5p:8x8x4": ("v5p:8x8x4", {}),
  f"{CHECKED} dots": (CHECKED, {"model.remat": "dots"}),
  f"{CHECKED} 4x64": (CHECKED, {"mesh.data": "4", "mesh.fsdp": "64"}),
}
HBM = {"v5e:16x16": 16e9, "v5p:8x8x4": 95e9}  # bytes of a chip
NEAR = 0.05  # how far a figure may be from what is recorded


def measured(name: str) -> dict[str, Any]:
  """Compiles a row: what `t2i plan` prints, and sizes in bytes."""
  topology, changes = ROWS[name]
  found = plan_step(load_config(ROOT / CONFIG, changes), topology)
  return {
    "said": lines(found),
    "parameters": found.parameters,
    "fsdp": found.mesh.shape["fsdp"],
    "state": found.state,
    "state a chip": found.state_a_chip,
    **found.memory._asdict(),
    "collectives": found.program.collectives(),
  }


def differences(one: dict[str, Any], recorded: dict[str, Any]) -> list[str]:
  """What a row's program does otherwise than the page says: of v5e:16x16."""
  wrong, share = [], one["state"] / one["fsdp"]
  limits = {
    "state a chip": 1.1 * share,
    # The compiler pads heads of 72 to 128 (measured: 1.28 times the share).
    "arguments": 1.35 * share,
    "peak": HBM[CHECKED],
  }
  for key, most in limits.items():
    if one[key] >= most:
      wrong.append(f"{key}: {one[key] / GIB:.3f} GiB, must be below {most / GIB:.3f}")
  if one["parameters"] <= 675e6:
    wrong.append(f"parameters: {one['parameters']:,}, a DiT-XL/2 has 675 M")
  # Gradients are scattered as they are summed.
  if not one["collectives"].get("reduce-scatter"):
    wrong.append(f"reduce-scatter: none among {one['collectives']}")
  for key in ("peak", "temporary"):
    if abs(one[key] - recorded[key]) > NEAR * recorded[key]:
      wrong.append(f"{key}: {one[key] / GIB:.3f} GiB, recorded: {recorded[key] / GIB:.3f}")
  return wrong


def page(found: dict[str, Any]) -> str:
  """The page, of the rows that were compiled."""
  text = TEXT.read_text(encoding="utf-8")
  for name in (CHECKED, "v5p:8x8x4"):
    command = f"$ t2i plan --config={CONFIG} --topology={name}"
    text = text.replace(f"{{{name}}}", "\n".join([command, *found[name]["said"]]))
  peak = lambda name: f"{found[name]['peak'] / GIB:.2f}"
  rows = [
    ["`none`", peak(CHECKED), "everything"],
    ["`dots`", peak(f"{CHECKED} dots"), "outputs of the projections"],
  ]
  head = ["`model.remat`", "peak a chip, GiB", "what the backward pass keeps of a block"]
  text = text.replace("{remat}", table(head, rows))
  permutes = lambda name: str(found[name]["collectives"]["collective-permute"])
  text = text.replace("{4x64 permutes}", permutes(f"{CHECKED} 4x64"))
  text = text.replace("{permutes}", permutes(CHECKED))
  return text.replace("{4x64}", peak(f"{CHECKED} 4x64"))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rows", help="pattern of the names of rows to compile and record")
  args = parser.parse_args()
  found = json.loads(FOUND.read_text()) if FOUND.exists() else {}
  anew = [name for name in ROWS if args.rows and re.fullmatch(args.rows, name)]
  for name in anew:
    found[name] = measured(name)
    print(*found[name]["said"], sep="\n", flush=True)
    FOUND.write_text(json.dumps(found, indent=1) + "\n")
  one = found[CHECKED] if CHECKED in anew else measured(CHECKED)
  if wrong := differences(one, found[CHECKED]):
    sys.exit("\n".join([*wrong, "Once that is right, record all rows again: --rows='.*'."]))
  write(PAGE, page(found), made_by("python -m benchmarks.pod_on_tpu", *SOURCES))


if __name__ == "__main__":
  main()
