"""The flags of adapters, for t2i sample and t2i merge, and of new words, for t2i sample."""

import argparse
from collections.abc import Sequence

from t2i_jax.errors import ConfigError
from t2i_jax.ranges import checked


def add_flag(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--lora",
    action="append",
    default=[],
    metavar="FILE[=SCALE]",
    help="adapters for --from, as peft, diffusers or kohya write them, merged into its weights; "
    "may be given several times",
  )


def parsed(texts: Sequence[str]) -> list[tuple[str, float]]:
  """Paths and scales of --lora. Raises ConfigError."""
  found = []
  for text in texts:
    path, _, scale = text.rpartition("=") if "=" in text else (text, "", "1")
    try:
      found.append((path, checked(float(scale), float, f"--lora={text}")))
    except ValueError as error:
      raise ConfigError(f"--lora={text}: write FILE, or FILE=SCALE with a number.") from error
  return found


def add_embedding_flag(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--embedding",
    action="append",
    default=[],
    metavar="FILE[=WORD]",
    help="a new word for prompts with --from, as textual inversion writes it (safetensors); WORD "
    "as the file says it, or its name; may be given several times",
  )


def parsed_embeddings(args: argparse.Namespace) -> list[tuple[str, str]]:
  """Paths and words of --embedding. Raises ConfigError."""
  if args.embedding and args.refiner is not None:
    raise ConfigError("--embedding: a refiner reads other words. Leave --refiner out.")
  pairs = [text.partition("=")[::2] for text in args.embedding]
  return [(path, word) for path, word in pairs]
