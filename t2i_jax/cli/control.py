"""Flags of ControlNets, for t2i sample: condition images, and how they act."""

import argparse
from collections.abc import Sequence
from typing import Any

from t2i_jax.cli.flags import number
from t2i_jax.errors import ConfigError
from t2i_jax.ranges import Share, Weight


def add_control_flags(parser: argparse.ArgumentParser) -> None:
  """Each may be given several times, once for each ControlNet in their order."""
  parser.add_argument(
    "--control",
    action="append",
    default=[],
    metavar="FILE",
    help="condition image of a ControlNet, of the size that is drawn; of several, once for each",
  )
  for name, hint, text in (
    ("scale", Weight, "of the ControlNet's residuals; default 1"),
    ("start", Share, "fraction of the steps from which it is used; default 0"),
    ("end", Share, "fraction of the steps up to which it is used; default 1"),
  ):
    flag = f"--control-{name}"
    parser.add_argument(flag, action="append", type=number(flag, hint), help=text)
  parser.add_argument(
    "--guess",
    action="store_true",
    help="ControlNets act on the prompt's prediction alone, less on the first skip connections",
  )


def check_control(args: argparse.Namespace) -> None:
  """Raises ConfigError for a flag of --control that cannot be used as it is."""
  flags = ("control_scale", "control_start", "control_end", "guess")
  given = [f"--{flag.replace('_', '-')}" for flag in flags if getattr(args, flag)]
  if given and not args.control:
    raise ConfigError(f"{', '.join(given)} belongs to --control: give that, too, or leave it out.")


def control_images(args: argparse.Namespace, images: Sequence[Any] = (), n: int = 1) -> Any:
  """systems.tasks.ControlImages of n rows, as the flags say; None without --control.

  images  inference.start.ConditionImage, one for each --control
  """
  from t2i_jax.inference.start import repeated
  from t2i_jax.systems.tasks import ControlImages

  if not args.control:
    return None
  fields = {"scales": args.control_scale, "starts": args.control_start, "ends": args.control_end}
  how = {name: tuple(values) for name, values in fields.items() if values}
  rows = [repeated(image.pixels, n) for image in images]
  return ControlImages(rows, **how, guess=args.guess)


def check_folder_control(
  args: argparse.Namespace, images: Sequence[Any], size: tuple[int, int] | None
) -> tuple[int, int] | None:
  """The size that is drawn, by default that of the first condition image.

  Raises ConfigError, before a weight is read, for images and flags that do not fit the ControlNets
  of --from and --controlnet.
  """
  from t2i_jax.inference import nearest_size
  from t2i_jax.inference.start import check_conditions
  from t2i_jax.pretrained.pipelines import read_index
  from t2i_jax.systems.controlnet import check_count, settled

  nets = len(read_index(args.folder).controlnets) + len(args.controlnet)
  check_count(nets, len(images))
  if not images:
    return size
  settled(control_images(args, images), nets)
  size = size or nearest_size(args.folder, images[0].size)
  check_conditions(images, size)
  return size
