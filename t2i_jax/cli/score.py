"""Likelihood of a split of the data: t2i score --workdir=D --likelihood [--split=val --count=64]

Bits a dimension of images given their captions, by the probability-flow ODE of the model without
guidance; the mean with its standard error, as eval/likelihood_SPLIT.json and as a table.
"""

import argparse
from pathlib import Path
from typing import Annotated

from t2i_jax.cli.flags import FirstSeed, Images, number
from t2i_jax.ranges import Range

Steps = Annotated[int, Range("[1, 10000]")]


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--workdir", required=True, help="of a training run")
  parser.add_argument(
    "--likelihood", action="store_true", required=True, help="what is scored; t2i eval has a judge"
  )
  parser.add_argument("--split", help="of the data; default the config's data.val_split")
  parser.add_argument(
    "--count", type=number("--count", Images), default=64, help="images: the first records by index"
  )
  parser.add_argument(
    "--steps", type=number("--steps", Steps), default=50, help="of the ODE, 4 network calls each"
  )
  parser.add_argument(
    "--probes", type=number("--probes", Steps), default=1, help="of the divergence, an image"
  )
  parser.add_argument(
    "--smallest",
    type=number("--smallest", Annotated[float, Range("(0, 0.5)")]),
    default=1e-3,
    help="noise level at which an image counts as data: a network that is off by more than this "
    "there finds images very unlikely",
  )
  parser.add_argument(
    "--seed", type=number("--seed", FirstSeed), default=0, help="of probes and dequantisation"
  )


def run(args: argparse.Namespace) -> None:
  import numpy as np
  from rich.console import Console

  from t2i_jax.data.source import ShardSource
  from t2i_jax.data.transforms import fit_image
  from t2i_jax.inference import open_model
  from t2i_jax.inference.save import check_out
  from t2i_jax.systems.likelihood import of_pixels
  from t2i_jax.systems.tasks import Ode
  from t2i_jax.training.checkpoint import dump

  folder = Path(args.workdir) / "eval"
  check_out(folder, "the scores of --workdir")
  model = open_model(args.workdir)
  model.need("likelihood")
  c = model.config.data
  split = args.split or c.val_split
  source = ShardSource(c.dir, split)
  records = [source[i] for i in range(min(args.count, len(source)))]
  images = np.stack([fit_image(record.image, c.image_size) for record in records])
  captions = [record.captions[0] for record in records]
  seeds = range(args.seed, args.seed + len(records))
  bits = model.likelihood(images, captions, seeds, Ode(args.steps, args.probes, args.smallest))
  found = summary(bits, of_pixels(model.system))
  about = {"workdir": str(args.workdir), "split": split, "step": model.step}
  about |= {"steps": args.steps, "probes": args.probes, "smallest": args.smallest}
  about["seed"] = args.seed
  folder.mkdir(exist_ok=True)
  path = folder / f"likelihood_{split}.json"
  dump(path, about | found)
  Console(width=120).print(table(split, found))
  print(path)


def summary(bits, eight_bit: bool) -> dict:
  """bits [n] -> their mean, its standard error, the unit, and the bits of each image."""
  bits, n = bits.astype(float), len(bits)
  error = float(bits.std(ddof=1) / n**0.5) if n > 1 else None
  unit = (
    "bits a dimension of 8-bit pixels, dequantised evenly (an upper bound)"
    if eight_bit
    else "bits a dimension of the density of latents"
  )
  return {
    "unit": unit,
    "n": n,
    "mean": float(bits.mean()),
    "standard_error": error,
    "bits": [float(b) for b in bits],
  }


def table(split: str, found: dict):
  """For a console."""
  from rich.table import Table

  made = Table(title="Likelihood given captions", caption=found["unit"], min_width=72)
  for name in ("split", "images", "mean", "standard error"):
    made.add_column(name, justify="right" if name != "split" else "left")
  error = found["standard_error"]
  shown = "none of one image" if error is None else f"{error:.4f}"
  made.add_row(split, str(found["n"]), f"{found['mean']:.4f}", shown)
  return made
