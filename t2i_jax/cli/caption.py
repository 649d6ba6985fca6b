"""Caption images: t2i caption --workdir=D IMAGE [IMAGE ...]"""

import argparse
from pathlib import Path

import numpy as np

from t2i_jax.cli.flags import number
from t2i_jax.errors import DataError
from t2i_jax.ranges import Seed


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("images", nargs="+", help="files of any format that PIL reads")
  parser.add_argument("--workdir", required=True, help="of a joint model's training run")
  parser.add_argument(
    "--seed", type=number("--seed", Seed), default=0, help="of the choice of tokens"
  )
  add_words_flag(parser)


def add_words_flag(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--words",
    help="sample(temperature=1.0, top_k=0, top_p=1.0, most=64); temperature 0 takes the likeliest; "
    "default as trained",
  )


def open_image(path: str, image_size: tuple[int, int]) -> np.ndarray:
  """An image file, scaled and cropped to a model's size. Raises DataError naming the file."""
  from t2i_jax.data.transforms import fit_image

  try:
    return fit_image(Path(path).read_bytes(), image_size)
  except OSError as error:
    raise DataError(f"{path} cannot be read: {error.strerror}.") from error
  except DataError as error:
    raise DataError(f"{path}: {error}") from error


def run(args: argparse.Namespace) -> None:
  from t2i_jax.inference import open_model

  model = open_model(args.workdir, {} if args.words is None else {"sampling.words": args.words})
  model.need("caption")
  images = np.stack([open_image(path, model.config.data.image_size) for path in args.images])
  captions = model.caption(images, [args.seed] * len(images))
  for path, caption in zip(args.images, captions, strict=True):
    print(f"{path}\t{caption}")
