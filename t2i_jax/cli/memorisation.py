"""Whether a model draws its training images: t2i memorisation --workdir=D [--prompts=FILE]

Of each prompt: how much it changes the prediction before an image is drawn, the training image that
is nearest to each drawn one, and how many drawn ones are nearly the same. Without prompts these are
captions of the training split: half of those of images that are there several times, the most
frequent first, half spread over the others. Written as eval/memorisation.json and
eval/memorisation.html, which has pairs of a drawn image and the nearest training image.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from t2i_jax.cli.flags import FirstSeed, Images, number
from t2i_jax.cli.sample import add_sampling_flags, opened_with
from t2i_jax.ranges import Count, Range

SHOWN = 4  # images of a prompt on the page


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--workdir", required=True, help="of a training run")
  parser.add_argument("--prompt", action="append", default=[], help="may be given several times")
  parser.add_argument("--prompts", help="a UTF-8 file with one prompt a line")
  parser.add_argument(
    "--count", type=number("--count", Images), default=32, help="captions, without prompts (32)"
  )
  add_measure_flags(parser)
  add_sampling_flags(parser)


def add_measure_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--num", type=number("--num", Images), default=8, help="images a prompt; default 8"
  )
  parser.add_argument("--seed", type=number("--seed", FirstSeed), default=0, help="of the first")
  parser.add_argument(
    "--first-steps",
    type=number("--first-steps", Count),
    default=1,
    help="of sampling at which the difference of the prompt is taken; default 1",
  )
  parser.add_argument(
    "--tile",
    type=number("--tile", Annotated[float, Range("[0, 1]")]),
    default=0.1,
    help="distance of tiles up to which two images are nearly the same; default 0.1",
  )
  parser.add_argument(
    "--encoder",
    metavar="DIR",
    help="workdir of an encoder of images (configs/emoji_contrastive.py), whose features are "
    "compared; default pixels at 16 x 16",
  )


def run(args: argparse.Namespace) -> None:
  import json

  from t2i_jax.cli.sample import read_prompts
  from t2i_jax.evaluation.page import write
  from t2i_jax.inference import open_model
  from t2i_jax.inference.memorisation import TrainImages, separates
  from t2i_jax.inference.save import check_out

  folder = Path(args.workdir) / "eval"
  check_out(folder, "the report of --workdir")
  given = read_prompts(args) if args.prompt or args.prompts else []
  model = open_model(args.workdir, opened_with(args), args.step)
  model.need("draw")
  train = TrainImages(model)
  found, compared = measured(args, model, given or captions(train, args.count), train)
  facts = {"step": model.step, "seeds": [args.seed, args.num], "threshold": compared.threshold}
  facts["encoder"] = args.encoder or "pixels"
  facts["training images"] = len(train)
  facts["of which exact duplicates"] = sum(len(i) - 1 for i in compared.duplicates.values())
  facts |= separates(found)
  content = facts | {"prompts": [one.to_json() for one in found]}
  print(write(folder / "memorisation.json", json.dumps(content, indent=1) + "\n"))
  print(write(folder / "memorisation.html", page(args.workdir, facts, found, train)))


def measured(args: argparse.Namespace, model: Any, prompts: Sequence[str], train: Any) -> Any:
  """inference.memorisation.measure, as the flags say."""
  from functools import partial

  from t2i_jax.evaluation.memorisation import pixel_features
  from t2i_jax.inference import open_model
  from t2i_jax.inference.memorisation import measure

  embed: Any = pixel_features
  if args.encoder:
    encoder = open_model(args.encoder)
    embed = partial(encoder.need("embed"), encoder.params)
  seeds = range(args.seed, args.seed + args.num)
  how = {"steps": args.first_steps, "tile": args.tile, "embed": embed}
  return measure(model, prompts, seeds, train, **how)


def captions(train: Any, count: int) -> list[str]:
  """First captions of training images: of duplicates, the most frequent first, and of others."""
  import numpy as np

  from t2i_jax.evaluation.memorisation import duplicates

  several = duplicates(train.hashes)
  often = [places[0] for places in several.values()][: count // 2]
  within = {i for places in several.values() for i in places}
  spread = np.linspace(0, len(train) - 1, 4 * count).astype(int).tolist()
  others = [i for i in dict.fromkeys(spread) if i not in within]
  texts = dict.fromkeys(train.record(i).captions[0] for i in [*often, *others])
  return list(texts)[:count]


def page(workdir: str, facts: dict[str, Any], found: Sequence[Any], train: Any) -> str:
  """HTML: each prompt with drawn images beside the nearest training images, most changed first."""
  from t2i_jax.evaluation.page import card_grid, document, heading, section

  body = [heading(f"Memorisation of {workdir}", "Drawn image, nearest training image.", facts)]
  for one in sorted(found, key=lambda one: -one.difference[0]):
    note = (
      f"The prompt changes the prediction by {one.difference[0]:.3f}; {one.copied.sum()} of "
      f"{len(one.copied)} images are copies; {one.clique} are nearly the same."
    )
    body.append(section(one.prompt, note, card_grid(pairs(one, train))))
  return document("Memorisation", "".join(body))


def pairs(one: Any, train: Any) -> list[Any]:
  """Cards of the first images of a prompt, each beside the nearest training image."""
  import numpy as np

  cards = []
  for i in range(min(SHOWN, len(one.images))):
    both = np.concatenate([one.images[i], train.image(int(one.nearest[i]))], axis=1)
    mark = "bad" if one.copied[i] else "soft"
    said = f"{'copy, ' if one.copied[i] else ''}similarity {one.similarity[i]:.3f}"
    cards.append((train.record(int(one.nearest[i])).key, both, f'<div class="{mark}">{said}</div>'))
  return cards
