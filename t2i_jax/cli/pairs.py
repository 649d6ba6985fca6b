"""Data for an instruction model: edits as text, and pairs of images that a model draws of them."""

import argparse
from pathlib import Path
from typing import Annotated, Any

from t2i_jax.cli.flags import Images, number
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.ranges import Count, Range, Seed

SCENES = "scenes"
Temperature = Annotated[float, Range("[0, 100]")]


def register(verbs: Any) -> None:
  """Adds t2i data edits and t2i data pairs."""
  _register_edits(verbs)
  _register_pairs(verbs)


def _register_edits(verbs: Any) -> None:
  about = (
    "edits as text, a caption, an instruction and the caption afterwards: of scenes, or by a "
    "language model"
  )
  edits = verbs.add_parser("edits", help=about, description=about)
  edits.add_argument(
    "--from", dest="source", required=True, metavar="FOLDER",
    help="scenes, or the folder of a language model of transformers",
  )  # fmt: skip
  edits.add_argument("--to", required=True, help="the file to write, JSON lines")
  edits.add_argument(
    "--count", type=number("--count", Images), help="edits (1,000; with --captions all of these)"
  )
  edits.add_argument("--seed", type=number("--seed", Seed), default=0, help="of what is drawn (0)")
  edits.add_argument("--level", default="easy", help="of scenes: easy, counts or full (easy)")
  edits.add_argument("--split", default="train", help="of scenes: train, val or heldout (train)")
  edits.add_argument(
    "--kinds", default="", help="of scenes: as recolor,reshape (all of the level, and move)"
  )
  edits.add_argument("--captions", metavar="FILE", help="of a language model: a caption a line")
  edits.add_argument(
    "--examples", metavar="FILE", help="of a language model: edits that it is shown (four built in)"
  )
  edits.add_argument(
    "--temperature", type=number("--temperature", Temperature), default=0.7,
    help="of a language model (0.7)",
  )  # fmt: skip
  edits.set_defaults(act=run_edits)


def run_edits(args: argparse.Namespace) -> None:
  from t2i_jax.data.edit_texts import scene_texts, write_edit_texts

  about: dict[str, Any]
  if args.source == SCENES:
    if args.captions or args.examples:
      raise DataError("--captions and --examples are for a language model: --from=FOLDER.")
    kinds = tuple(filter(None, args.kinds.split(",")))
    count = args.count or 1000
    triples, reasons = scene_texts(args.level, count, args.split, args.seed, kinds)
    about = {"level": args.level, "split": args.split, "kinds": list(kinds)}
  else:
    triples, reasons, about = _by_model(args)
  about |= {"from": args.source, "seed": args.seed, "skipped": dict(sorted(reasons.items()))}
  write_edit_texts(args.to, about, triples)
  print(f"{args.to}: {len(triples):,} edits")
  for reason, n in sorted(reasons.items()):
    print(f"skipped {n:,}: {reason}")


def _by_model(args: argparse.Namespace) -> Any:
  from t2i_jax.data.edit_texts import read_edit_texts
  from t2i_jax.data.edit_writer import EXAMPLES, captions_in, generator_of, written

  if args.captions is None:
    raise DataError(f"--from={args.source}: give the captions to edit as --captions=FILE.")
  captions = list(captions_in(args.captions))[: args.count]
  examples = read_edit_texts(args.examples)[1] if args.examples else EXAMPLES
  generate = generator_of(args.source, args.temperature)
  found, reasons, skipped = written(captions, generate, examples, args.seed)
  if not found:
    caption, reason = skipped[0] if skipped else ("", "there are no captions")
    raise DataError(
      f"--from={args.source} wrote no edit that can be read, of {len(captions)} captions; the "
      f"first, of {caption!r}: {reason}."
    )
  about = {"captions": args.captions, "examples": args.examples, "temperature": args.temperature}
  return found, reasons, about


def _register_pairs(verbs: Any) -> None:
  from t2i_jax.cli.sample import add_sampling_flags

  about = "pairs of images that a model draws of edits as text, those kept that agree with them"
  pairs = verbs.add_parser("pairs", help=about, description=about)
  model = pairs.add_mutually_exclusive_group(required=True)
  model.add_argument("--workdir", help="of a training run")
  model.add_argument("--from", dest="folder", metavar="FOLDER", help="of a published model")
  pairs.add_argument("--edits", required=True, metavar="FILE", help="that t2i data edits writes")
  pairs.add_argument("--to", required=True, help="the folder to make")
  pairs.add_argument("--size", help="HEIGHTxWIDTH, with --from")
  pairs.add_argument(
    "--kind", default="p2p",
    help="p2p: Prompt-to-Prompt; seed: the same noise alone; exact: renders of scenes (p2p)",
  )  # fmt: skip
  pairs.add_argument("--count", type=number("--count", Images), help="edits, the first ones (all)")
  many = number("--candidates", Count)
  pairs.add_argument("--candidates", type=many, default=1, help="drawn of an edit (1)")
  pairs.add_argument(
    "--keep", type=number("--keep", Count), help="of them, the most alike in direction (all)"
  )
  pairs.add_argument("--seed", type=number("--seed", Seed), default=0, help="of the first one (0)")
  pairs.add_argument("--fractions", default="0.1,0.9", help="of p2p, uniform (0.1,0.9)")
  pairs.add_argument(
    "--encoder", metavar="FOLDER",
    help="a CLIP, or the work directory of a noisy classifier or an encoder of images: filters",
  )  # fmt: skip
  cosine = number("--min", Annotated[float, Range("[-1, 1]")])
  for flag, default in (("image-image", 0.7), ("directional", 0.2), ("text-image", 0.2)):
    help = f"least {flag} similarity ({default})"
    pairs.add_argument(f"--{flag}", type=cosine, default=default, help=help)
  pairs.add_argument(
    "--judge", action="store_true", help="of scenes: wrong pairs are rejected, by the exact judge"
  )
  fraction = number("--val-fraction", Annotated[float, Range("[0, 1)")])
  pairs.add_argument("--val-fraction", type=fraction, default=0.02, help="held out (0.02)")
  add_sampling_flags(pairs)
  pairs.set_defaults(act=run_pairs)


def run_pairs(args: argparse.Namespace) -> None:
  from t2i_jax.cli.flags import parse_size
  from t2i_jax.cli.sample import opened_with
  from t2i_jax.data.account import account_lines
  from t2i_jax.edit.drawn_pairs import pairs
  from t2i_jax.edit.image_encoders import open_encoder
  from t2i_jax.edit.pair_drawing import How
  from t2i_jax.evaluation.agreement import Thresholds
  from t2i_jax.inference import open_model, open_pipeline

  least = Thresholds(args.image_image, args.directional, args.text_image)
  how = How(
    args.kind, args.candidates, args.keep or args.candidates, _fractions(args.fractions),
    args.seed, args.judge, least, args.val_fraction,
  )  # fmt: skip
  if not Path(args.edits).is_file():
    raise DataError(f"--edits={args.edits} is no file. Write it with t2i data edits.")
  encoder = None if args.encoder is None else open_encoder(args.encoder)
  if args.folder is None:
    if args.size:
      raise ConfigError("--size belongs to --from: a run draws the size that it was trained on.")
    model = open_model(args.workdir, opened_with(args), args.step)
  else:
    size = parse_size(args.size) if args.size else None
    model = open_pipeline(args.folder, opened_with(args), size)
  manifest = pairs(model, args.edits, args.to, how, encoder, args.count)
  counts = ", ".join(f"{name} {s['records']:,}" for name, s in manifest["splits"].items())
  print(f"{args.to}: {counts} pairs")
  for line in account_lines(manifest["account"]):
    print(line)


def _fractions(text: str) -> tuple[float, float]:
  try:
    low, high = map(float, text.split(","))
  except ValueError as error:
    raise ConfigError(f"--fractions={text}: write two numbers in [0, 1], as 0.1,0.9.") from error
  if not 0 <= low <= high <= 1:
    raise ConfigError(f"--fractions={text}: write two numbers in [0, 1], the lower one first.")
  return low, high
