"""Packing against a plain reference, position by position, and the documents that records make."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from t2i_jax.data.documents import (
  NO_DOCUMENT,
  Image,
  Layout,
  Markers,
  Packed,
  Packing,
  Text,
  layout_of,
  patch_positions,
)
from t2i_jax.data.images import encode
from t2i_jax.data.record import Record
from t2i_jax.data.tokenize import BOS, EOS, PAD, Tokenizer
from t2i_jax.errors import ConfigError, DataError

ROWS, COLS, BOI, EOI = 2, 3, 300, 301
PATCHES = ROWS * COLS
SHAPE = (4, 6, 3)


def layout(length=40, images=3, rule="grid"):
  return Layout(length, images, ROWS, COLS, rule, Markers(PAD, BOS, EOS, BOI, EOI))


def make_image(value=0, **how):
  return Image(np.full(SHAPE, value, np.uint8), **how)


words = st.builds(
  lambda ids, predict, hidden: Text(
    np.array(ids, np.int32), predict, np.array(ids) % 2 == 0 if hidden else None),
  st.lists(st.integers(3, 299), min_size=1, max_size=6), st.booleans(), st.booleans(),
)  # fmt: skip
images = st.builds(make_image, st.integers(0, 255), max_t=st.sampled_from([0.0, 0.5, 1.0]),
                     predict=st.booleans())  # fmt: skip
documents = st.lists(st.lists(st.one_of(words, images), min_size=1, max_size=4), max_size=6)


def reference(documents, layout):
  """The row as [2408.11039 sec. 3] describes it, an entry a position."""
  entries, images = [], []
  for number, document in enumerate(documents):
    mine = [("token", BOS, False)]
    for part in document:
      if isinstance(part, Text):
        hidden = part.hidden if part.hidden is not None else [False] * len(part.ids)
        mine += [
          ("token", int(token), part.predict, bool(unseen))
          for token, unseen in zip(part.ids, hidden, strict=True)
        ]
      else:
        mine += [("token", BOI, part.predict)]
        mine += [("patch", (len(images), patch), False) for patch in range(PATCHES)]
        mine += [("token", EOI, False)]
        images.append(part)
    mine += [("token", EOS, True)]
    count = sum(isinstance(part, Image) for part in document)
    if len(entries) + len(mine) > layout.length or len(images) > layout.images:
      del images[len(images) - count :]
      continue
    entries += [(number, *entry, False)[:5] for entry in mine]
  return entries, images


@pytest.mark.newest
@settings(max_examples=150, deadline=None)
@given(documents)
def test_a_row_is_the_reference_entry_by_entry(documents):
  made = layout().pack(documents, SHAPE)
  row = made.rows
  entries, images = reference(documents, layout())
  drawn = [float(image.max_t > 0) for image in images]
  assert made.image_weight.tolist() == drawn + [0.0] * (3 - len(images))
  for n, image in enumerate(images):
    assert np.array_equal(made.images[n], image.image) and made.max_t[n] == image.max_t
  for i in range(layout().length):
    if i >= len(entries):
      assert (row.tokens[i], row.patch[i], row.doc[i]) == (PAD, -1, NO_DOCUMENT)
      continue
    _, kind, what, _, hidden = entries[i]
    assert row.hidden[i] == hidden
    if kind == "token":
      assert (row.tokens[i], row.patch[i]) == (what, -1)
    else:
      assert (row.tokens[i], row.patch[i]) == (PAD, what[0] * PATCHES + what[1])
      assert row.starts[what[0]] + what[1] == i
    # What position i learns is the token at i + 1, if that is one to be written.
    after = entries[i + 1] if i + 1 < len(entries) else None
    learns = after is not None and after[0] == entries[i][0] and after[1] == "token" and after[3]
    assert bool(made.text_weight[i]) == bool(learns)
    for j in range(len(entries)):
      same_image = kind == "patch" == entries[j][1] and what[0] == entries[j][2][0]
      sees = entries[i][0] == entries[j][0] and (j <= i or same_image)
      assert sees == (row.doc[i] == row.doc[j] and j <= row.end[i])
  kept = len({entry[0] for entry in entries})
  assert row.left_out == len(documents) - kept


@pytest.mark.parametrize("rule, where, after", [
  ("sequence", [[k, k] for k in range(6)], 6),
  ("grid", [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]], 3),
  ("centred", [[2, 1], [2, 2], [2, 3], [3, 1], [3, 2], [3, 3]], 6),
])  # fmt: skip
def test_where_patches_stand(rule, where, after):
  positions, distance = patch_positions(rule, ROWS, COLS)
  assert positions.tolist() == where and distance == after


def test_places_restart_with_each_document_and_go_on_after_an_image():
  row = layout().pack([[Text(np.array([5, 6]))], [Text(np.array([7])), make_image()]], SHAPE)
  places = row.rows.positions
  assert places[:4].tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]  # BOS 5 6 EOS
  assert places[4:7].tolist() == [[0, 0], [1, 1], [2, 2]]  # BOS 7 BOI
  assert places[7:13].tolist() == [[3, 3], [3, 4], [3, 5], [4, 3], [4, 4], [4, 5]]
  assert places[13:15].tolist() == [[6, 6], [7, 7]]  # EOI EOS


def record(key, *turns, color=(200, 10, 10)):
  png = encode(PILImage.new("RGB", (6, 4), color), format="PNG")
  return Record(png, (f"caption {key}",), key, {}, tuple((text, png) for text in turns))


def packing(**shares):
  tokenizer = Tokenizer.bytes()
  packed = Packed(length=200, images=6, window=4, **shares)
  return Packing(packed, layout_of(packed, (4, 6), 2, tokenizer), SHAPE, tokenizer, 40)


def kinds(documents):
  say = lambda p: ("w" if p.predict else "i") if isinstance(p, Text) else "P" if p.predict else "p"
  return ["".join(map(say, document)) for document in documents]


RECORDS = [record("a"), record("b", "edit", "again"), record("c"), record("d")]


@pytest.mark.parametrize("shares, expected", [
  ({"image_first": 0.0, "drop": 0.0}, ["wP", "wP", "wP", "wP"]),
  ({"image_first": 1.0, "drop": 0.0}, ["Pw", "Pw", "Pw", "Pw"]),
  ({"image_first": 0.0, "text_only": 1.0, "drop": 0.5}, ["w"] * 4),
  ({"image_first": 0.0, "interleaved": 1.0, "drop": 0.0}, ["wPwP", "wPwP"]),
  ({"image_first": 0.0, "drop": 1.0}, ["P", "P", "P", "P"]),
  ({"image_first": 0.0, "interleaved": 1.0, "drop": 1.0}, ["Pp", "Pp"]),
])  # fmt: skip
def test_documents_by_kind(shares, expected):
  made = packing(**shares).documents(RECORDS, np.random.default_rng(0))
  assert kinds(made) == expected


def test_edited_documents_have_some_of_the_turns_and_learn_the_last_image_at_every_t():
  made, rng = packing(image_first=0.0, edited=1.0, drop=0.0, max_t=0.3), np.random.default_rng(0)
  found = [made.documents(RECORDS[1:2], rng)[0] for _ in range(200)]
  assert set(kinds(found)) == {"wPiP", "wPiPiP", "PiP", "PiPiP"}
  for document in found:
    most = [part.max_t for part in document if isinstance(part, Image)]
    assert most == [0.3] * (len(most) - 1) + [1.0]
  assert kinds(made.documents(RECORDS[:1], rng)) == ["wP"]  # it has none


@pytest.mark.parametrize("shares, expected", [
  ({"image_first": 0.0}, {"iP"}),
  ({"image_first": 0.0, "interleaved": 1.0}, {"iPiP"}),
  ({"image_first": 0.0, "edited": 1.0}, {"iP", "iPiP", "iPiPiP", "PiP", "PiPiP"}),
  ({"image_first": 0.5, "text_only": 0.5}, {"Pw", "w"}),  # nothing is drawn from these
])  # fmt: skip
def test_what_an_image_is_drawn_from_need_not_be_written(shares, expected):
  """The BOI after it is, and what is said of an image or alone."""
  made, rng = packing(drop=0.0, prompt_loss=False, **shares), np.random.default_rng(0)
  found = [k for _ in range(100) for k in kinds(made.documents(RECORDS, rng))]
  assert set(found) == expected


def test_an_image_that_comes_first_is_mixed_with_less_noise():
  made = packing(image_first=1.0, max_t=0.3)(RECORDS, np.random.default_rng(0))
  assert made.max_t[:4].tolist() == [np.float32(0.3)] * 4
  assert packing(image_first=0.0)(RECORDS, np.random.default_rng(0)).max_t.tolist() == [1.0] * 6
  shown = packing(image_first=1.0, max_t=0.0)(RECORDS, np.random.default_rng(0))
  assert not shown.image_weight.any() and (shown.rows.starts > 0).sum() == 4


def test_words_are_dropped_after_an_image_and_nowhere_else():
  """Instructions and captions that come before their image are what it is drawn from."""
  made, rng = packing(image_first=0.5, edited=0.25, word_dropout=0.3), np.random.default_rng(0)
  found = [document for _ in range(200) for document in made.documents(RECORDS, rng)]
  after = [p[1] for p in found if kinds([p]) == ["Pw"]]
  share = np.mean(np.concatenate([part.hidden for part in after]))
  assert 0.27 < share < 0.33
  rest = [part for p in found if kinds([p]) != ["Pw"] for part in p if isinstance(part, Text)]
  assert rest and all(part.hidden is None for part in rest)


def test_shares_are_kept_over_many_windows():
  rng, made = np.random.default_rng(0), packing(image_first=0.2, text_only=0.1, interleaved=0.3)
  found = [k for _ in range(400) for k in kinds(made.documents(RECORDS[:1] * 4, rng))]
  texts = [k for k in found if "w" in k]
  assert 0.85 < len(texts) / len(found) < 0.95  # a tenth is dropped, a text alone never
  first = sum(k == "Pw" for k in texts) / len(texts)
  assert 0.17 < first < 0.25


def test_it_can_be_pickled_and_names_a_bad_record():
  made = pickle.loads(pickle.dumps(packing()))
  with pytest.raises(DataError, match=r"record 'bad': .*cannot be decoded"):
    made([Record(b"no image", ("x",), "bad")], np.random.default_rng(0))
  with pytest.raises(DataError, match="record 'long': its text"):
    made = packing(image_first=0.0, edited=1.0)
    made([record("long", "x" * 100)], np.random.default_rng(0))


@pytest.mark.parametrize("packed, words", [
  (Packed(positions="spiral"), "'spiral' is not one of grid"),
  (Packed(length=9), "Use rows.length=10 or more"),
  (Packed(image_first=0.9, text_only=0.3), "sum to at most 1"),
])  # fmt: skip
def test_bad_rows_are_refused(packed, words):
  with pytest.raises(ConfigError, match=words):
    layout_of(packed, (4, 6), 2, Tokenizer.bytes())


@pytest.mark.parametrize("marker", [BOI, EOI])
def test_a_marker_of_images_among_words_is_refused(marker):
  with pytest.raises(DataError, match=rf"BOI \({BOI}\) or EOI \({EOI}\)"):
    layout().pack([[make_image(), Text(np.array([5, marker], np.int32))]], SHAPE)
