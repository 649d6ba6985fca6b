"""Configs load, lock, take typed overrides, and refuse the rest with the nearest name."""

import re
import sys
from typing import NamedTuple

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


SECTIONS = """
from ml_collections import ConfigDict

def get_config():
  return ConfigDict({
    "name": "base", "text": {"vocab": 8}, "process": {"kind": "flow"}, "mesh": {"fsdp": 4},
    "parts": {"backbone": {}, "text": {"train": "none"}}, "train": {"steps": 3, "clip": 0.5},
    "model": {"kind": "dit", "width": 8},
  })
"""
CHILD = """
from configs import base as parent

def get_config():
  c = parent.get_config()
  c.name = "child"
  c.train.steps, c.train.accumulate = 5, 2
  c.model = {"kind": "flux"}
  return c
"""


@pytest.fixture
def base(tmp_path):
  """A config without most keys; configs/child.py derives from it."""
  folder = tmp_path / "configs"
  folder.mkdir()
  (folder / "base.py").write_text(SECTIONS)
  (folder / "child.py").write_text(CHILD)
  return folder / "base.py"


def test_what_a_config_does_not_list_comes_from_the_defaults(base):
  c = configs.load_config(base)
  assert (c.seed, c.mesh.data, c.mesh.fsdp, c.train.clip, c.train.accumulate) == (0, -1, 4, 0.5, 1)
  assert c.parts.to_dict() == {
    "backbone": {"start": "", "train": "all"},
    "text": {"start": "", "train": "none"},
  }
  # No section, no keys; and no key of another kind of system.
  assert "rows" not in c and "sampling" not in c
  assert "penalty" not in c.process and "objective" not in c.train


def test_keys_that_a_config_does_not_list_are_set_by_their_defaults_type(base):
  c = configs.load_config(base, {"mesh.tensor": "2", "process.t_sampling": "('stratified',)"})
  assert c.mesh.tensor == 2 and c.process.t_sampling == ("stratified",)
  assert configs.from_json(configs.to_json(c)).mesh.tensor == 2
  for overrides, words in (
    ({"mesh.tensr": "2"}, "mesh.tensr is not a key .* Nearest: mesh.tensor .now 1"),
    ({"train.acumulate": "2"}, "Nearest: train.accumulate"),
    ({"mesh.tensor": "two"}, "is text, .* has an integer there .1."),
    ({"train.objective": "x"}, "train.objective is not a key"),
    ({"train.accumulate": "0"}, r"train.accumulate = 0 is not in \[1, 2\^24\]"),
    ({"model.inner.width": "3"}, "model.inner.width is not a key"),
  ):
    with pytest.raises(ConfigError, match=words):
      configs.load_config(base, overrides)


def test_a_listed_key_has_the_type_of_its_default(base):
  base.write_text(SECTIONS.replace("0.5", "1"))
  with pytest.raises(ConfigError, match=r"train.clip = 1 in .*base.py is an integer. Write a num"):
    configs.load_config(base)


def test_a_config_is_compared_with_its_parent_or_its_file(base, monkeypatch):
  for module in ("configs", "configs.base"):
    monkeypatch.delitem(sys.modules, module, raising=False)
  child = base.parent / "child.py"
  name, parent = configs.compared_with(child)
  assert configs.changed_lines(name, parent, configs.load_config(child, {"mesh.fsdp": "1"})) == [
    "child, where it differs from base:",
    "  mesh.fsdp = 1 (4)",
    "  model.kind = 'flux' ('dit')",
    "  model.width = not there (8)",
    "  train.accumulate = 2 (1)",
    "  train.steps = 5 (3)",
  ]
  own = configs.compared_with(base)
  assert configs.changed_lines(*own, configs.load_config(base)) == []
  changed = configs.changed_lines(*own, configs.load_config(base, {"train.steps": "9"}))
  assert changed == [f"base, where it differs from {base}:", "  train.steps = 9 (3)"]
  for module in ("configs", "configs.base"):  # of tmp_path
    monkeypatch.delitem(sys.modules, module, raising=False)


class Kind(NamedTuple):
  width: int
  rate: float = 0.5
  tied: bool = False
  out: int = 3


def test_a_section_is_checked_against_its_kind():
  assert configs.section(Kind, {"width": 1, "rate": 2}, "model", {"out": 4}) == (1, 2.0, False, 4)
  for keys, words in (
    ({"width": 1, "rat": 2.0}, "model has no key rat. Its keys: width, rate, tied"),
    ({"width": 1, "out": 2}, "model has no key out"),  # another section decides it
    ({}, "model needs width"),
    ({"width": 1, "tied": 1}, "model.tied = 1 is an integer; write True or False"),
  ):
    with pytest.raises(ConfigError, match=words):
      configs.section(Kind, keys, "model", {"out": 4})


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


def test_a_saved_config_gets_the_defaults_that_came_later():
  old = configs.from_json('{"rows": {"length": 8}, "mesh": {"data": 2}}')
  assert (old.rows.length, old.rows.images, old.mesh.data, old.mesh.expert) == (8, 4, 2, 1)


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
    ("make(rate='x')", "rate = 'x' is text; write a number"),
    ("make(name=3)", "name = 3 is an integer; write text"),
    ("make(rate=1e999)", "a.b = 'make(rate=1e999)': rate = inf is not in (-inf, inf)"),
    ("make(rate=1, rate=2)", "write"),
    ("make(rate=" + 500 * "(" + 500 * ")" + ")", "write"),
    ("make(3)", "write"),
    ("make(rate=open('x'))", "write"),
    ("make(", "write"),
    ("", "write"),
  ],
)
def test_a_wrong_choice_is_named(text, message):
  with pytest.raises(ConfigError, match=re.escape(message)):
    build({"make": make}, text, "a.b", 0)
