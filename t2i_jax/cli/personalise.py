"""Teach a model a subject: t2i personalise --workdir=D | --from=FOLDER --images=DIR --to=RUN ...

From three to ten images under the prompt "a WORD CLASS", or another --template. The class stays
what it is by images of "a CLASS" that the model itself draws first. --method=lora trains adapters,
--method=dreambooth all weights of the backbone; --method=textual_inversion learns the embedding of
a new word, as "<ki>", which stands in place of the class word. --method=comfusion draws the class
in --scenes; --method=domain_gallery learns what the images have in common, beside their class.
--method=imagic edits one --image as its --prompt says. RUN is a work directory as of t2i train: it
goes on where it was ended, and t2i sample draws with it.
"""

import argparse
from pathlib import Path

from t2i_jax.cli import imagic
from t2i_jax.cli.flags import number, parse_size
from t2i_jax.errors import ConfigError
from t2i_jax.ranges import Count, Seed, Weight, Whole, Width


def add_flags(parser: argparse.ArgumentParser) -> None:
  model = parser.add_mutually_exclusive_group()
  model.add_argument("--workdir", help="of a training run")
  model.add_argument("--from", dest="folder", metavar="FOLDER", help="with model_index.json")
  parser.add_argument("--size", help="HEIGHTxWIDTH in pixels, with --from")
  parser.add_argument(
    "--method",
    default="lora",
    help="lora, the default, dreambooth, textual_inversion, comfusion, domain_gallery or imagic",
  )
  parser.add_argument("--images", help="folder of images of the subject")
  parser.add_argument(
    "--class-word",
    action="append",
    default=[],
    help="what it is one of: circle, dog, ...; or several times: of each image, sorted by name",
  )
  parser.add_argument("--word", default="sks", help="its name in prompts; default sks")
  parser.add_argument(
    "--template", default="a {word} {class}", help="of prompts; those of the class leave out {word}"
  )
  parser.add_argument("--to", required=True, help="work directory of the run")
  parser.add_argument(
    "--prompt", action="append", default=[], help="drawn before and after, too; several times"
  )
  parser.add_argument(
    "--priors", type=number("--priors", Whole), default=64,
    help="images of the class that are drawn; 0 = none",
  )  # fmt: skip
  parser.add_argument(
    "--prior", type=number("--prior", Weight), default=1.0, help="weight of their loss"
  )
  parser.add_argument(
    "--scenes", help="of comfusion: a UTF-8 file with a scene a line, as 'left of a blue square'"
  )
  parser.add_argument(
    "--matching",
    help="of comfusion: the workdir of a noisy classifier, or a folder of VGG16, that compares",
  )
  parser.add_argument(
    "--weight",
    action="append",
    default=[],
    metavar="TERM=NUMBER",
    help="of a term of comfusion (visual, textual) or domain_gallery (erasure, disentanglement, "
    "similarity), 0 = off; may be given several times",
  )
  parser.add_argument(
    "--erase-steps",
    type=number("--erase-steps", Whole),
    help="of domain_gallery: the first steps, which erase what the word means; default 40",
  )
  parser.add_argument("--seed", type=number("--seed", Seed), default=0)
  for flag, hint, text in (("steps", Count, "of training"), ("rank", Width, "with --method=lora")):
    parser.add_argument(f"--{flag}", type=number(f"--{flag}", hint), help=text)
  imagic.add_flags(parser)


def scenes_in(path: str) -> tuple[str, ...]:
  """The lines of a file that have text. Raises ConfigError."""
  try:
    lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")
  except (OSError, UnicodeDecodeError) as error:
    raise ConfigError(f"--scenes={path} cannot be read as UTF-8: {error}.") from error
  found = tuple(line.strip(" \t\r") for line in lines)
  if not any(found):
    raise ConfigError(f"--scenes={path} has no scene: write one a line, as 'on a beach'.")
  return tuple(filter(None, found))


def weights_of(given: list[str]) -> dict[str, float]:
  """By term. Raises ConfigError."""
  found = {}
  for text in given:
    name, _, value = text.partition("=")
    if not value:
      raise ConfigError(f"--weight={text}: write TERM=NUMBER, as erasure=0.")
    found[name] = number(f"--weight={name}", Weight)(value)
  return found


def run(args: argparse.Namespace) -> None:
  from t2i_jax.adapt.personalise import Base, How, of_folder, of_workdir, personalise

  imagic.check(args)
  if args.size and args.folder is None:
    raise ConfigError("--size: only with --from=FOLDER of a published model.")
  if args.rank and args.method in ("dreambooth", "textual_inversion"):
    raise ConfigError("--rank is of adapters: give --method=lora, or leave it out.")
  given = {"seed": str(args.seed)}
  if args.steps:
    given["train.steps"] = str(args.steps)
  if args.rank:
    given["adapters.lora"] = f"lora(rank={args.rank})"
  base: Base | None = None
  if args.folder is not None:
    base = of_folder(args.folder, parse_size(args.size) if args.size else None)
  elif args.workdir is not None:
    base = of_workdir(args.workdir)
  if args.method == "imagic":
    imagic.run(args, base, given)
    return
  if base is None or args.images is None or not args.class_word:
    raise ConfigError("give --workdir or --from, --images and --class-word.")
  how = How(
    args.images,
    tuple(args.class_word),
    args.word,
    args.priors,
    args.prior,
    tuple(args.prompt),
    scenes_in(args.scenes) if args.scenes else (),
    args.matching or "",
    weights_of(args.weight),
    args.erase_steps,
    overrides=given,
    template=args.template,
  )
  print(personalise(base, args.method, how, args.to))
