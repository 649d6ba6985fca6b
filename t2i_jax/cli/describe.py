"""Say what a config or a folder is before it is run: t2i describe --config=X.py | --from=FOLDER

Of a config: parameters, FLOPs, and the activations that the backward pass keeps under each remat
policy. Of a published model: parameters and memory of each part, and the peak of a sample. Nothing
is allocated, and no weights are read.
"""

import argparse

from t2i_jax.cli.sample import SIZE_FLAGS, add_size_flags, check_folder, parse_mesh, sized
from t2i_jax.config import load_config
from t2i_jax.errors import ConfigError

MIB, GIB = 2**20, 2**30


def add_flags(parser: argparse.ArgumentParser) -> None:
  which = parser.add_mutually_exclusive_group(required=True)
  which.add_argument("--config", help="a file with get_config(), or file:variant")
  which.add_argument("--from", dest="folder", metavar="FOLDER", help="with model_index.json")
  add_size_flags(parser)
  parser.add_argument("--mesh", help="data=-1,fsdp=1,tensor=1,...: axes of the devices (data=-1)")


def run(args: argparse.Namespace) -> None:
  if args.folder is not None:
    return run_folder(args)
  check_folder(args, (*SIZE_FLAGS, "mesh"))
  config = load_config(args.config, args.overrides)
  from t2i_jax.plan.describe import describe

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
  from t2i_jax.plan.pipeline import needs_of

  if args.overrides:
    raise ConfigError("--config.<key>=<value> belongs to --config, not to --from.")
  overrides = {f"mesh.{a}": n for a, n in parse_mesh(args.mesh or "").items()}
  size = sized(args, overrides)
  how = (args.dtype or "float32", "truncate", args.controlnet)
  found = needs_of(args.folder, overrides, size, *how)
  c = found.config
  height, width = c.data.image_size
  print(f"{c.name}: {height} x {width}, {c.sampling.steps} steps of {c.sampling.solver}")
  print("  weights, on a device:")
  for part, count in found.parameters.items():
    in_all = f"{count:>16,} parameters"
    print(f"    {part:16} {_bytes(found.weights[part])} {in_all}")
  print(f"  besides, {c.sampling.batch} at once in {c.model.dtype}:")
  for name, stage in found.stages.items():
    print(f"    {name:16} {_bytes(stage.working)}")
  print("  peak of a sample:")
  print(f"    {'all in memory':16} {_bytes(found.resident)}")
  print(f"    {'with --offload':16} {_bytes(found.in_turn)}")


def _bytes(size: int) -> str:
  return f"{size / GIB:10.3f} GiB" if size >= GIB else f"{size / MIB:10.3f} MiB"
