"""When a run read some records: t2i consent --workdir=D --id=KEY | --hash=SHA256 | --author=NAME

--optout=FILE is a list of them, and --phash of an image finds its copies, too. Printed for each
record: never, or the first step at which it was read, how often, and the last checkpoint before
it. Computed from the order of the data, which the checkpoint determines; where a model drew the
data, what that had read, too. --tombstones=FILE writes the records for data.tombstones, with which
a run does not read them.
"""

import argparse
from typing import Annotated

from t2i_jax.cli.flags import number
from t2i_jax.errors import ConfigError
from t2i_jax.ranges import Range, Whole

KINDS = {"id": "id", "hash": "sha256", "phash": "phash", "author": "author"}  # of entries, by flag


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--workdir", required=True, help="of a training run")
  helps = {
    "id": "the key of a record",
    "hash": "SHA-256 of an image file",
    "phash": "perceptual hash of an image, 16 hexadecimal digits",
    "author": "as the data state it",
  }
  for flag, text in helps.items():
    parser.add_argument(f"--{flag}", action="append", default=[], help=f"{text}; several times")
  add_list_flags(parser)
  parser.add_argument("--step", type=number("--step", Whole), help="up to it; default the newest")
  parser.add_argument(
    "--tombstones", metavar="FILE", help="to write: the records, for data.tombstones"
  )


def add_list_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--optout",
    metavar="LIST",
    help="a file with an entry a line: sha256:HASH, phash:HASH, author:NAME, id:KEY",
  )
  parser.add_argument(
    "--radius",
    type=number("--radius", Annotated[int, Range("[0, 64]")]),
    default=6,  # data.perceptual.RADIUS
    help="bits in which perceptual hashes may differ; default 6",
  )


def optout_of(args: argparse.Namespace):
  """The list that the flags give. Raises ConfigError, DataError."""
  from t2i_jax.data.optout import entries_of, read_optout

  given = [f"{kind}:{value}" for flag, kind in KINDS.items() for value in getattr(args, flag)]
  if (args.optout is None) == (not given):
    flags = ", ".join(f"--{flag}" for flag in KINDS)
    raise ConfigError(f"give --optout=LIST, or some of {flags}.")
  return read_optout(args.optout) if args.optout else entries_of(given, "the command line")


def run(args: argparse.Namespace) -> None:
  from t2i_jax.cli.data import print_lines
  from t2i_jax.data.tombstones import joined, write_tombstones
  from t2i_jax.training.consent import account_of, check_own, lines_of

  optout = optout_of(args)
  account = account_of(args.workdir, optout, args.step, args.radius)
  lines = lines_of(account)
  if args.tombstones:
    check_own(account)
    left_out = joined(account.meta.without, account.matches.by_split())
    write_tombstones(args.tombstones, account.meta.config.data.dir, left_out, optout.digest)
    count = sum(map(len, left_out.values()))
    lines.append(f"{args.tombstones}: {count} records; --config.data.tombstones={args.tombstones}")
  print_lines(lines)
