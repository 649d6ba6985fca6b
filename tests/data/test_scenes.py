"""Scenes: what captions claim is in the image, and held-out compositions stay out."""

import functools
import hashlib
import itertools
import re
from collections import Counter

import numpy as np
import pytest
from scipy import ndimage

from t2i_jax.data.scenes import (
  BACKGROUND,
  CATEGORIES,
  COLORS,
  LEVELS,
  RELATIONS,
  SHAPES,
  Object,
  Scene,
  Spec,
  holds,
  make_scene,
  prompts,
  render,
)
from t2i_jax.data.scenes.geometry import (
  relation_between,
)
from t2i_jax.data.scenes.heldout import (
  HELDOUT_COLORS,
  heldout_in_facts,
  heldout_in_objects,
  heldout_triple,
)
from t2i_jax.data.scenes.render import draw
from t2i_jax.data.scenes.vocabulary import INVERSE, SIZES
from t2i_jax.errors import ConfigError

EASY_WORDS = r"an? (\w+) (\w+)"


# Of 21,000 scenes that these tests ask for, half are the same.
one_scene = functools.cache(make_scene)


def scenes(level: str, split: str, n: int) -> list[Scene]:
  return [one_scene(i, level, split) for i in range(n)]


def mask_of(o: Object, side: int = 256) -> np.ndarray:
  """Where one object alone changes the image."""
  return np.any(draw((o,), side) != BACKGROUND, -1)


# -- determinism ----------------------------------------------------------------------------------


def test_a_scene_depends_on_its_index_alone():
  forward = [make_scene(i, "full", "train") for i in range(30)]
  backward = [make_scene(i, "full", "train") for i in reversed(range(30))]
  assert forward == backward[::-1]


def test_splits_seeds_and_indices_draw_different_scenes():
  drawn = {
    make_scene(i, "easy", split, seed).objects
    for i, split, seed in itertools.product(range(20), ("train", "val", "heldout"), (0, 1))
  }
  assert len(drawn) == 120


def test_captions_are_the_same_on_every_python():
  text = "\n".join(s.caption for level in LEVELS for s in scenes(level, "train", 40))
  assert hashlib.sha256(text.encode()).hexdigest()[:16] == "77008adccea33af4"


# -- captions against images --------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_fact_is_true_of_the_image(level, split):
  for scene in scenes(level, split, 300):
    assert all(holds(fact, scene.objects) for fact in scene.facts), scene.caption


def test_easy_captions_parsed_from_their_words_describe_the_image():
  for scene in scenes("easy", "train", 400):
    named = re.findall(EASY_WORDS, scene.caption)
    assert sorted(named) == sorted((o.color, o.shape) for o in scene.objects)
    assert len(scene.caption.split()) <= 12
    found = re.search("left of|right of|above|below", scene.caption)
    assert bool(found) == (scene.category == "relation")
    if found:
      a, b = (next(o for o in scene.objects if (o.color, o.shape) == pair) for pair in named)
      dx, dy = b.x - a.x, b.y - a.y
      lead = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[found[0]]
      other = dy if found[0] in ("left of", "right of") else dx
      assert (lead - abs(other)) * 32 >= 4 - 1e-9


def test_nesting_holds_in_pixels():
  for scene in prompts("full", "surrounding", False, 40):
    (fact,) = (f for f in scene.facts if f.kind == "relation")
    a, b = (next(o for o in scene.objects if s.fits(o)) for s in (fact.a, fact.b))
    inner, outer = (a, b) if fact.rel == "inside" else (b, a)
    away = ndimage.distance_transform_edt(mask_of(outer))
    assert away[mask_of(inner)].min() >= 3 / 64 * 256 - 2  # 3 pixels at 64, less two of rounding
    assert inner.color != outer.color


def test_counts_are_those_of_pixels():
  for scene in scenes("counts", "train", 150):
    _, n = ndimage.label(np.any(render(scene, 96) != BACKGROUND, -1))
    stated = [f.n for f in scene.facts if f.kind == "total"]
    assert stated == [n]


def test_every_category_of_a_level_is_drawn_about_equally():
  for name, level in LEVELS.items():
    seen = Counter(s.category for s in scenes(name, "train", 700))
    assert set(seen) == set(level.categories)
    assert min(seen.values()) > 0.6 * 700 / len(level.categories)
  assert LEVELS["full"].categories == CATEGORIES


def test_a_caption_that_describes_the_whole_image_says_how_many_there_are():
  for scene in scenes("full", "train", 300):
    totals = [f for f in scene.facts if f.kind == "total"]
    whole = scene.category != "negation" or not any(f.kind == "exists" for f in scene.facts)
    assert len(totals) == whole


def test_negation_leaves_the_rest_open():
  extra = [
    s
    for s in prompts("full", "negation", False, 60)
    if len(s.objects) > sum(f.kind == "exists" for f in s.facts)
    and not any(f.kind == "total" for f in s.facts)
  ]
  assert len(extra) > 10
  for scene in extra:
    (absent,) = (f.a for f in scene.facts if f.kind == "absent")
    assert not any(absent.fits(o) for o in scene.objects)


def test_long_captions_are_long_in_every_wording():
  longs = prompts("full", "long", False, 60) + prompts("full", "long", True, 60)
  for scene in longs:
    assert all(len(text.split()) > 90 and text.count(".") >= 8 for text in scene.captions)
    for fact in scene.facts:
      for spec in (fact.a, fact.b):
        words = [w for w in (spec and (spec.color, spec.shape)) or () if w]
        assert all(" ".join(words) in text for text in scene.captions)
  assert {len(s.objects) for s in longs} == {4, 5, 6}


@pytest.mark.parametrize("level", LEVELS)
def test_wording(level):
  for scene in scenes(level, "heldout", 300):
    assert 1 <= len(scene.captions) <= 3 and scene.caption == scene.captions[0]
    assert len(set(scene.captions)) == len(scene.captions)
    for text in scene.captions:
      assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]|  |None|crosss", text), text


# -- layout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEVELS)
def test_floors_on_size_and_separation_measured_in_pixels(name):
  level = LEVELS[name]
  side = 256
  pixel = side / level.floor
  for scene in scenes(name, "train", 60):
    masks = [mask_of(o, side) for o in scene.objects]
    for mask in masks:
      rows, columns = np.nonzero(mask)
      across = min(np.ptp(rows), np.ptp(columns)) / pixel
      assert across >= (7.5 if name == "full" else 6.5)
      edge = min(rows.min(), columns.min(), side - 1 - rows.max(), side - 1 - columns.max())
      assert edge >= level.border_px * pixel - 2
    away = [ndimage.distance_transform_edt(~mask) for mask in masks[:-1]]
    for i, j in itertools.combinations(range(len(masks)), 2):
      if relation_between(scene.objects[i], scene.objects[j]) in ("inside", "surrounding"):
        continue
      gap = away[i][masks[j]].min()
      assert gap >= level.gap_px * pixel - 3


def test_named_sizes_keep_their_bands():
  for scene in scenes("full", "train", 300):
    for o in scene.objects:
      low, high = SIZES[o.size]
      assert low <= o.r <= (0.33 if o.size == "large" else high)


def test_object_numbers():
  assert {len(s.objects) for s in scenes("easy", "train", 200)} == {1, 2}
  assert {len(s.objects) for s in scenes("counts", "train", 200)} == {1, 2, 3, 4}
  assert {len(s.objects) for s in scenes("full", "train", 300)} == {1, 2, 3, 4, 5, 6}


# -- held-out compositions ------------------------------------------------------------------------


@pytest.mark.parametrize("level, n", [("easy", 3000), ("counts", 2000), ("full", 2000)])
def test_train_and_val_never_contain_a_heldout_composition(level, n):
  pairs = re.compile("|".join(f"{c} {s}" for s, c in HELDOUT_COLORS.items()))
  for scene in scenes(level, "train", n) + scenes(level, "val", n // 4):
    assert not scene.heldout
    assert not any(HELDOUT_COLORS[o.shape] == o.color for o in scene.objects)
    assert not heldout_in_objects(scene.objects) and not heldout_in_facts(scene.facts)
    assert not any(pairs.search(text) for text in scene.captions)


@pytest.mark.parametrize("level, n", [("easy", 1000), ("counts", 1000), ("full", 1000)])
def test_heldout_scenes_name_a_heldout_composition(level, n):
  pairs = re.compile("|".join(f"{c} {s}" for s, c in HELDOUT_COLORS.items()))
  kinds = Counter()
  for scene in scenes(level, "heldout", n):
    assert scene.heldout and heldout_in_facts(scene.facts) and heldout_in_objects(scene.objects)
    named = all(pairs.search(text) for text in scene.captions)
    triples = [f for f in scene.facts if f.rel and heldout_triple(f.a, f.rel, f.b)]
    assert named or triples
    kinds["pair" if named else "triple"] += 1
  assert min(kinds.values()) > n / 12


def test_a_tenth_of_the_triples_is_held_out_whichever_way_it_is_said():
  kinds = [Spec(c, s) for c in COLORS for s in SHAPES]
  held = Counter()
  for a, b in itertools.permutations(kinds, 2):
    for rel in RELATIONS:
      assert heldout_triple(a, rel, b) == heldout_triple(b, INVERSE[rel], a)
      held[rel] += heldout_triple(a, rel, b)
  for rel in RELATIONS:
    assert 0.085 < held[rel] / (48 * 47) < 0.115


# -- prompts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("heldout", [False, True])
def test_prompts(heldout):
  for category in CATEGORIES:
    chosen = prompts("full", category, heldout, 60)
    assert chosen == prompts("full", category, heldout, 60)
    assert [s.category for s in chosen] == [category] * 60
    assert {s.heldout for s in chosen} == {heldout}
    assert len({s.caption for s in chosen}) == 60 or (category, heldout) == ("single", True)


def test_prompts_repeat_captions_only_when_there_are_no_more():
  chosen = prompts("easy", "single", False, 250)
  assert len(chosen) == 250
  assert len({s.caption for s in chosen[:21]}) == 21  # 3 shapes, 8 colours, 1 held out each
  assert len({s.caption for s in chosen}) == 21


def test_prompts_are_no_training_scenes():
  train = {s.objects for s in scenes("easy", "train", 2000) + scenes("easy", "val", 500)}
  asked = {s.objects for c in ("single", "relation") for s in prompts("easy", c, False, 100)}
  assert not train & asked


def test_scenes_do_not_run_out():
  drawn = scenes("full", "train", 3000)
  assert len({s.objects for s in drawn}) == 3000
  relations = [s.caption for s in drawn if s.category in ("relation", "long")]
  assert len(set(relations)) > 0.95 * len(relations)


# -- errors ---------------------------------------------------------------------------------------


def test_unknown_names_are_named():
  with pytest.raises(ConfigError, match=r"'eazy' is not a level.*Nearest: 'easy'"):
    make_scene(0, "eazy", "train")
  with pytest.raises(ConfigError, match=r"'test' is not a split.*heldout"):
    make_scene(0, "easy", "test")
  with pytest.raises(ConfigError, match=r"'count' is a category of other levels.*binding"):
    prompts("easy", "count", False, 1)
  with pytest.raises(ConfigError, match="'counting' is no category"):
    prompts("easy", "counting", False, 1)
