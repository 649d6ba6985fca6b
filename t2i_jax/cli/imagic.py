"""The flags of t2i personalise --method=imagic: one image, edited as a text says.

t2i personalise --method=imagic --workdir=D --image=FILE --prompt="a blue circle" --to=RUN
t2i personalise --method=imagic --to=RUN --etas=0.5,0.6 --seeds=0,1,2      drawn again
"""

import argparse
from typing import Any

from t2i_jax.cli.flags import number, numbers
from t2i_jax.errors import ConfigError
from t2i_jax.ranges import Count, Seed

FLAGS = ("image", "etas", "seeds", "weights", "embedding_steps")


def add_flags(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("of --method=imagic")
  group.add_argument("--image", help="the file that is edited as --prompt says")
  group.add_argument("--etas", help="from 0, the image, to 1, the text; default 0,0.2, ... 1.4")
  group.add_argument("--seeds", help="of what is drawn at each eta; default 0,1")
  group.add_argument(
    "--weights", choices=("all", "lora"),
    help="what is trained of the backbone; default all of a run's, lora with --from",
  )  # fmt: skip
  group.add_argument(
    "--embedding-steps", type=number("--embedding-steps", Count), help="of the first stage"
  )


def check(args: argparse.Namespace) -> None:
  """Raises ConfigError for flags of this method with another, or the other way round."""
  given = lambda names: ", ".join(f"--{n.replace('_', '-')}" for n in names if getattr(args, n))
  if args.method != "imagic":
    if given(FLAGS):
      raise ConfigError(f"{given(FLAGS)}: only with --method=imagic.")
  elif given(("images", "class_word")):
    raise ConfigError(f"{given(('images', 'class_word'))}: imagic has one --image and a --prompt.")


def run(args: argparse.Namespace, base: Any, overrides: dict[str, str]) -> None:
  """base: adapt.personalise.Base, or None: what was trained is drawn again"""
  from t2i_jax.adapt import imagic

  etas = numbers("--etas", args.etas, imagic.Eta, imagic.ETAS)
  drawn = imagic.Drawn(etas, numbers("--seeds", args.seeds, Seed, (0, 1)))
  if base is None:
    if args.image or args.prompt:
      raise ConfigError("--image and --prompt: give the model, too, as --workdir or --from.")
    print(imagic.draw(args.to, drawn))
    return
  if args.image is None or len(args.prompt) != 1:
    raise ConfigError("--method=imagic edits one --image as one --prompt says: give both.")
  weights = args.weights or ("all" if args.folder is None else "lora")
  if args.rank and weights != "lora":
    raise ConfigError("--rank is of adapters: give --weights=lora, or leave it out.")
  first = {"seed": overrides["seed"]}
  if args.embedding_steps:
    first["train.steps"] = str(args.embedding_steps)
  how = imagic.Edit(args.image, args.prompt[0], weights, first, overrides)
  print(imagic.edit(base, how, args.to, drawn))
