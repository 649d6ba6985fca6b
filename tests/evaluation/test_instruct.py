"""benchmarks/instruct.py: how the sets are chosen, and the page of given figures."""

import argparse
import json
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from benchmarks import instruct
from t2i_jax.data.edit_texts import scene_texts, write_edit_texts
from t2i_jax.data.scenes import render
from t2i_jax.data.tokenize import Tokenizer, train_bpe
from t2i_jax.edit import drawn_pairs
from t2i_jax.edit.image_encoders import ImageEncoder
from t2i_jax.edit.pair_drawing import How
from t2i_jax.evaluation.agreement import Thresholds
from t2i_jax.evaluation.edit_judge import score_edits

SAMPLING = dict.fromkeys(drawn_pairs.SETTINGS, 1)


def model():
  return SimpleNamespace(
    config=ConfigDict({"sampling": SAMPLING, "data": {"image_size": (32, 32)}}),
    system=SimpleNamespace(check_captions=lambda texts: None), need=lambda task: None,
    tokenizer=Tokenizer.bytes(), params={}, where="--workdir=stand-in", step=3, data="01",
  )  # fmt: skip


def half_right(model):
  """Renders of the scenes, of every second candidate the one before twice."""

  def draw(given):
    before, after = drawn_pairs.DRAWS["exact"](model)(given)
    after[::2] = before[::2]
    return before, after

  return draw


@pytest.fixture
def args(tmp_path, monkeypatch):
  monkeypatch.setitem(drawn_pairs.DRAWS, "p2p", half_right)
  monkeypatch.setitem(drawn_pairs.DRAWS, "seed", half_right)
  encoder = ImageEncoder(
    lambda images: images.astype(float).mean((1, 2)) - 240,
    lambda texts: np.array([[t.count(c) for c in "aeo"] for t in texts], float),
    {"encoder": "stand-in"},
  )
  triples, _ = scene_texts("easy", 48)
  write_edit_texts(tmp_path / "edits.jsonl", {}, triples)
  for kind, used in (("seed", None), ("p2p", encoder), ("exact", None)):
    how = How(kind, thresholds=Thresholds(-1, -1, -1), val_fraction=0.1)
    drawn_pairs.pairs(model(), tmp_path / "edits.jsonl", tmp_path / "drawn" / kind, how, used)
  bpe = Tokenizer.bpe(train_bpe(["a red circle"], 300))
  monkeypatch.setattr(instruct, "open_tokenizer", lambda base: bpe)
  monkeypatch.setattr(instruct, "THRESHOLDS", Thresholds(-1, 0.0, -1))
  return argparse.Namespace(
    runs=str(tmp_path), base="runs/base", pairs=40, steps=500, scales=(2.0, 1.5)
  )


def test_sets_are_of_one_size_and_as_right_as_they_should_be(args):
  about = instruct.choose(args)
  sizes = {name: found["pairs"] for name, found in about.items()}
  size = sizes["exact"]
  assert sizes == dict.fromkeys(instruct.SETS, size) | {"quarter": size // 4} and 8 <= size <= 24
  right = {name: found["correct"]["rate"] for name, found in about.items()}
  assert right["exact"] == right["quarter"] == right["judged"] == 1
  assert right["seed"] == right["p2p"] == pytest.approx(0.5, abs=0.05)
  for name, found in about.items():
    records = [r for _, (_, r) in instruct.records_of(instruct.Path(args.runs, "sets", name))]
    assert len(records) == found["pairs"] and all(record.then for record in records)
    if name == "filtered":
      assert all(record.meta["directional"] >= 0 for record in records)
  assert instruct.choose(args) == about  # what is there is used again


def test_the_page_of_given_figures(args, tmp_path):
  scored = score_edits(
    lambda images, texts, seed: images, "easy", size=32, per_cell=1, kinds=instruct.KINDS
  ).to_json()
  keys = [f"{t:g}_{i:g}" for t in instruct.TEXT_SCALES for i in instruct.IMAGE_SCALES]
  found = {
    "sets": instruct.cached(tmp_path / "sets.json", lambda: instruct.choose(args)),
    "scores": dict.fromkeys(instruct.SETS, scored),
    "grids": {name: dict.fromkeys(keys, scored) for name in instruct.GRIDS},
  }
  assert instruct.cached(tmp_path / "sets.json", lambda: 1 / 0) == found["sets"]
  text = instruct.page(json.loads(json.dumps(found)), args)
  for name in instruct.SETS:
    assert f"| {name} | {found['sets'][name]['pairs']} |" in text
  assert text.count("0.0% / 100.0% / 0.0%") == 18  # the unchanged image is kept, and not done
  assert all(f"| {kind} |" in text for kind in instruct.KINDS)
  assert np.shape(render(scene_texts("easy", 1)[0][0].turn.before, 32)) == (32, 32, 3)
