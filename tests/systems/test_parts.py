"""Parts: where their weights start, which of them are trained, and what is refused."""

import jax
import numpy as np
import pytest
from toys import config_of, register, system_of

from t2i_jax.errors import ConfigError
from t2i_jax.systems import Part, merge_params, split_params
from t2i_jax.systems.parts import split_start

TREE = {
  "backbone": {"blocks": {"cross": {"q": 1}, "mlp": {"up": 2}}, "head": 3},
  "text": {"table": 4},
}


def split(backbone="all", text="all"):
  parts = {"backbone": Part(None, train=backbone), "text": Part(None, train=text)}
  return split_params(TREE, parts)


@pytest.mark.parametrize("backbone, text, frozen", [
  ("all", "all", []),
  ("all", "none", [4]),
  ("none", "all", [1, 2, 3]),
  ("only(pattern='blocks/*')", "all", [3]),
  ("only(pattern='blocks/cross/*')", "none", [2, 3, 4]),
  ("only(pattern='*/q')", "none", [2, 3, 4]),
  ("only(pattern='head')", "all", [1, 2]),
])  # fmt: skip
def test_what_is_trained_and_what_is_frozen_are_disjoint_and_whole(backbone, text, frozen):
  one, other = split(backbone, text)
  assert sorted(jax.tree.leaves(other)) == frozen
  assert sorted(jax.tree.leaves(one)) == [n for n in (1, 2, 3, 4) if n not in frozen]
  assert merge_params(one, other) == TREE == merge_params(other, one)


@pytest.mark.parametrize("backbone, text, said", [
  ("none", "none", "nothing is trained. Set parts.<name>.train='all'"),
  ("only(pattern='block/*')", "all", r"parts.backbone.train = .* fits no weight.*blocks, head"),
  ("all", "only(pattern='text/*')", r"parts.text.train = .* fits no weight.*begin with table"),
  ("some", "all", "parts.backbone.train = 'some': 'some' is not one of all, none, only"),
  ("only", "all", "only needs pattern"),
])  # fmt: skip
def test_what_cannot_be_trained_is_named_by_its_key(backbone, text, said):
  with pytest.raises(ConfigError, match=said):
    split(backbone, text)


def test_where_weights_start():
  assert split_start("", "k") == ("", "")
  assert split_start("folder:/a:b", "k") == ("folder", "/a:b")
  assert split_start("run:runs/x", "k") == ("run", "runs/x")
  assert split_start("file:a.safetensors", "k") == ("file", "a.safetensors")
  for start in ("runs/x", "run", "run:", "dir:/a", ":x"):
    with pytest.raises(ConfigError, match=r"parts.text.start = .*write '' .*file:PATH or run:P"):
      split_start(start, "parts.text.start")


def test_the_config_has_a_section_a_part_and_no_other(monkeypatch):
  register(monkeypatch)
  plain = {"start": "", "train": "all"}
  system = system_of(config_of())
  assert list(system.parts) == ["backbone", "text"]
  for wrong in ({"backbone": plain}, {"backbone": plain, "text": plain, "vae": plain}):
    with pytest.raises(ConfigError, match=r"config.parts names .*has the parts backbone, text"):
      system_of(config_of(parts=wrong))
  with pytest.raises(ConfigError, match=r"parts.text.start = 'x'"):
    system_of(config_of({"parts.text.start": "x"}))
  started = system_of(config_of({"parts.text.train": "none", "parts.text.start": "run:w"}))
  assert started.parts["text"][2:4] == ("run:w", "none")
  assert np.prod(started.abstract["text"]["embedding"].shape) > 0
