"""Train, draw, score and change text-to-image models: t2i VERB."""

import argparse
import sys
from typing import Any

from t2i_jax.cli import (
  caption,
  chat,
  consent,
  data,
  describe,
  edit,
  erase,
  evaluate,
  export,
  forget,
  memorisation,
  merge,
  personalise,
  plan,
  sample,
  score,
  train,
)
from t2i_jax.errors import ConfigError, T2IError

VERBS: dict[str, Any] = {
  "data": data,
  "train": train,
  "sample": sample,
  "edit": edit,
  "caption": caption,
  "chat": chat,
  "eval": evaluate,
  "export": export,
  "merge": merge,
  "personalise": personalise,
  "forget": forget,
  "score": score,
  "memorisation": memorisation,
  "consent": consent,
  "erase": erase,
  "describe": describe,
  "plan": plan,
}


def split_overrides(argv: list[str]) -> tuple[list[str], dict[str, str]]:
  """Takes --config.a.b=value out of the arguments.   Raises ConfigError for one without '='."""
  rest, overrides = [], {}
  for arg in argv:
    if arg.startswith("--config."):
      key, equals, value = arg.removeprefix("--config.").partition("=")
      if not equals:
        raise ConfigError(f"{arg} has no value. Write {arg}=<value>.")
      overrides[key] = value
    else:
      rest.append(arg)
  return rest, overrides


def main(argv: list[str] | None = None) -> int:
  """Runs a verb; a user's error is one message on stderr and exit code 2."""
  parser = argparse.ArgumentParser(prog="t2i", description=__doc__)
  verbs = parser.add_subparsers(dest="verb", required=True)
  for verb, module in VERBS.items():
    about = module.__doc__
    module.add_flags(verbs.add_parser(verb, help=about.splitlines()[0], description=about))
  try:
    rest, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(rest)
    if overrides and getattr(args, "config", None) is None:
      raise ConfigError(
        "--config.<key>=<value> changes a --config, which t2i train, describe, plan and "
        "data encode take."
      )
    args.overrides = overrides
    return VERBS[args.verb].run(args) or 0
  except T2IError as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
  sys.exit(main())
