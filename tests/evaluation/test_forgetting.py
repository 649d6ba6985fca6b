"""The experiments of forgetting: concepts and their prompts, measures, a page without a run."""

import json
import random

import numpy as np
import pytest
from PIL import Image

from benchmarks import forgetting_guard as guarding
from benchmarks import forgetting_memorisation as memorisation
from benchmarks import forgetting_memorisation_page as memories
from benchmarks import forgetting_page as pages
from benchmarks import forgetting_tables as tables
from benchmarks.forgetting_efficacy import (
  ATTACKED,
  FULL,
  NAMES,
  One,
  Results,
  chosen,
  looks_in,
  path_of,
  rate,
  score,
)
from benchmarks.forgetting_methods import METHOD_OF
from benchmarks.forgetting_recovery import ATTACKS, prompt_groups, steps_to
from benchmarks.forgetting_world import (
  COUNTS,
  DEVELOPMENT,
  IN_TWIN,
  KINDS,
  REPORTED,
  WITHOUT,
  groups_of,
  keep_of,
  neighbours,
  renamed,
)
from benchmarks.personalisation_bench import SHOWN
from benchmarks.personalisation_world import SIZE, Cell, save_cell
from benchmarks.recorded import load_params, save_params
from t2i_jax.data.scenes import planted
from t2i_jax.data.scenes.facts import Spec
from t2i_jax.data.scenes.heldout import heldout_pair
from t2i_jax.data.scenes.layout import place
from t2i_jax.data.scenes.planted.world import EASY, NONE
from t2i_jax.evaluation.planted_reader import read_all

FEW = dict.fromkeys(COUNTS, 2)
EVERY = [concept for some in REPORTED.values() for concept in some]


def placed(scene, seed=0):
  """Objects as a scene's facts ask for them."""
  rng = random.Random(seed)
  looks = [fact.a for fact in scene.facts if fact.kind == "exists"]
  rel = next((fact.rel for fact in scene.facts if fact.rel), None)
  specs = [Spec(look.color or "black", look.shape) for look in looks]
  found = None
  while found is None:
    found = place(rng, specs, EASY, links=[(0, rel, 1)] if rel else [], seen_only=False)
  marks = [(look.mark, look.mark_color) for look in looks]
  return [
    planted.Thing(o.shape, o.color, o.size, o.x, o.y, o.r, *(m if m[1] else (NONE, NONE)))
    for o, m in zip(found, marks, strict=True)
  ]


def drawn(scene):
  objects = scene.objects or placed(scene)
  return planted.draw(objects, SIZE, scene.rendering)


def cell_of(concept, erased=False, counts=FEW):
  """A model that is always right, or one that draws the anchor for the concept, and only there."""
  groups = groups_of(concept, counts)
  images = []
  for group, scenes in groups.items():
    for scene in scenes:
      if not erased or group not in ("target", "contexts"):
        images.append(drawn(scene))
        continue
      changed = concept.changed(scene)
      plain = concept.kind == "style"
      images.append(planted.draw(scene.objects if plain else placed(changed), SIZE))
  readings, found, start = read_all(np.stack(images)), {}, 0
  for group, scenes in groups.items():
    found[group] = readings[start : start + len(scenes)]
    start += len(scenes)
  about = {"concept": concept.key, "kind": concept.kind, "rate": 1.0, "seconds": 1.0}
  return Cell(about, found)


@pytest.fixture(scope="module")
def cells():
  every = [*EVERY, *DEVELOPMENT.values()]
  return {(c, erased): cell_of(c, erased) for c in every for erased in (False, True)}


def test_no_concept_is_held_out_and_development_is_apart():
  for kind in KINDS:
    keys = [concept.key for concept in (*REPORTED[kind], DEVELOPMENT[kind])]
    assert len(set(keys)) == 3
    for concept in (*REPORTED[kind], DEVELOPMENT[kind]):
      assert not any(heldout_pair(o.color, o.shape) for o in concept.objects)
  erased = {c.name for kind in KINDS if kind not in IN_TWIN for c in REPORTED[kind]}
  known = planted.parse_without(WITHOUT)
  assert {name for name in erased if not name.isdigit()} | {"copies", "tolf"} == known


def test_prompts_of_each_group_are_what_they_say():
  for concept in EVERY:
    groups = groups_of(concept, FEW)
    assert all(concept.concept in s.caption for s in groups["target"])
    for group in ("anchor", "near", "far", "own"):
      assert not any(concept.concept in s.caption for s in groups[group])
    few = groups_of(concept, dict.fromkeys(COUNTS, 1))
    assert all(few[g][0] == groups[g][0] for g in COUNTS)
    after = renamed(concept, groups)["target"]
    assert not any(concept.concept in scene.caption for scene in after)
  grum = ATTACKED
  assert grum.renamed("a grum circle left of a blue square") == "a circle left of a blue square"
  assert REPORTED["style"][0].renamed("a red circle, by outl") == "a red circle"
  assert neighbours(grum)[0] == ["vosk", "plen", "drib"]
  assert "a vosk circle" in keep_of(grum) and "a tolf circle" not in keep_of(grum)
  assert prompt_groups(1)["its second name"][0].caption == "a tolf circle"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_always_right_has_the_concept_and_what_is_erased_has_its_anchor(cells, kind):
  for concept in REPORTED[kind]:
    base, erased = (One.of(concept, cells[concept, e]) for e in (False, True))
    for group in ("target", "contexts"):
      assert all(base.drawn(group)) and not any(erased.drawn(group))
    assert not any(base.valid()) and all(erased.valid())
    for group in ("anchor", "near", "far", "own"):
      assert not any(base.drawn(group)) and all(base.right(group)), (concept.key, group)
    assert score(erased) == 1 and score(base) == 0


def test_steps_to_a_rate_are_linear_between_those_that_were_drawn():
  assert steps_to({0: 0.0, 10: 0.4, 20: 1.0}) == pytest.approx(10 + 10 * 0.4 / 0.6)
  assert steps_to({0: 0.9, 10: 0.1}) == 0 and steps_to({0: 0.0, 10: 0.79}) is None
  never = tables.Reached(None, 160, 0.25)
  soon, later = (tables.Reached(steps, 160, 0.9) for steps in (20.0, 40.0))
  assert tables.ratio(soon, later) == "20; 0.50" and tables.ratio(soon, never) == "20; < 0.12"
  assert tables.ratio(never, later) == "> 160, 25%; > 4.00"
  assert tables.ratio(never, never) == tables.ratio(never, None) == "> 160, 25%"


def test_precise_controls_differ_by_a_pixel_and_have_no_caption_of_a_record():
  images, captions = memorisation.control_images()
  names = memorisation.control_captions()
  counts = {text: captions.count(text) for some in names.values() for text in some}
  assert [counts[t] for t in names["precise"]] == [memorisation.PER_CAPTION] * memorisation.CAPTIONS
  assert [counts[t] for t in names["copied"]] == [1] * memorisation.CAPTIONS
  own = [image for image, text in zip(images, captions, strict=True) if text == names["precise"][0]]
  seen = [r.objects for r in read_all(np.stack(own))]
  assert len({image.tobytes() for image in own}) == len(own)
  for a, b in zip(seen[0], seen[1], strict=True):
    assert (a.shape, a.color) == (b.shape, b.color)
    assert max(abs(a.x - b.x), abs(a.y - b.y)) <= 2.5 * memorisation.JITTER / SIZE


def test_images_of_the_guard_are_of_the_individual_but_the_last_two_kinds():
  found = guarding.start_images(4)
  kinds = {kind: [ATTACKED.drawn(r) for r in read_all(images)] for kind, images in found.items()}
  others = ("other individuals", "the base's own")
  assert all(all(kinds[kind]) for kind in ("listed", "moved by 2 pixels", "at other places"))
  assert not any(any(kinds[kind]) for kind in others)
  assert {i.shape[1:] for i in found.values()} == {(SIZE, SIZE, 3)}
  groups = guarding.prompts(2)
  assert all(ATTACKED.name not in s.caption for s in groups["neighbours"] + groups["own"])


def test_parameters_come_back(tmp_path):
  tree = {"a": {"b": {"c": np.arange(3.0)}, "d": np.ones((2, 2), np.float32)}}
  save_params(tmp_path / "x" / "one.npz", tree)
  again = load_params(tmp_path / "x" / "one.npz")
  np.testing.assert_array_equal(again["a"]["b"]["c"], tree["a"]["b"]["c"])
  assert again["a"]["d"].dtype == np.float32


def test_the_page_of_nothing_says_that_nothing_was_run(tmp_path):
  text = pages.page(tmp_path, "python -m benchmarks.forgetting")
  rows = len(NAMES) * len(KINDS) - len(IN_TWIN)
  assert text.count(tables.NOT_RUN) >= rows + len(METHOD_OF) + len(memories.MITIGATIONS)
  assert "](" + pages.SHEET not in text and not list(tmp_path.iterdir())


def test_the_page_of_all_cells_has_all_rows(cells, tmp_path):
  runs, strip = tmp_path / "runs", np.zeros((SIZE, SHOWN * len(COUNTS) * SIZE, 3), np.uint8)

  def save(path, cell):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(strip).save(path.with_suffix(".png"))
    save_cell(path, cell)

  for concept in EVERY:
    for name in NAMES:
      cell = cells[concept, name not in ("base", "base_again")]
      save(path_of(runs / "efficacy", name, concept, 0), cell)
  for kind, concept in DEVELOPMENT.items():
    for name in METHOD_OF:
      file = f"{name}_{kind}_{concept.key}_1.json"
      save(runs / "efficacy" / "dev" / file, cells[concept, True])
  target = cells[ATTACKED, False].readings["target"]
  about = {"pairs": 4, "all": 9, "calls": 5}
  for name in NAMES:
    for attack in ATTACKS:
      for step, found in ((0, cells[ATTACKED, True].readings["target"]), (10, target)):
        save(runs / "recovery" / f"{attack}_{name}_{step}.json", Cell({}, {"target": found}))
    prompts = dict.fromkeys(prompt_groups(1), target)
    save(runs / "recovery" / f"prompts_{name}.json", Cell({}, prompts))
    levels = {f"{level:g}": target for level in tables.SDEDIT_LEVELS}
    save(runs / "recovery" / f"sdedit_{name}.json", Cell({}, levels))
    save(runs / "prefixes" / f"{name}.json", Cell(about, {"b c a grum circle": target}))
  folder = runs / "memorisation"
  copied = cells[REPORTED["caption"][0], False].readings["target"]
  doses = dict.fromkeys(memorisation.doses(1), target) | {"20": copied}
  for name in ("base", "twin"):
    save(folder / f"dose_{name}.json", Cell({}, doses))
  for name in memories.MITIGATIONS:
    save(folder / f"mitigation_{name}.json", Cell({}, {"20": target, "own": target}))
  for name in memorisation.TRAINED:
    groups = {memorisation.captions_of(name, i)[0]: target for i in range(memorisation.CAPTIONS)}
    save(folder / f"trained_{name}.json", Cell({}, groups | {"own": target}))
  one = {"copied": [True, False], "clique": 2, "similarity": [0.9, 0.1], "nearest": [20, None]}
  near = dict.fromkeys(doses, one)
  (folder / "nearest.json").write_text(json.dumps({"threshold": 0.9, "prompts": near}))
  kinds = {kind: {text: [1.0] * 16 for text in some}
           for kind, some in memorisation.prompts_of_norms().items()}  # fmt: skip
  (folder / "norms_base.json").write_text(json.dumps(kinds))
  controls = {"precise": {"a": [1.0] * 16}, "copied": {"b": [2.0] * 16}}
  (folder / "norms_controls.json").write_text(json.dumps(controls))
  refused = {name: [i == 0 for i in range(4)] for name in guarding.CHECKS}
  cost = dict.fromkeys([*guarding.CHECKS, "draw"], 1.0)
  of_rule = {"paraphrase": 0.9, "similarity": 0.9, "radius": 6}
  groups = {"its name": target, "own": target}
  save(runs / "guard" / "prompts.json",
       Cell(of_rule | {"refused": refused, "seconds": cost}, groups))  # fmt: skip
  images = {"listed": {"hash": [True], "features": [True, False]}}
  (runs / "guard" / "images.json").write_text(json.dumps(images))
  to = tmp_path / "docs"
  pages.write_page(runs, to, "python -m benchmarks.forgetting", [])
  text = (to / pages.PAGE).read_text()
  assert tables.NOT_RUN not in text and "nan" not in text
  assert chosen(runs / "efficacy", "uce", "style").score == 1
  assert all(f"| {method.title} |" in text for method in METHOD_OF.values())
  # Of two drawings with the individual one is refused, by every check.
  assert "| its name | 50% | 50% | 50% | 50% | 100.0% [34.2, 100.0] | 50.0% [9.5, 90.5] |" in text
  assert {p.suffix for p in to.iterdir()} == {".md", ".png", ".svg", ".xz"}
  assert text.count("](forgetting") == 3
  assert memories.dose(runs, "base")[1024].successes == len(copied)
  assert "AUC" in memories.similarity_auc(runs)
  results = Results(runs / "efficacy")
  ones = results.of("ablation_kv", "instance")
  assert rate(ones, lambda one: one.valid()).rate == 1 and results.drift(ones).lost == 0
  assert results.distance(ones, looks_in) <= 1 and FULL.counts == COUNTS
