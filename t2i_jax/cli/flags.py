"""Flags with numbers: the range is declared with the flag, and held as that of a config key."""

from collections.abc import Callable
from typing import Annotated, Any, get_args

from t2i_jax.errors import ConfigError
from t2i_jax.ranges import Range, Seed, checked

Images = Annotated[int, Range("[1, 2^20]")]
# Of the first of many images, each of which has the next one.
FirstSeed = Annotated[int, Range("[0, 4e9]")]
Workers = Annotated[int, Range("[1, 1024]")]


def number(flag: str, hint: Any) -> Callable[[str], Any]:
  """The `type` of argparse for a flag with a number; hint: as in ranges.checked.

  It raises ConfigError naming flag, value and range.
  """

  def parse(text: str) -> Any:
    try:
      value: Any = get_args(hint)[0](text)
    except ValueError:
      value = text
    return checked(value, hint, flag)

  return parse


def numbers(flag: str, text: str | None, hint: Any, default: tuple[Any, ...]) -> tuple[Any, ...]:
  """Those of a list with commas. Raises ConfigError."""
  if text is None:
    return default
  kind = int if hint is Seed else float
  try:
    return tuple(checked(kind(one), hint, flag) for one in text.split(","))
  except ValueError as error:
    raise ConfigError(f"{flag}={text}: write numbers with commas between them.") from error


def parse_size(text: str) -> tuple[int, int]:
  """ "768x1024": height, width. Raises ConfigError."""
  height, x, width = text.partition("x")
  if not (x and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
    raise ConfigError(f"--size={text}: write HEIGHTxWIDTH in pixels, as 768x1024.")
  return int(height), int(width)
