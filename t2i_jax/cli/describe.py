"""Say what a config or a folder is before it is run: t2i describe --config=X.py | --from=FOLDER

Of a config: parameters, FLOPs, and the activations that the backward pass keeps under each remat
policy. Of a published model: parameters and memory of each part, and the peak of a sample. Nothing
is allocated, and no weights are read.
"""

import argparse
from typing import Any

from t2i_jax.cli.flags import parse_size
from t2i_jax.cli.sample import add_folder_flags, parse_mesh
from t2i_jax.config import load_config
from t2i_jax.errors import ConfigError


def add_flags(parser: argparse.ArgumentParser) -> None:
  which = parser.add_mutually_exclusive_group(required=True)
  which.add_argument("--config", help="a file with get_config(), or file:variant")
  which.add_argument("--from", dest="folder", metavar="FOLDER", help="with model_index.json")
  add_folder_flags(parser)
  parser.add_argument("--mesh", help="data=-1,fsdp=1,tensor=1,...: axes of the devices (data=-1)")


def run(args: argparse.Namespace) -> None:
  if args.folder is not None:
    return run_folder(args)
  config = load_config(args.config, args.overrides)
  from t2i_jax.plan.describe import GIB, describe

  found = describe(config)
  parts = found["parameters"]
  print(found["name"])
  for part, count in parts.items():
    print(f"  {part:12} {count:>16,} parameters")
  if len(parts) > 1:
    print(f"  {'in all':12} {sum(parts.values()):>16,}")
  print(f"  {found['forward'] / 1e9:,.3f} GFLOPs forward, {found['row']}")
  print(
    f"  {found['step'] / 1e12:,.3f} TFLOPs a step of {config.train.batch} (recomputing not counted)"
  )
  print("  kept for the backward pass, each of them:")
  for policy, size in found["activations"].items():
    chosen = "  <- model.remat" if policy == config.model.remat else ""
    where = " (qkv and attention on the host)" if policy == "offload" else ""
    print(f"    {policy:12} {size / GIB:10.4f} GiB{where}{chosen}")
  return None


def run_folder(args: argparse.Namespace) -> None:
  from t2i_jax.plan.describe import GIB
  from t2i_jax.plan.pipeline import needs_of

  if args.overrides:
    raise ConfigError("--config.<key>=<value> belongs to --config, not to --from.")
  overrides: dict[str, Any] = {f"mesh.{a}": n for a, n in parse_mesh(args.mesh or "").items()}
  if args.batch is not None:
    overrides["sampling.batch"] = str(args.batch)
  size = None if args.size is None else parse_size(args.size)
  found = needs_of(args.folder, overrides, size, args.dtype or "float32")
  c, gib = found.config, lambda size: f"{size / GIB:10.4f} GiB"
  height, width = c.data.image_size
  print(f"{c.name}: {height} x {width}, {c.sampling.steps} steps of {c.sampling.solver}")
  print(f"  a device, in {c.model.dtype}, {c.sampling.batch} at once:")
  for part, count in found.parameters.items():
    print(f"  {part:16} {count:>16,} parameters {gib(found.weights[part])}")
  for name, stage in found.stages.items():
    print(f"  {name:16} {'':16} beside its weights {gib(stage.working)}")
  print(f"  peak of a sample {'':16} all in memory      {gib(found.resident)}")
  print(f"  {'':16} {'':16} with --offload     {gib(found.in_turn)}")
