"""Ranges of values: declared once, in the annotation of the value, and checked where it is set.

    def dpmpp(order: Annotated[int, Range("[1, 3]")] = 2, ...)

`checked` holds a value to its annotation, whether it comes from a config, from text such as
"dpmpp(order=9)", or from a flag. Numbers must be finite where no range says otherwise.
"""

import inspect
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np

from t2i_jax.errors import ConfigError


def _number(text: str) -> float:
  """Of "2^31", "inf", "-0.5"."""
  base, power, exponent = text.strip().partition("^")
  return int(base) ** int(exponent) if power else float(base)


@dataclass(frozen=True)
class Range:
  """An interval, as it is written: "[1, 2^31)", "(0, 1]"; "[0, inf]" has infinity in it.

  A float is compared as the float32 that it becomes: 1e300 is infinite, 1e-50 is 0. Of a tuple or
  text the length is compared.

  also  further values
  """

  text: str
  also: tuple[Any, ...] = ()
  low: float = field(init=False)
  high: float = field(init=False)

  def __post_init__(self) -> None:
    low, _, high = self.text[1:-1].partition(",")
    object.__setattr__(self, "low", _number(low))
    object.__setattr__(self, "high", _number(high))

  def __contains__(self, value: Any) -> bool:
    return self._spans(self._compared(value)) or value in self.also

  def __str__(self) -> str:
    return " or ".join([self.text, *map(repr, self.also)])

  def _spans(self, x: Any) -> bool:
    above = self.low <= x if self.text[0] == "[" else self.low < x
    below = x <= self.high if self.text[-1] == "]" else x < self.high
    return bool(above and below)

  def _compared(self, value: Any) -> Any:
    if isinstance(value, tuple | str):
      return len(value)
    with np.errstate(over="ignore"):
      return float(np.float32(value)) if isinstance(value, float) else value

  def check(self, value: Any, where: str) -> None:
    """Raises ConfigError for a value outside."""
    if value in self:
      return
    x = self._compared(value)
    if isinstance(value, tuple | str):
      raise ConfigError(f"{_said(where, value)} has length {x}, which is not in {self}.")
    becomes = f", {x:g} in float32," if self._spans(value) else ""
    raise ConfigError(f"{_said(where, value)}{becomes} is not in {self}.")


FINITE = Range("(-inf, inf)")

Count = Annotated[int, Range("[1, 2^31)")]  # of what there must be one
Whole = Annotated[int, Range("[0, 2^31)")]  # 0 = none, off, or never
Width = Annotated[int, Range("[1, 2^17]")]
Depth = Annotated[int, Range("[1, 10000]")]
Seed = Annotated[int, Range("[0, 2^32)")]
Share = Annotated[float, Range("[0, 1]")]
# A standard deviation, a factor: not so small or large that float32 loses the result.
Factor = Annotated[float, Range("[0.01, 100]")]
Logit = Annotated[float, Range("[-20, 20]")]  # an exponent of e
# A guidance scale or weight; 0 = nothing of it.
Weight = Annotated[float, Range("[0, inf)")]


def checked(value: Any, hint: Any, where: str) -> Any:
  """The value as its annotation has it: an integer where a number is declared becomes a float.

  hint   a type, a tuple of types, a Literal, `| None`, or one of these with a Range; of anything
         else only floats are checked, to be finite
  where  names the value, for the message
  Raises ConfigError naming the value and what is declared.
  """
  return _checked(value, hint, where, ())


def _checked(value: Any, hint: Any, where: str, ranges: tuple[Range, ...]) -> Any:
  origin, args = get_origin(hint), get_args(hint)
  if origin is Annotated:
    own = tuple(note for note in args[1:] if isinstance(note, Range))
    return _checked(value, args[0], where, own or ranges)
  if origin in (Union, UnionType):
    if value is None and NoneType in args:
      return None
    plain = [arg for arg in args if arg in _WRITE or get_origin(arg) is not None]
    return _checked(value, plain[0] if plain else Any, where, ranges)
  if origin is Literal:
    if value not in args:
      raise ConfigError(f"{_said(where, value)} is not one of {', '.join(map(str, args))}.")
    return value
  if hint is tuple or origin is tuple:
    value = _items(value, args, where)
  elif hint in _WRITE:
    value = _typed(value, hint, where)
  if isinstance(value, float) and not ranges:
    FINITE.check(value, where)
  for one in ranges:
    one.check(value, where)
  return value


def _items(value: Any, args: tuple[Any, ...], where: str) -> tuple[Any, ...]:
  """A tuple with its items held to theirs: (X, ...), (X, Y), or () for any."""
  if not isinstance(value, tuple):
    raise ConfigError(f"{_said(where, value)} is {kind_of(value)}; write a tuple.")
  if not args:
    args = (Any, ...)
  if args[-1] is Ellipsis:
    args = (args[0],) * len(value)
  if len(args) != len(value):
    raise ConfigError(f"{_said(where, value)} has {len(value)} of {len(args)} items.")
  pairs = zip(value, args, strict=True)
  return tuple(_checked(item, hint, f"an item of {where}", ()) for item, hint in pairs)


_WRITE = {int: "an integer", float: "a number", bool: "True or False", str: "text"}


def _typed(value: Any, kind: Any, where: str) -> Any:
  if kind is float and type(value) is int:
    try:
      return float(value)
    except OverflowError:
      return float("inf") if value > 0 else float("-inf")
  if type(value) is not kind:
    raise ConfigError(f"{_said(where, value)} is {kind_of(value)}; write {_WRITE[kind]}.")
  return value


def kind_of(value: Any) -> str:
  """The type of a value, in plain text."""
  others = {tuple: "a tuple", NoneType: "None"}
  return (_WRITE | others).get(type(value), f"a {type(value).__name__}")


def _said(where: str, value: Any) -> str:
  """A value and its name: `--num=0` of a flag, else `train.lr = -1.0`."""
  text = repr(value)
  text = text if len(text) <= 80 else text[:77] + "..."
  return f"{where}={text}" if where.startswith("--") else f"{where} = {text}"


def hint_of(parameter: inspect.Parameter) -> Any:
  """The annotation of a parameter, or else the type of its default."""
  hint, default = parameter.annotation, parameter.default
  if hint is not parameter.empty and not isinstance(hint, str):
    return hint
  return Any if default is parameter.empty or default is None else type(default)


def range_of(hint: Any) -> Range | None:
  """The Range in an annotation, at any depth; None where there is none."""
  if isinstance(hint, Range):
    return hint
  inner = (*get_args(hint), *getattr(hint, "__metadata__", ()))
  return next((found for found in map(range_of, inner) if found is not None), None)
