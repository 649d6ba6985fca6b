"""The flags of `t2i sample` for a second model that draws the last steps."""

import argparse
from collections.abc import Callable
from typing import Annotated, Any

from ml_collections import ConfigDict

from t2i_jax.cli.flags import number
from t2i_jax.errors import ConfigError
from t2i_jax.ranges import Range

FLAGS = ("refiner", "denoising_end")


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--refiner",
    metavar="FOLDER",
    help="of a model that draws the last steps, as SDXL's refiner; flags of sampling are of both",
  )
  parser.add_argument(
    "--denoising-end",
    type=number("--denoising-end", Annotated[float, Range("(0, 1)")]),
    help="with --refiner: the share of the denoising before it; default 0.8",
  )


def check_flags(args: argparse.Namespace) -> None:
  """Raises ConfigError for flags that do not go together."""
  if args.refiner is None and args.denoising_end is not None:
    raise ConfigError("--denoising-end belongs to --refiner: give that, too, or leave it out.")
  if args.refiner is not None and (args.image is not None or args.reference):
    raise ConfigError(
      "--refiner takes what --from draws from noise: leave --image and --reference out, or give "
      "the refiner as --from."
    )


def check_models(args: argparse.Namespace) -> None:
  """Raises ConfigError for folders that do not go together, RestoreError."""
  from t2i_jax.inference.refine import check_folders, check_from_image

  if args.image is None:
    check_from_image(args.folder)
  if args.refiner is not None:
    check_folders(args.folder, args.refiner)


def described(config: ConfigDict, args: argparse.Namespace) -> ConfigDict:
  """The base's config with the refiner's flags, for the images' text chunks."""
  found = ConfigDict(config.to_dict())
  found.refiner = {"from": args.refiner, "denoising_end": end_of(args)}
  return found


def end_of(args: argparse.Namespace) -> float:
  return 0.8 if args.denoising_end is None else args.denoising_end


def opened(args: argparse.Namespace, base: Any, open_one: Callable[..., Any]) -> Any:
  """The refiner, at the base's size.   open_one: of these flags with another --from"""
  height, width = base.config.data.image_size
  given = {"folder": args.refiner, "config_from": None, "embedded_cfg": None, "round": False}
  given |= {"size": f"{height}x{width}", "controlnet": []}  # those are the base's
  return open_one(argparse.Namespace(**vars(args) | given))
