"""Write a folder that diffusers opens: t2i export --workdir=D | --from=FOLDER --to=FOLDER

Of a run whose parts started from a published folder, or of such a folder, in another dtype if one
is given. What was neither trained nor converted is copied byte for byte; scheduler and tokenizers
are those of the source. --part writes one network of a run alone, of one trained from scratch, too.
"""

import argparse

from t2i_jax.errors import ConfigError

DTYPES = ("float32", "bfloat16", "float16")


def add_flags(parser: argparse.ArgumentParser) -> None:
  model = parser.add_mutually_exclusive_group(required=True)
  model.add_argument("--workdir", help="of a training run: the averaged weights of its newest step")
  model.add_argument("--from", dest="folder", metavar="FOLDER", help="with model_index.json")
  parser.add_argument("--to", required=True, help="folder to write, which is new or empty")
  parser.add_argument(
    "--dtype",
    choices=DTYPES,
    default="",
    help="of all weights; default as they are stored, of trained ones float32",
  )
  parser.add_argument("--licence", default="", help="where the source's README.md states none")
  parser.add_argument("--part", default="", help="of a run, which alone is written: backbone, ...")
  parser.add_argument(
    "--format",
    dest="form",
    choices=("diffusers", "peft", "kohya"),
    help="of a --part that is adapters; default diffusers",
  )
  parser.add_argument("--mesh", default="", help="with --workdir, as for t2i sample")


def run(args: argparse.Namespace) -> None:
  from t2i_jax.cli.sample import parse_mesh
  from t2i_jax.inference.adapters import export_adapter, is_adapter
  from t2i_jax.inference.export import export_folder, export_run

  if args.folder is not None:
    if args.part or args.mesh or args.form:
      raise ConfigError(
        "--part, --format and --mesh belong to --workdir. A part of FOLDER is in FOLDER/PART."
      )
    export_folder(args.folder, args.to, args.dtype, args.licence)
  elif args.part and is_adapter(args.workdir, args.part):
    export_adapter(args.workdir, args.to, args.part, args.form or "diffusers")
  elif args.form:
    raise ConfigError("--format is of adapters: leave it out, or give --part=lora of a run.")
  else:
    mesh = {f"mesh.{axis}": size for axis, size in parse_mesh(args.mesh).items()}
    export_run(args.workdir, args.to, args.dtype, args.licence, args.part, mesh)
  print(args.to)
