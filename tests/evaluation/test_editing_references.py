"""Transfers of an object between two scenes: their truth, their records and scores."""

from types import SimpleNamespace

import numpy as np

from benchmarks.editing_references import (
  SEED,
  Transfers,
  report,
  scored,
  transfer_at,
  transfers,
)
from t2i_jax.config import load_config
from t2i_jax.data.build import build
from t2i_jax.data.documents import Image, Packed, Packing, layout_of
from t2i_jax.data.images import decode
from t2i_jax.data.scenes import render
from t2i_jax.data.tokenize import Tokenizer

ROWS = {held: transfers(held, 8) for held in (False, True)}


def test_what_is_drawn_is_known_from_the_second_image_alone():
  train = [transfer_at(index, "train") for index in range(20)]
  for one in [*train, *ROWS[False], *ROWS[True]]:
    (subject,), edit = one.other.objects, one.turn.edit
    (old,) = edit.touched
    new = set(one.turn.after.objects) - set(one.turn.before.objects)
    assert [(o.color, o.shape, o.x, o.y, o.r) for o in new] == [
      (subject.color, subject.shape, old.x, old.y, old.r)
    ]
    assert not {subject.color, subject.shape} & set(edit.instruction.split()) - {
      old.color, old.shape,
    }  # fmt: skip
  assert not any(one.turn.edit.heldout for one in (*train, *ROWS[False]))
  assert all(one.turn.edit.heldout for one in ROWS[True])
  assert transfers(True, 8, SEED) == ROWS[True]


def test_a_document_has_both_images_before_the_instruction(tmp_path):
  record = Transfers(size=32)._record("train", 3)
  one = transfer_at(3, "train")
  config = load_config("configs/transfusion_scenes.py", {})
  tokenizer = Tokenizer.bytes()
  made = Packed(**config.rows)._replace(edited=1.0, image_first=0.0, drop=0.0, length=512)
  layout = layout_of(made, (32, 32), 8, tokenizer)
  pack = Packing(made, layout, (32, 32, 3), tokenizer, 64)
  documents = [pack.documents([record], np.random.default_rng(seed))[0] for seed in range(12)]
  longest = max(documents, key=len)
  images = [part for part in longest if isinstance(part, Image)]
  for part, scene in zip(images, (one.turn.before, one.other, one.turn.after), strict=True):
    np.testing.assert_array_equal(part.image, render(scene, 32))
  assert [part.max_t for part in images] == [0, 0, 1]
  assert tokenizer.decode(longest[-2].ids) == one.turn.edit.instruction
  build(Transfers("easy", 32, 4, 1, 1), tmp_path / "data", workers=1, vocab=300, progress=False)
  assert decode(record.then[0][1]).size == (32, 32)


def test_scores():
  """A model that copies exact truth is right with its own second images; unchanged is never."""
  rows = ROWS[False]
  truth = np.stack([render(one.turn.after, 32) for one in rows])
  others = np.stack([render(one.other, 32) for one in rows])

  def edit(images, texts, seeds, given):
    (second,) = given
    assert texts[0].startswith("put it in the place of the") and len(seeds) == len(images)
    same = np.all(second == others, axis=(1, 2, 3))
    return np.where(same[:, None, None, None], truth, images)

  config = SimpleNamespace(data=SimpleNamespace(image_size=(32, 32)))
  found = scored(SimpleNamespace(edit=edit, config=config), rows)
  right = {name: rates.correct.rate for name, rates in found.items()}
  assert right["model"] == right["exact"] == 1 and right["unchanged"] == 0
  assert right["another object's image"] == 0 and found["unchanged"].kept.rate == 1
  assert "held out" in report({True: found})
