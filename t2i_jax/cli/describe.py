"""Say what a config is before it is run: t2i describe --config=configs/X.py [--config.a.b=value]

Parameters, FLOPs, and the activations that the backward pass keeps under each remat policy.
Nothing is allocated.
"""

import argparse

from t2i_jax.config import load_config


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--config", required=True, help="a file with get_config(), or file:variant")


def run(args: argparse.Namespace) -> None:
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
