"""Merge adapters into a published model: t2i merge --from=FOLDER --lora=FILE[=SCALE] --to=FOLDER

--lora may be given several times. What they do not adapt is copied byte for byte; merged weights
are float32 unless --dtype says otherwise. The adapters of a run are written as a file by
t2i export --workdir=D --part=lora --to=FILE.
"""

import argparse

from t2i_jax.cli import lora
from t2i_jax.cli.export import DTYPES
from t2i_jax.errors import ConfigError


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--from", dest="folder", metavar="FOLDER", required=True, help="with model_index.json"
  )
  lora.add_flag(parser)
  parser.add_argument("--to", required=True, help="folder to write, which is new or empty")
  parser.add_argument("--dtype", choices=DTYPES, default="", help="of all weights")
  parser.add_argument("--licence", default="", help="where the source's README.md states none")


def run(args: argparse.Namespace) -> None:
  from t2i_jax.inference.adapters import merge_folder

  if not args.lora:
    raise ConfigError("nothing to merge: give --lora=FILE.")
  merge_folder(args.folder, lora.parsed(args.lora), args.to, args.dtype, args.licence)
  print(args.to)
