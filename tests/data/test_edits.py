"""Edits of scenes: one thing changes, the rest is the same, and the words say which."""

import argparse
import hashlib
import itertools
import re
from collections import Counter

import numpy as np
import pytest

from t2i_jax.cli import data
from t2i_jax.data.from_edits import TURNS
from t2i_jax.data.images import decode
from t2i_jax.data.scenes import (
  COLORS,
  EDITS,
  LEVELS,
  SHAPES,
  Spec,
  Turn,
  edit_kinds,
  edit_prompts,
  facts_from_json,
  holds,
  make_edit,
  make_edits,
  make_scene,
  render,
)
from t2i_jax.data.scenes.geometry import box_of
from t2i_jax.data.scenes.heldout import (
  HELDOUT_COLORS,
  heldout_in_facts,
  heldout_in_objects,
)
from t2i_jax.data.source import ShardSource, read_manifest
from t2i_jax.errors import ConfigError

NAMED = re.compile(rf"the ((?:{'|'.join(COLORS)}) )?({'|'.join(SHAPES)}|object)\b")
HELDOUT_WORDS = re.compile("|".join(f"{c} {s}" for s, c in HELDOUT_COLORS.items()))
THING = r"(\w+) (\w+)"
EASY = {
  "recolor": rf"make the {THING} (\w+)",
  "reshape": rf"turn the {THING} into a (\w+)",
  "add": rf"add an? {THING} (left of|right of|above|below) the {THING}",
  "remove": rf"remove the {THING}",
  "swap": rf"swap the {THING} and the {THING}",
}


def turns_of(level: str, split: str, n: int, turns: int = 1) -> list[Turn]:
  return [turn for i in range(n) for turn in make_edits(i, level, split, turns=turns)]


def looks(objects):
  return Counter((o.color, o.shape) for o in objects)


# -- determinism ----------------------------------------------------------------------------------


def test_an_edit_depends_on_its_index_alone():
  forward = [make_edits(i, "full", "train", turns=2) for i in range(12)]
  backward = [make_edits(i, "full", "train", turns=2) for i in reversed(range(12))]
  assert forward == backward[::-1]
  assert make_edit(3, "full", "val", 5) == make_edits(3, "full", "val", 5, 1)[0]


def test_edits_are_the_same_on_every_python():
  splits = itertools.product(LEVELS, ("train", "heldout"))
  turns = [turn for level, split in splits for turn in turns_of(level, split, 8)]
  text = "\n".join(f"{t.before.caption}: {t.edit.instruction}: {t.after.caption}" for t in turns)
  assert hashlib.sha256(text.encode()).hexdigest()[:16] == "2c221fe253a51053"


def test_splits_seeds_and_indices_draw_different_edits():
  drawn = {
    make_edit(i, "easy", split, seed).before.objects
    for i, split, seed in itertools.product(range(10), ("train", "val", "heldout"), (0, 1))
  }
  assert len(drawn) == 60


# -- what changes and what does not ---------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_scenes_differ_in_what_was_asked_alone(level, split):
  for turn in turns_of(level, split, 120):
    edit, before, after = turn.edit, set(turn.before.objects), set(turn.after.objects)
    assert len(before) == len(turn.before.objects) and len(after) == len(turn.after.objects)
    assert set(edit.kept) | set(edit.touched) == before and not set(edit.kept) & set(edit.touched)
    assert before - after == set(edit.touched)
    new = after - set(edit.kept)
    assert len(new) == len(edit.changed)
    for wanted in edit.changed:
      (o,) = (o for o in new if wanted.spec.fits(o))
      given = [(wanted.x, o.x), (wanted.y, o.y), (wanted.r, o.r)]
      assert all(asked in (None, true) for asked, true in given)
      assert (wanted.x is None) == (edit.kind == "add")
      assert (wanted.r is None) == (edit.kind in ("add", "resize"))


@pytest.mark.parametrize("kind", EDITS)
def test_each_kind_changes_its_own_attribute(kind):
  for turn in edit_prompts("full", kind, False, 25):
    old, new = turn.edit.touched, [o for o in turn.after.objects if o not in turn.edit.kept]
    numbers = {"add": (0, 1), "remove": (1, 0), "swap": (2, 2)}
    assert (len(old), len(new)) == numbers.get(kind, (1, 1))
    if kind == "swap":
      a, b = old
      assert {(o.color, o.shape, o.r, o.x, o.y) for o in new} == {
        (a.color, a.shape, a.r, b.x, b.y),
        (b.color, b.shape, b.r, a.x, a.y),
      }
    if kind in ("recolor", "reshape", "resize"):
      fields = ("color", "shape", "size", "x", "y", "r")
      changed = {f for f in fields if getattr(old[0], f) != getattr(new[0], f)}
      assert changed == {"recolor": {"color"}, "reshape": {"shape"}}.get(kind, {"size", "r"})


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_facts_hold_afterwards_and_not_before(level, split):
  for turn in turns_of(level, split, 120):
    facts = turn.edit.facts
    assert all(holds(f, turn.after.objects) for f in facts), turn.edit.instruction
    assert not all(holds(f, turn.before.objects) for f in facts), turn.edit.instruction
    assert [f.n for f in facts if f.kind == "total"] == [len(turn.after.objects)]
    for scene in (turn.before, turn.after):
      assert all(holds(f, scene.objects) for f in scene.facts)


def test_a_chain_goes_on_from_the_scene_it_made():
  for level in LEVELS:
    for i in range(15):
      first, second = make_edits(i, level, "val", turns=2)
      assert second.before is first.after


# -- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_instructions_name_exactly_one_object(level, split):
  for turn in turns_of(level, split, 150):
    named = NAMED.findall(turn.edit.instruction)
    assert len(named) == (2 if turn.edit.kind == "swap" else 1), turn.edit.instruction
    for color, shape in named:
      spec = Spec(color.strip() or None, None if shape == "object" else shape)
      assert sum(spec.fits(o) for o in turn.before.objects) == 1, turn.edit.instruction


def test_easy_instructions_parsed_from_their_words_make_the_change():
  for turn in turns_of("easy", "train", 150) + turns_of("easy", "heldout", 60):
    kind, text = turn.edit.kind, turn.edit.instruction
    words = re.fullmatch(EASY[kind], text).groups()
    expected = looks(turn.before.objects)
    if kind in ("recolor", "reshape", "remove"):
      expected[words[:2]] -= 1
    if kind == "recolor":
      expected[(words[2], words[1])] += 1
    if kind == "reshape":
      expected[(words[0], words[2])] += 1
    if kind == "add":
      expected[words[:2]] += 1
    assert +expected == looks(turn.after.objects), text
    assert len(text.split()) <= 9


def test_full_instructions_vary_and_read_well():
  texts = [t.edit.instruction for kind in EDITS for t in edit_prompts("full", kind, False, 40)]
  assert len({text.split()[0] for text in texts}) >= 10
  assert any("object" in text for text in texts) and any(NAMED.search(text)[1] for text in texts)
  for text in texts:
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  |None", text), text


@pytest.mark.parametrize("level", LEVELS)
def test_captions_afterwards(level):
  for turn in turns_of(level, "train", 60):
    scene = turn.after
    assert len(scene.captions) >= 1 and len(set(scene.captions)) == len(scene.captions)
    assert len(scene.captions) == 1 or LEVELS[level].sizes
    groups = Counter((o.color, o.shape) for o in scene.objects)
    assert all(color in scene.caption and shape in scene.caption for color, shape in groups)
    if level == "easy":
      assert re.fullmatch(rf"an? {THING}( and an? {THING})?", scene.caption)


# -- layout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEVELS)
def test_every_scene_obeys_the_layout(name):
  level = LEVELS[name]
  border, gap = level.border_px / level.floor, level.gap_px / level.floor
  for turn in turns_of(name, "train", 80, 2) + turns_of(name, "heldout", 20, 2):
    for scene in (turn.before, turn.after):
      assert 1 <= len(scene.objects) <= level.max_objects
      boxes = [box_of(o) for o in scene.objects]
      for x0, y0, x1, y1 in boxes:
        assert min(x0, y0, 1 - x1, 1 - y1) >= border - 1e-9
      for a, b in itertools.combinations(boxes, 2):
        apart = max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])
        assert apart >= gap - 1e-9


# -- held-out compositions ------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_train_and_val_never_contain_a_heldout_composition(level):
  for turn in turns_of(level, "train", 300, 2) + turns_of(level, "val", 60, 2):
    assert not turn.edit.heldout and not heldout_in_facts(turn.edit.facts)
    assert not HELDOUT_WORDS.search(turn.edit.instruction)
    for scene in (turn.before, turn.after):
      assert not scene.heldout and not heldout_in_objects(scene.objects)
      assert not any(HELDOUT_WORDS.search(text) for text in scene.captions)


@pytest.mark.parametrize("level", LEVELS)
def test_every_heldout_edit_is_of_a_heldout_composition(level):
  kinds = Counter()
  for turn in turns_of(level, "heldout", 100) + turns_of(level, "heldout", 30, 2):
    edit = turn.edit
    assert edit.heldout
    if edit.kind == "remove":
      assert HELDOUT_WORDS.search(edit.instruction)
    else:
      facts = [f for f in edit.facts if f.kind != "absent"]
      assert heldout_in_facts(facts) and heldout_in_objects(turn.after.objects)
    kinds[edit.kind] += 1
  assert set(kinds) == set(edit_kinds(level))


# -- kinds and prompts ----------------------------------------------------------------------------


def test_kinds():
  assert edit_kinds("full") == EDITS
  assert edit_kinds("easy") == edit_kinds("counts") == EDITS[:-1]
  drawn = Counter(t.edit.kind for t in turns_of("easy", "train", 400))
  assert set(drawn) == set(edit_kinds("easy")) and min(drawn.values()) > 0.6 * 400 / 5


@pytest.mark.parametrize("heldout", [False, True])
def test_prompts(heldout):
  for kind in edit_kinds("easy"):
    chosen = edit_prompts("easy", kind, heldout, 12)
    assert edit_prompts("easy", kind, heldout, 20)[:12] == chosen
    assert {(t.edit.kind, t.edit.heldout) for t in chosen} == {(kind, heldout)}
    assert len({t.before.objects for t in chosen}) == 12
    assert edit_prompts("easy", kind, heldout, 1, seed=1)[0] not in chosen


def test_prompts_are_no_training_edits():
  made = turns_of("easy", "train", 300, 2) + turns_of("easy", "val", 100)
  known = {t.before.objects for t in made} | {
    make_scene(i, "easy", "train").objects for i in range(300)
  }
  asked = {t.before.objects for kind in EDITS[:-1] for t in edit_prompts("easy", kind, False, 20)}
  assert not known & asked


def test_unknown_names_are_named():
  with pytest.raises(ConfigError, match=r"'eazy' is not a level.*Nearest: 'easy'"):
    make_edit(0, "eazy", "train")
  with pytest.raises(ConfigError, match=r"'test' is not a split.*heldout"):
    make_edit(0, "easy", "test")
  with pytest.raises(ConfigError, match="turns=0 leaves nothing"):
    make_edits(0, "easy", "train", turns=0)
  with pytest.raises(ConfigError, match=r"'resize' is a kind of edit of other levels.*recolor"):
    edit_prompts("easy", "resize", False, 1)
  with pytest.raises(ConfigError, match="'rotate' is no kind of edit"):
    edit_prompts("full", "rotate", False, 1)


# -- the source of a build ------------------------------------------------------------------------


def t2i(*argv):
  parser = argparse.ArgumentParser()
  data.add_flags(parser)
  return data.run(parser.parse_args(list(map(str, argv)))) or 0


def test_edits_are_built_and_verified(tmp_path, capsys):
  out = tmp_path / "out"
  counts = ("--count", 12, "--val-count", 4, "--heldout-count", 4)
  options = ("--level", "easy", "--size", 40, "--seed", 2, "--workers", 1)
  assert t2i("build", "--from", "edits", "--to", out, *options, *counts) == 0
  assert t2i("verify", out, "--workers", 1) == 0
  assert "20 records, all sound" in capsys.readouterr().out
  assert read_manifest(out)["made_by"]["source"] == "edits"
  for split in ("train", "val", "heldout"):
    source = ShardSource(out, split)
    for index in range(len(source)):
      record = source[index]
      turns = make_edits(index, "easy", split, 2, TURNS[index % 2])
      scenes = [turns[0].before, *(turn.after for turn in turns)]
      assert record.captions == scenes[0].captions
      assert record.texts[1:] == tuple(turn.edit.instruction for turn in turns)
      assert record.meta["heldout"] == (split == "heldout") and record.meta["level"] == "easy"
      assert [t["kind"] for t in record.meta["turns"]] == [t.edit.kind for t in turns]
      stated = [record.meta["facts"], *(t["facts"] for t in record.meta["turns"])]
      for image, scene, facts in zip(record.images, scenes, stated, strict=True):
        np.testing.assert_array_equal(np.asarray(decode(image)), render(scene, 40))
        assert facts_from_json(facts) == scene.facts
