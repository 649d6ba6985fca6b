"""What `t2i sample` begins at: noise, or an image, its inversion, a mask, a larger canvas."""

import argparse
from typing import Annotated, Any

from t2i_jax.cli.flags import number
from t2i_jax.errors import ConfigError
from t2i_jax.ranges import Range, Whole


def add_flags(parser: argparse.ArgumentParser) -> None:
  """What --image needs; argparse leaves those out that were not given."""
  parser.add_argument(
    "--reference",
    action="append",
    default=[],
    help="a file that the model is shown besides the prompt (FLUX.2), or edits as the prompt says "
    "(Qwen-Image-Edit); may be given several times",
  )
  parser.add_argument(
    "--image", help="a file to start from, scaled and cropped to the model's size"
  )
  parser.add_argument("--mask", help="a file of the image's size, white where it is filled")
  parser.add_argument(
    "--outpaint",
    metavar="LEFT,TOP,RIGHT,BOTTOM",
    help="pixels of the image's scale by which it grows, which are filled, in place of --mask",
  )
  parser.add_argument(
    "--strength",
    type=number("--strength", Annotated[float, Range("(0, 1]")]),
    help="noise level in (0, 1] from which the image is drawn again; default 0.6, of a published "
    "model its pipeline's, with --mask or --invert 1",
  )
  parser.add_argument(
    "--repeats",
    type=number("--repeats", Annotated[int, Range("[1, 1000]")]),
    help="of each step with --mask, as RePaint does; default 5, of a published model 1 = off",
  )
  parser.add_argument(
    "--invert", metavar="PROMPT", help="what the image shows: start from its own noise"
  )
  parser.add_argument(
    "--inverter", help="with --invert: ddim_inverse(iterations=10), the default, or midpoint"
  )


def check_flags(args: argparse.Namespace) -> None:
  """Raises ConfigError for a flag of --image that cannot be used as it is."""
  if args.reference and args.image is not None:
    raise ConfigError("--reference and --image: an image is shown, or started from; give one.")
  if args.mask is not None and args.outpaint is not None:
    raise ConfigError("--mask and --outpaint: what is filled is said twice; give one.")
  needs = {"mask": "image", "outpaint": "image", "strength": "image", "invert": "image"}
  needs |= {"repeats": "mask" if args.outpaint is None else "outpaint", "inverter": "invert"}
  for flag, other in needs.items():
    if getattr(args, flag) is not None and getattr(args, other) is None:
      raise ConfigError(f"--{flag} belongs to --{other}: give that, too, or leave it out.")


def margins_of(text: str) -> tuple[int, int, int, int]:
  """The pixels of --outpaint: left, top, right, bottom. Raises ConfigError."""
  parts = [number("--outpaint", Whole)(part) for part in text.split(",")]
  if len(parts) != 4 or not any(parts):
    raise ConfigError(f"--outpaint={text}: give LEFT,TOP,RIGHT,BOTTOM in pixels, one above 0.")
  return tuple(parts)


def opened(args: argparse.Namespace) -> tuple[Any, Any]:
  """The image and the mask that the flags name, or None. Raises ConfigError, DataError."""
  from t2i_jax.inference.start import Mask, SourceImage, outpainted

  if args.image is None:
    return None, None
  image = SourceImage(args.image)
  if args.outpaint is not None:
    return outpainted(image, margins_of(args.outpaint))
  return image, None if args.mask is None else Mask.read(args.mask, image)


def start_of(args: argparse.Namespace, image: Any, mask: Any, model: Any, n: int) -> Any:
  """systems.tasks.Start of n copies of an image, as the flags say."""
  from t2i_jax.inference.start import repeated
  from t2i_jax.pretrained.pipelines import read_index
  from t2i_jax.systems.tasks import Start

  size = model.config.data.image_size
  again = 5 if args.folder is None else 1
  strength = args.strength
  if strength is None and mask is None and args.invert is None:
    strength = 0.6 if args.folder is None else read_index(args.folder).published.strength
  return Start(
    repeated(image.fitted(size), n),
    None if mask is None else repeated(mask.fitted(size), n),
    strength or 1.0,
    None if args.invert is None else [args.invert] * n,
    args.inverter or "ddim_inverse",
    (args.repeats or again) if mask is not None else 1,
  )
