"""Take records out of a trained model: t2i erase --workdir=D --optout=LIST --to=RUN

What the run has read of the list is computed from its order (t2i consent); then training goes on
from the last checkpoint that has read none of it, with other records in their places: RUN is, to
the bit, the run that never had them. --method=ablate trains the weights on instead, so that
captions of the records give other images (t2i forget). What both models draw of it, and of captions
beside it, is measured. RUN/certificate.json and RUN/certificate.html say what was requested, what
was done, and what is guaranteed.
"""

import argparse
from pathlib import Path

from t2i_jax.cli.consent import add_list_flags
from t2i_jax.cli.flags import FirstSeed, Images, number
from t2i_jax.errors import ConfigError


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--workdir", required=True, help="of a training run that has ended")
  parser.add_argument("--to", required=True, help="work directory of the run without it")
  add_list_flags(parser)
  parser.add_argument(
    "--method", default="rewind", help="rewind, the default, which is exact, or ablate"
  )
  parser.add_argument(
    "--anchor",
    default="",
    help="of ablate: what captions of the records are to give instead, as 'a circle'; default "
    "nothing, away from which they are guided",
  )
  parser.add_argument(
    "--num", type=number("--num", Images), default=4, help="images a prompt; default 4"
  )
  parser.add_argument(
    "--seed", type=number("--seed", FirstSeed), default=2**20, help="of the first one"
  )


def run(args: argparse.Namespace) -> None:
  if args.optout is None:
    raise ConfigError("give --optout=LIST: a file with an entry a line, as author:NAME.")
  from t2i_jax.adapt.erase import How, erase
  from t2i_jax.data.optout import read_optout
  from t2i_jax.inference.save import check_out

  optout = read_optout(args.optout)
  how = How(args.method, args.anchor, args.num, args.seed, args.radius)
  check_out(Path(args.to), "--to")
  print(erase(args.workdir, optout, args.to, how))
