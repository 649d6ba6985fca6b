"""Make a model forget: t2i forget --workdir=D | --from=FOLDER --concept=TEXT --anchor=TEXT --to=RUN

What is drawn for a concept becomes what is drawn for its anchor: "grum circle" that of "circle", a
style "by outl" (--kind=style) that of nothing (--anchor=), a caption (--kind=caption) that of a
shorter one, as of an image that is copied, or of "a red circle and a blue square". --concept and
--anchor may be given several times, in pairs. --method=ablation and noise hold the concept to its
anchor, on images that the model draws first; esd guides away from it and needs no anchor; uce
computes keys and values without training; maximise is a baseline. RUN is a work directory as of
t2i train, and may be the --workdir of the next concept.
"""

import argparse
from pathlib import Path
from typing import Annotated

from t2i_jax.cli.flags import number, parse_size
from t2i_jax.errors import ConfigError
from t2i_jax.ranges import Count, Range, Seed, Weight, Width

Rate = Annotated[float, Range("(0, 10]")]


def add_flags(parser: argparse.ArgumentParser) -> None:
  model = parser.add_mutually_exclusive_group(required=True)
  model.add_argument("--workdir", help="of a training run")
  model.add_argument("--from", dest="folder", metavar="FOLDER", help="with model_index.json")
  parser.add_argument("--size", help="HEIGHTxWIDTH in pixels, with --from")
  parser.add_argument(
    "--method", default="ablation", help="ablation, the default, noise, esd, uce or maximise"
  )
  several = (
    ("concept", "what is forgotten, as it stands in prompts; several times"),
    ("anchor", "what is drawn instead, one for each concept; empty: nothing in its place"),
    ("keep", "a prompt of a neighbour, drawn before and after, too; several times"),
  )
  for flag, text in several:
    parser.add_argument(f"--{flag}", action="append", default=[], help=text)
  parser.add_argument("--to", required=True, help="work directory of the run")
  parser.add_argument(
    "--what",
    default="kv",
    help="is trained: kv, the keys and values of the text, the default, all, lora or embedding, "
    "that of the concept's own tokens",
  )
  parser.add_argument(
    "--kind", default="instance", help="of the concept: instance, the default, style or caption"
  )
  parser.add_argument(
    "--templates", help="a UTF-8 file with a prompt a line, {} where the concept stands"
  )
  parser.add_argument(
    "--priors",
    type=number("--priors", Count),
    default=64,
    help="images of the anchors, drawn first",
  )
  numbers = (
    ("regularisation", Weight, 0.0, "weight of the denoising loss of the anchors' images; 0 = off"),
    ("eta", Weight, 1.0, "of esd: strength of the negative guidance"),
    ("ceiling", Weight, 0.0, "of maximise: the loss of an image that is enough; 0 = no bound"),
    ("seed", Seed, 0, "of training"),
    ("steps", Count, None, "of training"),
    ("lr", Rate, None, "learning rate"),
    ("rank", Width, None, "with --what=lora"),
  )
  for flag, hint, default, text in numbers:
    parser.add_argument(f"--{flag}", type=number(f"--{flag}", hint), default=default, help=text)
  parser.add_argument(
    "--frozen", action="store_true", help="of ablation: the anchor is that of the model before"
  )


def templates_in(path: str) -> tuple[str, ...]:
  """The lines of a file that have text. Raises ConfigError."""
  try:
    lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")
  except (OSError, UnicodeDecodeError) as error:
    raise ConfigError(f"--templates={path} cannot be read as UTF-8: {error}.") from error
  found = tuple(filter(None, (line.strip(" \t\r") for line in lines)))
  if not found:
    raise ConfigError(
      f"--templates={path} has no prompt: write one a line, as 'a photo of a {{}}'."
    )
  return found


def run(args: argparse.Namespace) -> None:
  from t2i_jax.adapt.forget import How, forget
  from t2i_jax.adapt.personalise import of_folder, of_workdir

  if args.size and args.folder is None:
    raise ConfigError("--size: only with --from=FOLDER of a published model.")
  if args.rank and args.what != "lora":
    raise ConfigError("--rank is of adapters: give --what=lora, or leave it out.")
  given = {"seed": str(args.seed)}
  if args.steps:
    given["train.steps"] = str(args.steps)
  if args.lr:
    given |= {"train.lr": str(args.lr), "train.vector_lr": str(args.lr)}
  if args.rank:
    given["adapters.lora"] = f"lora(of='backbone', rank={args.rank})"
  how = How(
    tuple(args.concept),
    tuple(args.anchor),
    tuple(args.keep),
    args.what,
    args.kind,
    templates_in(args.templates) if args.templates else (),
    args.priors,
    args.regularisation,
    args.frozen,
    args.eta,
    args.ceiling,
    given,
  )
  if args.folder is not None:
    base = of_folder(args.folder, parse_size(args.size) if args.size else None)
  else:
    base = of_workdir(args.workdir)
  print(forget(base, args.method, how, args.to))
