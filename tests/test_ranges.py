"""Ranges: what is in them, and that every number of a config and of a choice has one."""

import inspect
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pytest

from benchmarks.proofs.fuzz_config import CHOICES
from t2i_jax.config import leaves, load_config
from t2i_jax.data.documents import Packed
from t2i_jax.data.scenes.vocabulary import LEVELS
from t2i_jax.edit import METHODS
from t2i_jax.edit.pair_inversions import PAIR_INVERSIONS
from t2i_jax.errors import ConfigError
from t2i_jax.keys import DEFAULTS, VALUES, value_of
from t2i_jax.models import BACKBONES
from t2i_jax.ranges import FINITE, Count, Range, Share, checked, hint_of, range_of
from t2i_jax.sampling.inversion import INVERTERS
from t2i_jax.systems.make import MODELS
from tests.config_files import ALONE

# Every dict of choices, and how many arguments `build` gives before those of the text.
REGISTRIES = CHOICES | {"--inverter": (INVERTERS, 0), "--method": (METHODS, 0)}
REGISTRIES |= {"--inverter of p2p": (PAIR_INVERSIONS, 0)}
MODEL_CONFIGS = {name: config for name, (_, config) in (BACKBONES | MODELS).items()}


def arguments() -> Iterator[tuple[str, inspect.Parameter]]:
  """Every argument of every choice, and every field of a section."""
  for registry, first in REGISTRIES.values():
    for name, function in registry.items():
      for parameter in list(inspect.signature(function).parameters.values())[first:]:
        yield f"{name}({parameter.name})", parameter
  for name, kind in (MODEL_CONFIGS | {"rows": Packed}).items():
    for parameter in inspect.signature(kind).parameters.values():
      yield f"{name}.{parameter.name}", parameter


def is_numeric(hint: Any) -> bool:
  inner = [hint, *getattr(hint, "__args__", ())]
  return any(one in (int, float, tuple) or (one is not hint and is_numeric(one)) for one in inner)


def test_every_number_of_a_choice_and_of_a_section_has_a_range():
  found = [(where, parameter) for where, parameter in arguments() if is_numeric(hint_of(parameter))]
  assert len(found) > 150
  assert [where for where, parameter in found if range_of(hint_of(parameter)) is None] == []
  # What has neither an annotation nor a default could be anything.
  assert [where for where, parameter in arguments() if hint_of(parameter) is Any] == []


def test_the_defaults_are_in_their_ranges():
  for where, parameter in arguments():
    if parameter.default is not parameter.empty:
      assert checked(parameter.default, hint_of(parameter), where) == parameter.default
  for key, default in DEFAULTS.items():
    if not key.startswith("rows."):
      assert checked(default, value_of(key.replace("*", "x")), key) == default


def test_every_key_of_every_config_is_held_to_something():
  keys = {}
  for path in ALONE:
    keys |= leaves(load_config(path))
  fields = {"model": {"kind", "dtype"}, "rows": {"length"} | set(Packed._fields)}
  for kind in MODEL_CONFIGS.values():
    fields["model"] |= set(inspect.signature(kind).parameters)
  for key, value in keys.items():
    section, _, name = key.partition(".")
    assert (name in fields[section]) if section in fields else value_of(key) is not Any, key
    if isinstance(value, int | float) and not isinstance(value, bool) and section not in fields:
      assert range_of(value_of(key)) is not None, key
  assert [key for key in VALUES if is_numeric(VALUES[key]) and range_of(VALUES[key]) is None] == []


def test_the_levels_are_those_of_the_generator():
  assert VALUES["score.level"] == Literal["", *LEVELS]


@pytest.mark.parametrize(
  "text, inside, outside",
  [
    ("[1, 2^31)", [1, 2**31 - 1], [0, 2**31, -1, 10**400]),
    ("(0, 1]", [1.0, 1e-30], [0.0, -0.0, 1.0001, float("nan"), 1e-50]),
    ("[0, 1)", [0.0, 0.9999], [1.0, 1 - 1e-9]),  # 1 in float32
    ("[0, inf)", [3.4e38], [1e39, float("inf"), -1e-30]),
    ("[0, inf]", [float("inf"), 1e300], [float("-inf"), float("nan")]),
    ("[1, 3]", [(1,), "abc", (1, 2, 3)], [(), "", (1, 2, 3, 4)]),
  ],
)
def test_what_is_in_a_range(text, inside, outside):
  assert all(value in Range(text) for value in inside)
  assert not any(value in Range(text) for value in outside)


def test_further_values():
  devices = Range("[1, 2^20]", (-1,))
  assert -1 in devices and 1 in devices and 0 not in devices
  assert str(devices) == "[1, 2^20] or -1"


def test_values_come_back_as_they_are_declared():
  assert checked(2, float, "x") == 2.0 and type(checked(2, float, "x")) is float
  assert checked(None, Share | None, "x") is None and checked(1, Share | None, "x") == 1.0
  assert checked((1, 0.5), tuple[Share, ...], "x") == (1.0, 0.5)
  assert checked(float("inf"), Annotated[float, Range("(0, inf]")], "x") == math.inf
  assert checked("a", Any, "x") == "a"
  assert FINITE.text == "(-inf, inf)"


@pytest.mark.parametrize(
  "value, hint, words",
  [
    (0, Count, r"x = 0 is not in \[1, 2\^31\)"),
    (True, Count, "x = True is True or False; write an integer"),
    (1.0, Count, "x = 1.0 is a number; write an integer"),
    ("1", Share, "x = '1' is text; write a number"),
    (None, Share, "x = None is None; write a number"),
    ([1], Share, "is a list"),
    (2, Share | None, r"x = 2.0 is not in \[0, 1\]"),
    (float("nan"), float, r"x = nan is not in \(-inf, inf\)"),
    (1e39, float, r"x = 1e\+39, inf in float32, is not in"),
    (10**400, float, "x = inf is not in"),
    (float("inf"), Any, "x = inf is not in"),
    (3, tuple[int, ...], "x = 3 is an integer; write a tuple"),
    ((1, "a"), tuple[int, ...], "an item of x = 'a' is text"),
    ((1,), tuple[int, int], r"x = \(1,\) has 1 of 2 items"),
    ((), Annotated[tuple[str, ...], Range("[1, 9]")], r"x = \(\) has length 0, which is not in"),
    ("c", Literal["a", "b"], "x = 'c' is not one of a, b"),
  ],
)
def test_refusals(value, hint, words):
  with pytest.raises(ConfigError, match=words):
    checked(value, hint, "x")
