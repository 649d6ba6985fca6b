"""The --guard of t2i sample: a policy of what is not drawn."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from t2i_jax.errors import ConfigError


def add_flag(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--guard",
    metavar="POLICY",
    help="a JSON file with rules: concepts and images that are refused, and concepts that are "
    "renamed, before anything is drawn and in what was drawn (docs/consent.md)",
  )


def opened(args: argparse.Namespace, prompts: Sequence[str]) -> tuple[Any, list[str]]:
  """The policy, and the prompts as they may be drawn; files that a drawing starts from are checked.

  Raises Refused, ConfigError, DataError.
  """
  from t2i_jax.evaluation.guard import Policy, allowed, check_image, read_policy

  if args.guard is None:
    return Policy(), list(prompts)
  policy = read_policy(args.guard)
  found = [allowed(policy, prompt) for prompt in prompts]
  for old, new in zip(prompts, found, strict=True):
    if old != new:
      print(f"{old!r} is drawn as {new!r} (--guard).", file=sys.stderr)
  if policy.of_images:
    from t2i_jax.inference.start import ConditionImage

    for path in filter(None, (args.image, *args.reference)):
      check_image(policy, ConditionImage(path).pixels, path)
  return policy, found


def check_texts(policy: Any, model: Any, prompts: Sequence[str]) -> None:
  """Raises Refused for a paraphrase of a concept, by the model's own text encoders."""
  if policy.of_paraphrases:
    from t2i_jax.evaluation.guard import check_paraphrases
    from t2i_jax.inference.guard import text_features

    check_paraphrases(policy, prompts, text_features(model))


def check_drawn(policy: Any, images: Any, texts: Sequence[str], seeds: Sequence[int]) -> None:
  """Raises Refused for a drawn image that is near to a listed one: none is written then."""
  if not policy.of_images:
    return
  from t2i_jax.evaluation.guard import check_image

  if images.dtype.name != "uint8":
    raise ConfigError("--guard: latents are drawn, which its rules of images cannot be held to.")
  for image, text, seed in zip(images, texts, seeds, strict=True):
    check_image(policy, image, f"what was drawn for {text!r}, seed {seed}")
