"""Concepts are forgotten from the command line: what is drawn, trained, kept, refused."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util

from t2i_jax.adapt.forget import How, filled
from t2i_jax.cli.main import main
from t2i_jax.data.drawn import Drawn, drawn_of
from t2i_jax.data.roles import open_split
from t2i_jax.data.source import manifest_hash
from t2i_jax.inference import open_model
from t2i_jax.training.setup import set_up
from tests.adapt.personalised import config_of


def run(base, to, *more, concept="red circle", anchor="circle", steps=4, workdir="base"):
  given = [f"--concept={concept}"] + ([] if anchor is None else [f"--anchor={anchor}"])
  return main([
    "forget", f"--workdir={base / workdir}", *given, f"--to={to}", "--priors=6",
    *([f"--steps={steps}"] if steps else []), *more,
  ])  # fmt: skip


def moved(one, other):
  """Paths of the leaves that differ."""
  a, b = (traverse_util.flatten_dict(model.params, sep="/") for model in (one, other))
  return {path for path in a if not np.array_equal(a[path], b[path])}


def test_keys_and_values_forget_and_go_on_bit_for_bit(base, tmp_path, one_device, capsys):
  assert run(base, tmp_path / "whole", "--keep=a blue square", "--regularisation=0.2") == 0
  said = capsys.readouterr().out
  assert "'a circle': 0 images are there, 14 drawn" in said
  page = Path(said.strip().splitlines()[-1]).read_text()
  assert page.count("<figure>") == 2 * 3 * 4 and "kept: a blue square" in page
  before, after = open_model(base / "base"), open_model(tmp_path / "whole")
  assert moved(before, after) == {"backbone/blocks/cross/kv/kernel"}
  pair = open_split(tmp_path / "whole/data", "anchor+target")
  for i in range(0, 12, 2):
    (one, first), (two, second) = (pair.record(i + k, 0) for k in range(2))
    assert (first, second) == (0, 1) and one.image == two.image
    assert (one.captions, two.captions) == (("a circle",), ("a red circle",))
  frozen = {"parts.backbone.train": "all", "train.objective": "ablation(target='frozen')"}
  beside = set_up(config_of(base / "base", "esd", tmp_path / "whole/data", **frozen)).system
  assert set(beside.parts) == {"backbone", "text", "teacher"}
  part = (base, tmp_path / "part", "--keep=a blue square", "--regularisation=0.2")
  assert run(*part, steps=2) == 0 and run(*part) == 0
  jax.tree.map(np.testing.assert_array_equal, after.params, open_model(tmp_path / "part").params)


def test_adapters_by_esd_and_then_another_concept(base, tmp_path, one_device):
  """The second run starts from the merged weights of the first."""
  assert run(base, tmp_path / "one", "--method=esd", "--what=lora", "--rank=2", anchor=None) == 0
  one = open_model(tmp_path / "one")
  assert all(path.startswith("backbone/") for path in moved(open_model(base / "base"), one))
  more = ("--method=noise", "--what=embedding", "--steps=1")
  assert run(tmp_path, tmp_path / "two", *more, concept="blue square", anchor="square",
             workdir="one") == 0  # fmt: skip
  two = open_model(tmp_path / "two")
  assert moved(one, two) == {"text/embedding"}
  table = one.params["text"]["embedding"], two.params["text"]["embedding"]
  ids = two.system.text["text"].encode(["a blue square", "a square"])[0]
  assert set(np.flatnonzero(np.any(table[0] != table[1], 1))) == set(ids[0]) - set(ids[1])
  # And a third one: embeddings are merged, too.
  given = {"data.train_split": "anchor"}
  third = set_up(config_of(tmp_path / "two", "lora", tmp_path / "two/data", **given))
  assert set(third.system.adapters) == {"lora"}


@pytest.mark.parametrize(
  "more, anchor, drawn",
  [
    (["--method=maximise", "--ceiling=0.5"], None, "'a red circle': 0 images are there, 14 drawn"),
    (
      ["--method=maximise", "--what=all", "--regularisation=0.5", "--keep=a blue square"],
      "circle",
      "'a red circle': 0 images are there, 6 drawn",
    ),
  ],
)
def test_loss_maximisation_from_the_command_to_the_page(
  base, easy_data, tmp_path, one_device, more, anchor, drawn, capsys
):
  assert run(base, tmp_path / "run", *more, anchor=anchor, steps=1) == 0
  said = capsys.readouterr().out
  assert drawn in said
  found = moved(open_model(base / "base"), open_model(tmp_path / "run"))
  if "--what=all" in more:
    assert len(found) > 1 and all(path.startswith("backbone/") for path in found)
  else:
    assert found == {"backbone/blocks/cross/kv/kernel"}
  page = Path(said.strip().splitlines()[-1]).read_text()
  prompts = len({"red circle", anchor or "red circle"}) + ("--keep=a blue square" in more)
  assert page.count("<figure>") == 2 * prompts * 4
  for text in ("maximise", f"red circle -&gt; {anchor or 'nothing'}"):
    assert text in page
  assert (tmp_path / "run/forgotten.png").is_file()
  by = ("anchor", "target", "val"), f"--workdir={base / 'base'}", 4, manifest_hash(easy_data)
  assert drawn_of(tmp_path / "run/data") == Drawn(*by)


def test_templates():
  assert filled("a painting, {}", "") == "a painting"
  assert filled("a {} left of a square", "red circle") == "a red circle left of a square"
  how = How(("by outl", "by ki"), ("", "by me"), kind="style")
  assert how.pairs[0] == ("an image", "an image by outl") and len(how.pairs) == 8
  assert how.shown == ("an image by outl", "an image", "an image by ki", "an image by me")


@pytest.mark.parametrize(
  "more, words",
  [
    ({"anchor": "red circle"}, "have the same tokens"),
    ({"anchor": None}, "there are 1 concepts and 0 anchors"),
    ({"concept": " "}, "say what is to be forgotten"),
    ({"anchor": "", "more": ["--kind=caption"]}, "a prompt is empty"),
    ({"anchor": None, "more": ["--method=esd", "--regularisation=1"]}, "give --anchor, or leave"),
    ({"more": ["--method=hypnosis"]}, "--method=hypnosis is not one of ablation"),
    ({"more": ["--what=bias"]}, "--what=bias is not one of kv"),
    ({"more": ["--frozen", "--method=noise"]}, "--frozen is of --method=ablation"),
    ({"more": ["--frozen", "--what=embedding"]}, "reads the same text encoders"),
    ({"more": ["--rank=2"]}, "--rank is of adapters"),
    ({"more": ["--priors=1", "--kind=style"]}, "there are 4 pairs of prompts"),
    ({"more": ["--method=uce"]}, "without training: leave out"),
    ({"concept": "red circle and " * 8}, "more than text.length"),
    ({"concept": "circle", "anchor": "circle red", "more": ["--what=embedding"]}, "no token in"),
  ],
)
def test_what_is_refused(base, tmp_path, one_device, more, words, capsys):
  more = dict(more)
  extra = more.pop("more", [])
  assert run(base, tmp_path / "run", *extra, **more) == 2
  assert words in capsys.readouterr().err
