"""Say what a step needs of TPUs: t2i plan --config=X.py --topology=v5p:8x8x4 [--config.a.b=value]

Compiles the step that t2i train runs, for the config's mesh, with the TPU compiler (pip install
't2i_jax[tpu]'); minutes for a large model. Memory is that of one chip. Of collectives: instructions
in the program (one in a scanned block is one), how often a step runs them, and the size of the
whole arrays. Needs no TPU; nothing is allocated or run.
"""

import argparse
from typing import TYPE_CHECKING

from t2i_jax.config import load_config

if TYPE_CHECKING:
  from t2i_jax.plan.pod import Planned


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--config", required=True, help="a file with get_config(), or file:variant")
  parser.add_argument("--topology", required=True, help="a slice of TPUs: v5e:16x16, v5p:8x8x4")


def run(args: argparse.Namespace) -> None:
  config = load_config(args.config, args.overrides)
  from t2i_jax.plan.pod import plan_step

  print(*lines(plan_step(config, args.topology)), sep="\n")


def lines(found: "Planned") -> list[str]:
  """What is printed."""
  from t2i_jax.plan.describe import GIB

  mesh, memory, gib = found.mesh, found.memory, lambda size: f"{size / GIB:,.3f}"
  said = {
    "chips": f"{mesh.size} x {mesh.devices.flat[0].device_kind}, mesh {dict(mesh.shape)}",
    "parameters": f"{found.parameters:,}",
    "state, whole, GiB": gib(found.state),
    "state a chip, GiB": gib(found.state_a_chip),
    "arguments a chip, with padding, GiB": gib(memory.arguments),
    "temporary a chip, GiB": gib(memory.temporary),
    "peak a chip, GiB": gib(memory.peak),
    "HBM traffic of a step, estimated, GiB": gib(found.program.traffic().bytes),
  }
  for kind, sent in sorted(found.program.sent().items()):
    said[f"{kind}: static / run / GiB"] = f"{sent.static} / {sent.run} / {gib(sent.bytes)}"
  return [f"{name:40}  {value}" for name, value in said.items()]
