"""Configs load, lock, take typed overrides, and refuse the rest with the nearest name."""

import re

import pytest
from ml_collections import ConfigDict

from t2i_jax import config as configs
from t2i_jax.config import build
from t2i_jax.errors import ConfigError

TEXT = """
from ml_collections import ConfigDict

def get_config():
  c = ConfigDict({"name": "x", "train": {"lr": 1e-3, "steps": 10, "shown": ()}, "flag": True})
  return c
"""


@pytest.fixture
def path(tmp_path):
  (tmp_path / "x.py").write_text(TEXT)
  return tmp_path / "x.py"


def test_overrides_take_the_type_of_the_key(path):
  c = configs.load_config(
    path,
    {
      "train.lr": "1",
      "train.steps": "20",
      "train.shown": "('text',)",
      "name": "5",
      "flag": "False",
    },
  )
  assert c.train.lr == 1.0 and isinstance(c.train.lr, float)
  assert c.train.steps == 20 and c.train.shown == ("text",)
  assert c.name == "5" and c.flag is False


@pytest.mark.parametrize(
  "overrides, words",
  [
    ({"train.step": "3"}, "train.step is not a key .* Nearest: train.steps .now 10"),
    ({"model.lr": "3"}, "Nearest: train.lr"),
    ({"train.steps": "many"}, "is text, .* has an integer there .10.*--config.train.steps="),
    ({"train.steps": "1.5"}, "is a number, .* an integer"),
    ({"flag": "1"}, "is an integer, .* True or False"),
  ],
)
def test_bad_overrides(path, overrides, words):
  with pytest.raises(ConfigError, match=words):
    configs.load_config(path, overrides)


def test_missing_file_names_the_nearest(path):
  with pytest.raises(ConfigError, match=r"Nearest: .*x\.py"):
    configs.load_config(path.parent / "y.py")
  (path.parent / "z.py").write_text("a = 1")
  with pytest.raises(ConfigError, match="no get_config"):
    configs.load_config(path.parent / "z.py")


def test_locked(path):
  with pytest.raises(AttributeError):
    configs.load_config(path).train.new = 1


def test_json_round_trip_keeps_tuples(path):
  c = configs.load_config(path, {"train.shown": "('a', 'b')"})
  back = configs.from_json(configs.to_json(c))
  assert back.train.shown == ("a", "b") and configs.differences(c, back) == {}


def test_differences():
  a = ConfigDict({"x": 1, "y": {"z": 2, "w": 0}})
  b = ConfigDict({"x": 1, "y": {"z": 3}})
  assert configs.differences(a, b) == {"y.z": (2, 3), "y.w": (0, None)}


def make(first, rate: float = 0.5, name: str = "a", flags: tuple = (1,)):
  return first, rate, name, flags


def test_choices_are_built_from_text():
  registry = {"make": make}
  assert build(registry, "make", "a.b", 0) == (0, 0.5, "a", (1,))
  assert build(registry, "make()", "a.b", 0) == (0, 0.5, "a", (1,))
  assert build(registry, " make(rate=2, name='b', flags=(3, 4)) ", "a.b", 1) == (
    1,
    2.0,
    "b",
    (3, 4),
  )


@pytest.mark.parametrize(
  "text, message",
  [
    ("mak", "a.b = 'mak': 'mak' is not one of make"),
    ("make(rat=1)", "make takes rate=0.5, name='a', flags=(1,), not 'rat'"),
    ("make(rate='x')", "rate is a number"),
    ("make(name=3)", "name is text"),
    ("make(3)", "write"),
    ("make(rate=open('x'))", "write"),
    ("make(", "write"),
    ("", "write"),
  ],
)
def test_a_wrong_choice_is_named(text, message):
  with pytest.raises(ConfigError, match=re.escape(message)):
    build({"make": make}, text, "a.b", 0)
