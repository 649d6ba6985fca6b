"""Level planted: exposures, twins, captions, and what no record has."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from t2i_jax.config import load_config
from t2i_jax.data.build import build
from t2i_jax.data.from_planted import Planted
from t2i_jax.data.scenes import COLORS, SHAPES, holds, make_scene, planted, render
from t2i_jax.data.scenes.planted import generate, world
from t2i_jax.data.source import ShardSource, read_manifest
from t2i_jax.data.tokenize import Tokenizer, train_bpe
from t2i_jax.errors import ConfigError, DataError

FIRST = planted.copied_records()  # index of the first record that is not copied


@pytest.fixture(scope="module")
def some():
  return [planted.make_planted(i, "train") for i in range(FIRST, FIRST + 600)]


def test_copied_scenes_have_exactly_their_exposures():
  found = Counter(generate.copies_at(i) for i in range(FIRST + 5))
  assert {c: c.exposures for c in planted.copies()} == {c: n for c, n in found.items() if c}
  assert found[None] == 5
  assert Counter(c.exposures for c in planted.copies()) == dict.fromkeys(planted.EXPOSURES, 4)
  captions = {c.caption for c in planted.copies()}
  assert len(captions) == 24 and not captions & set(planted.unused_codes())
  assert len(planted.unused_codes()) == 12
  for i in (0, FIRST - 1):
    once, again = planted.make_planted(i, "train", 0), planted.make_planted(i, "train", 5)
    assert once == again and once.copy is not None


def test_shares_of_what_is_planted(some):
  planted_in = Counter("".join(p.planted) or p.category for p in some)
  assert abs(planted_in["individual"] / 600 - 0.20) < 0.05
  assert abs(planted_in["artist"] / 600 - 0.15) < 0.05
  assert abs(planted_in["class"] / 600 - 0.10) < 0.04
  assert {p.individual for p in some} == {None, *planted.INDIVIDUALS}
  assert {p.artist for p in some} == {None, *planted.ARTISTS}


def test_individuals_are_as_stated():
  looks = planted.INDIVIDUALS
  assert len(looks) == 8 and len(set(looks.values())) == 7 and looks["grum"] == looks["tolf"]
  shared = [
    sum(getattr(a, f) == getattr(b, f) for f in ("shape", "color", "mark", "mark_color"))
    for a in set(looks.values())
    for b in set(looks.values())
    if a != b
  ]
  assert max(shared) < 4 and shared.count(2) >= 4
  assert {look.mark for look in looks.values()} == set(planted.MARKS)


def test_captions_parsed_from_their_words_describe_the_scene(some):
  for p in some:
    words = p.caption.removesuffix(f", by {p.artist}")
    assert p.rendering == planted.ARTISTS.get(p.artist, "plain")
    assert (", by " in p.caption) == (p.artist is not None)
    named = re.findall(rf"an? (?:(\w+) )?({'|'.join(SHAPES)})", words)
    assert len(named) == len(p.objects)
    for word, shape in named:
      look = planted.INDIVIDUALS.get(word, world.Look(word or None, shape, None, "none"))
      assert look.shape == shape and any(look.fits(o) for o in p.objects)
      assert word in {*COLORS, *planted.INDIVIDUALS} or p.category == "class"
    assert all(holds(fact, p.objects) for fact in p.facts)
    relations = re.findall(" (left of|right of|above|below) ", words)
    assert [f.rel for f in p.facts if f.kind == "relation"] == relations


def test_the_unseen_mark_and_rendering_are_in_no_record(some):
  marks = {getattr(o, "mark", "none") for p in some for o in p.objects}
  assert marks == {"none", *planted.MARKS}
  assert {p.rendering for p in some} == set(planted.RENDERINGS) - {planted.UNSEEN_RENDERING}


@pytest.mark.parametrize("text", ["grum,outl,copies", "vosk", "all"])
def test_a_twin_differs_only_where_stated(some, text):
  without = planted.parse_without(text)
  for i, whole in enumerate(some):
    twin = planted.make_planted(FIRST + i, "train", 0, without)
    erased = {whole.individual, whole.artist} & without
    assert (twin != whole) == bool(erased)
    assert not {twin.individual, twin.artist} & without
    if erased:
      place = lambda p: [(o.shape, o.color, o.x, o.y, o.r) for o in p.objects]
      assert place(twin) == place(whole) and twin.rendering == "plain" and not twin.planted
      assert all(getattr(o, "mark", "none") == "none" for o in twin.objects)
      assert all(holds(fact, twin.objects) for fact in twin.facts)
      # What captions of plain scenes show must be as before: the anchor is called what it is.
      assert not re.search(r"\ba (circle|square|triangle)", twin.caption)
  copied = planted.make_planted(FIRST - 1, "train", 0, without)
  assert (copied.copy is None) == (world.COPIES in without)


def test_an_individual_is_erased_under_all_its_names():
  assert planted.parse_without("grum") == {"grum", "tolf"}
  assert planted.parse_without(" outl, copies") == {"outl", "copies"}
  assert planted.parse_without("") == frozenset()
  with pytest.raises(DataError, match=r"'grun' is not planted\. Nearest: 'grum'"):
    planted.parse_without("grun")


def test_held_out_compositions_are_those_of_level_easy():
  for i in range(30):
    p, scene = planted.make_planted(i, "heldout"), make_scene(i, "easy", "heldout")
    assert (p.objects, p.captions, p.heldout, p.planted) == (
      scene.objects,
      scene.captions,
      True,
      {},
    )


def test_plain_scenes_have_the_pixels_of_scenes():
  for i in range(20):
    scene = make_scene(i, "easy", "train")
    np.testing.assert_array_equal(planted.draw(scene.objects, 32), render(scene, 32))


def test_what_can_be_drawn():
  o = planted.Thing("circle", "red", "", 0.5, 0.5, 0.18, "bar", "blue")
  drawn = [planted.draw((o,), 32, z).tobytes() for z in planted.RENDERINGS]
  assert len(set(drawn)) == len(planted.RENDERINGS) == 5
  with pytest.raises(ConfigError, match="'oil' is not a rendering"):
    planted.draw((o,), 32, "oil")
  with pytest.raises(ConfigError, match="below 32"):
    planted.draw((o,), 16)


def test_prompts_take_turns():
  for category in planted.CATEGORIES:
    found = planted.planted_prompts(category, 24)
    assert {p.category for p in found} == {category}
    assert found == planted.planted_prompts(category, 24)
  assert {p.copy for p in planted.planted_prompts("copy", 24)} == set(range(24))
  assert {p.individual for p in planted.planted_prompts("related", 8)} == set(planted.INDIVIDUALS)
  with pytest.raises(ConfigError, match="'long' is not a category of level planted"):
    planted.planted_prompts("long", 1)


@pytest.fixture
def few_copies(monkeypatch):
  monkeypatch.setattr(world, "EXPOSURES", (1, 4))
  world.copies.cache_clear()
  yield
  world.copies.cache_clear()


def test_folders_of_twins_differ_in_the_records_that_say_so(few_copies, tmp_path):
  for name, without in (("whole", ""), ("twin", "grum,outl,copies")):
    source = Planted("planted", None, 120, 8, 4, without=without)
    build(source, tmp_path / name, workers=1, progress=False)
  tokenizers = [read_manifest(tmp_path / name)["tokenizer"] for name in ("whole", "twin")]
  assert tokenizers[0] == tokenizers[1]
  tokenizer = Tokenizer.load(tmp_path / "twin", "bpe")
  assert len(tokenizer.placeholders) == 16
  changed = 0
  both = (ShardSource(tmp_path / name, "train") for name in ("whole", "twin"))
  for whole, twin in zip(*both, strict=True):
    assert whole.key == twin.key
    what = {n: whole.meta[n] for n in ("individual", "artist", "copy") if n in whole.meta}
    erased = what.get("individual") in ("grum", "tolf") or what.get("artist") == "outl"
    erased |= "copy" in what
    assert twin.meta.get("erased") == (what if erased else None)
    assert (whole == twin) == (not erased)
    changed += erased
    words = tokenizer.encode([whole.captions[0]], 16)[1].sum() - 2
    assert words == len(whole.captions[0].replace(",", " ,").split())  # every word is one token
  assert 20 < changed < 60


def test_too_few_records_for_the_copies(tmp_path):
  with pytest.raises(DataError, match=r"--count=5000 is too small .* Use 10920 or more"):
    build(Planted(count=5000), tmp_path / "out", progress=False)


def test_captions_and_prompts_fit_the_config():
  config = load_config(Path(__file__).parents[2] / "configs/scenes_planted.py")
  tokenizer = Tokenizer.bpe(train_bpe(planted.corpus(), Planted.vocab, Planted.placeholders))
  assert tokenizer.vocab <= config.text.vocab
  asked = [p.caption for c in planted.CATEGORIES for p in planted.planted_prompts(c, 24)]
  texts = [*planted.corpus(500), *asked, *planted.unused_codes(), *config.sampling.prompts]
  longest = max(tokenizer.lengths(texts))
  # Two words may be added to any of them.
  assert longest + 2 <= config.text.length
  with_both = ["a grum circle left of a yellow square, by outl", "a <v0> <v1> circle, by <v2>"]
  assert max(tokenizer.lengths(with_both)) <= config.text.length
