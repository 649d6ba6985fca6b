"""Edits as text: of scenes, by a language model, and their files."""

import json
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from t2i_jax.cli.main import main
from t2i_jax.data.edit_texts import EditTriple, read_edit_texts, scene_texts, write_edit_texts
from t2i_jax.data.edit_writer import EXAMPLES, parse, prompt_of, written
from t2i_jax.data.scenes import MOVE, edit_kinds, edit_prompts, holds, make_edit_of, render
from t2i_jax.data.scenes.edit_captions import drawn_edit, edit_text
from t2i_jax.data.scenes.heldout import heldout_in_objects
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.evaluation.edit_judge import judge_edit

KINDS = ("recolor", "reshape", "add", "remove", "swap", MOVE)
EDIT = EditTriple("a red circle", "make it blue", "a blue circle")


@pytest.fixture(scope="module")
def texts():
  return scene_texts("easy", 120)[0]


def test_all_kinds_in_equal_parts_and_each_is_the_text_of_its_scene(texts):
  assert Counter(t.kind for t in texts) == dict.fromkeys(KINDS, 20)
  for triple in texts:
    turn = triple.turn
    text = edit_text(turn)
    assert (text.caption, text.instruction, text.edited) == (
      triple.caption, triple.instruction, triple.edited,
    )  # fmt: skip
    assert all(holds(fact, turn.before.objects) for fact in text.facts)
    assert not any(heldout_in_objects(scene.objects) for scene in (turn.before, turn.after))
    # Places apart, the captions name the objects before and after.
    for caption, scene in ((triple.caption, turn.before), (triple.edited, turn.after)):
      assert all(f"{o.color} {o.shape}" in caption for o in scene.objects)


def test_captions_differ_in_the_words_of_the_edit_alone(texts):
  changed = {"recolor": (1, 2), "reshape": (1, 2), "swap": (1, 1), MOVE: (1, 2)}
  for triple in texts:
    before, after = triple.caption.split(), triple.edited.split()
    if triple.kind in changed and len(before) == len(after):
      least, most = changed[triple.kind]  # "a" and "an", "left of" and "above"
      assert least <= sum(a != b for a, b in zip(before, after, strict=True)) <= most
    if triple.kind == "add":
      assert after[: len(before)] == before


def test_the_edit_of_another_image_of_the_caption(texts):
  """All objects of the scene moved by a little: the exact render of both is right, and that of the
  scene as it was is not kept."""
  for triple in texts:
    turn = triple.turn
    objects = turn.before.objects
    shift = lambda scene: replace(
      scene, objects=tuple(replace(o, x=o.x + 0.004, y=o.y - 0.004) for o in scene.objects)
    )
    moved, after = shift(turn.before), shift(turn.after)
    edit = drawn_edit(turn, edit_text(turn), moved.objects)
    assert {(o.x, o.y) for o in edit.kept} <= {(o.x, o.y) for o in moved.objects}
    before, right, same = (render(scene, 32) for scene in (moved, after, turn.before))
    assert judge_edit(before, right, edit).correct
    assert not judge_edit(before, same, edit).done
    assert drawn_edit(turn, edit_text(turn), objects[:-1]) is None
    assert drawn_edit(turn, edit_text(turn), (*objects, objects[0])) is None


def test_moves_are_edits_of_their_own_and_no_kind_of_a_level():
  assert MOVE not in edit_kinds("easy") and MOVE not in edit_kinds("full")
  for turn in edit_prompts("easy", MOVE, False, 10):
    (old,), (wanted,) = turn.edit.touched, turn.edit.changed
    (new,) = (o for o in turn.after.objects if o not in turn.before.objects)
    assert wanted.x is None and wanted.r == old.r == new.r and wanted.spec.fits(new)
    image = render(turn.before, 32)
    assert judge_edit(image, render(turn.after, 32), turn.edit).correct
    assert not judge_edit(image, image, turn.edit).done
  with pytest.raises(ConfigError, match="no kind of edit"):
    make_edit_of("paint", 0, "easy", "train")
  with pytest.raises(ConfigError, match="is not a split"):
    make_edit_of(MOVE, 0, "easy", "test")


def test_files_there_and_back_and_the_command(tmp_path, texts, capsys):
  write_edit_texts(tmp_path / "edits.jsonl", {"from": "here"}, [*texts[:6], EDIT])
  assert read_edit_texts(tmp_path / "edits.jsonl") == ({"from": "here"}, [*texts[:6], EDIT])
  with pytest.raises(DataError, match="exists"):
    write_edit_texts(tmp_path / "edits.jsonl", {}, [EDIT])
  to = tmp_path / "of_command.jsonl"
  args = ["data", "edits", "--from=scenes", f"--to={to}", "--count=12", "--kinds=swap,move"]
  assert main(args) == 0 and "12 edits" in capsys.readouterr().out
  about, found = read_edit_texts(to)
  assert about["from"] == "scenes" and about["kinds"] == ["swap", "move"]
  assert [t.kind for t in found] == ["swap", "move"] * 6
  assert main(["data", "edits", f"--from={tmp_path}", f"--to={tmp_path / 'x'}"]) == 2
  assert "--captions=FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
  "line, problem",
  [
    ("{", "line 3: it is no JSON"),
    ("[1]", "line 3: it is no JSON object"),
    ('{"caption": "a", "edited": "b"}', "line 3: 'instruction' is missing or empty"),
    ('{"caption": "a", "instruction": " ", "edited": "b"}', "'instruction' is missing or empty"),
    ('{"caption": "a", "instruction": 1, "edited": "b"}', "'instruction' is missing or empty"),
    ('{"caption": "a", "instruction": "c", "edited": "b", "seed": 1}', "line 3: 'seed' is not one"),
    (
      '{"caption": "a", "instruction": "c", "edited": "b", "scene": {}}',
      "'scene' is not an object",
    ),
  ],
)
def test_a_malformed_line_is_named(tmp_path, line, problem):
  path = tmp_path / "edits.jsonl"
  path.write_text(f"{json.dumps(EDIT.to_json())}\n\n{line}\n")
  with pytest.raises(DataError, match=problem):
    read_edit_texts(path)


def test_a_scene_that_gives_another_instruction_is_named(tmp_path, texts):
  path = tmp_path / "edits.jsonl"
  path.write_text(json.dumps(texts[0].to_json() | {"instruction": "do something else"}))
  with pytest.raises(DataError, match="line 1: the instruction is 'do something else'"):
    read_edit_texts(path)
  path.write_text("\n")
  with pytest.raises(DataError, match="has no edit"):
    read_edit_texts(path)


def test_what_a_language_model_writes_is_parsed_strictly():
  assert parse("a cat", " make it a dog\nEdited caption: a dog") == EditTriple(
    "a cat", "make it a dog", "a dog"
  )
  for text, reason in (
    (" make it a dog", "no line that begins with 'Edited caption:'"),
    (" make it a dog\n\nEdited caption: a dog", "no line that begins"),
    ("\nEdited caption: a dog", "an empty text"),
    (" make it a dog\nEdited caption: ", "an empty text"),
    (" nothing\nEdited caption: A  cat", "the caption itself"),
    (" x\nEdited caption: a dog\nCaption: a bird", "a line that follows"),
    (" Caption: x\nEdited caption: a dog", "the name of a line"),
    (f" {'x' * 301}\nEdited caption: a dog", "more than 300 characters"),
  ):
    with pytest.raises(DataError, match=reason):
      parse("a cat", text)


def test_a_prompt_shows_examples_and_malformed_answers_are_counted():
  prompt = prompt_of("a cat")
  assert prompt.endswith("\n\nCaption: a cat\nInstruction:")
  assert prompt.count("Edited caption:") == len(EXAMPLES)
  # The examples are what `parse` reads.
  shown = prompt.split("\n\n")[0].split("\n", 1)
  assert parse(EXAMPLES[0].caption, shown[1].removeprefix("Instruction:")) == EXAMPLES[0]
  asked = []

  def generate(prompt, seed):
    asked.append((prompt, seed))
    return [" make it old\nEdited caption: an old dog", " no", " no\nEdited caption: a cow"][
      seed - 5
    ]

  found, reasons, skipped = written(["a dog", "a cat", "a cow"], generate, seed=5)
  assert found == [EditTriple("a dog", "make it old", "an old dog")]
  assert reasons == {"no line that begins with 'Edited caption:'": 1, "the caption itself": 1}
  assert [caption for caption, _ in skipped] == ["a cat", "a cow"]
  assert [seed for _, seed in asked] == [5, 6, 7]


def test_streams_are_those_of_no_other_edits(texts):
  """Neither Random nor the scenes of evaluation are shared with the edits that train."""
  assert Random("edits of swap/0/easy/train/0").random() != Random("edits/0/easy/train/0").random()
  trained = {t.turn.before.objects for t in texts if t.kind == MOVE}
  judged = {turn.before.objects for turn in edit_prompts("easy", MOVE, False, 20)}
  assert not trained & judged
  assert np.array_equal(render(texts[0].turn.before, 32), render(texts[0].turn.before, 32))
