"""The experiments of personalisation: subjects, and tables of drawings that are known."""

import json
import random
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import personalisation_tables as tables
from benchmarks import personalisation_words as words
from benchmarks import recorded
from benchmarks.personalisation_adapt import METHOD_OF, STEPS
from benchmarks.personalisation_beside import Scaled
from benchmarks.personalisation_settings import balance
from benchmarks.personalisation_world import (
  COUNTS,
  DEVELOPMENT,
  SIZE,
  SUBJECTS,
  Cell,
  WithSubjects,
  all_scenes,
  class_scene,
  load_cell,
  read_groups,
  save_cell,
  shown,
  training_images,
  training_scenes,
)
from t2i_jax.data.scenes import planted
from t2i_jax.data.scenes.heldout import heldout_pair
from t2i_jax.data.scenes.planted import INDIVIDUALS, Thing
from t2i_jax.evaluation.planted_judge import ATTRIBUTES, judge_planted, rates
from t2i_jax.training.optimizer import Optimizers, adamw

FEW = {"alone": 3, "related": 4, "class": 3, "own": 3}


def plain(shape, seed):
  rng = random.Random(f"{shape}/{seed}")
  color = rng.choice(("red", "black"))
  return Thing(shape, color, "", rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), 0.17)


def renders(subject, leaks):
  """What a model draws that is always right, or has the subject wherever its class is."""
  images = []
  for group, scenes in all_scenes(subject, "x", FEW).items():
    for i, scene in enumerate(scenes):
      objects = scene.objects
      if group == "class":
        objects = training_scenes(subject)[:1][0].objects if leaks else (plain(subject.shape, i),)
      images.append(planted.draw(objects, SIZE, scene.rendering))
  return np.stack(images)


def test_no_subject_is_an_individual_or_another_subject():
  looks = [s.look for s in (*SUBJECTS, *DEVELOPMENT)]
  assert len({*looks, *INDIVIDUALS.values()}) == len(looks) + len({*INDIVIDUALS.values()})
  assert not any(heldout_pair(look.color, look.shape) for look in looks)
  known = {(look.shape, look.mark) for look in INDIVIDUALS.values()}
  for subject in SUBJECTS:
    seen = subject.look.mark in {mark for _, mark in known}
    assert subject.tier == ("known" if seen else "unseen")
    assert (subject.shape, subject.look.mark) not in known
  assert len({s.word for s in (*SUBJECTS, *DEVELOPMENT)}) == len(looks)


def test_training_images_show_the_subject_alone_at_other_places():
  for subject in (SUBJECTS[0], SUBJECTS[3]):
    scenes = training_scenes(subject)
    assert scenes[0].caption == f"a {subject.word} {subject.shape}"
    verdicts = judge_planted(training_images(subject), scenes)
    assert all(v.correct and v.identity for v in verdicts)
    assert len({(o.x, o.y) for scene in scenes for o in scene.objects}) == len(scenes)
    assert training_scenes(subject, 2) == scenes[:2]


def test_captions_name_the_subject_and_scenes_do_not_depend_on_its_name():
  frux = SUBJECTS[1]
  one, other = (all_scenes(frux, phrase, FEW) for phrase in ("<v1> circle", "<v1>"))
  assert [s.caption for s in one["alone"]] == ["a <v1> circle"] * 3
  assert [s.caption for s in other["alone"]] == ["a <v1>"] * 3
  for a, b in zip(one["related"], other["related"], strict=True):
    assert a.caption.replace("<v1> circle", "<v1>") == b.caption and a.objects == b.objects
  assert class_scene("circle").caption == "a circle"


def test_an_oracles_records_have_the_subjects_and_the_copies_stay():
  source = WithSubjects(size=SIZE, count=12_000)
  first = planted.copied_records()
  found = [source._record("train", i) for i in range(first, first + 80)]
  names = [r.meta.get("individual") for r in found if r.meta.get("individual") not in INDIVIDUALS]
  of_subjects = [name for name in names if name]
  assert 2 <= len(of_subjects) <= 24 and set(of_subjects) <= {s.name for s in SUBJECTS}
  assert source._record("train", 0).meta.get("copy") is not None


def test_a_rate_that_is_an_argument_is_that_of_the_optimizer():
  params = {"net": {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3)}}
  matrices = {"net": {"w": ((0,), (1,)), "b": None}}

  def moved(rate, scale):
    adam = adamw(lambda _: rate, lambda _: rate, matrices)
    optimizers = Scaled(Optimizers({"model": adam}, {"model": ("net",)}), scale)
    state, now = optimizers.optimizers.init(params), params
    for step in (1.0, -2.0, 0.5):
      grads = jax.tree.map(lambda x, step=step: step * (x + 1), now)
      updates, state = optimizers.update(grads, state, now)
      now = optax.apply_updates(now, updates)
    return now

  expected, found = moved(3e-3, jnp.float32(1)), moved(1.0, jnp.float32(3e-3))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), expected, found)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
  """A base that is always right, a method without fault and one whose subject leaks."""
  runs = tmp_path_factory.mktemp("personalisation")
  settings = {n: {"rate": 1.0, "step": STEPS[0], "score": 1.0} for n, m in METHOD_OF.items()
              if m.rates}  # fmt: skip
  chosen = {"settings": settings, "guidance": 2.5, "guidances": {"2.5": 1.0}}
  (runs / "chosen.json").write_text(json.dumps(chosen))
  for subject in (SUBJECTS[1], SUBJECTS[3]):
    right, wrong = renders(subject, False), renders(subject, True)
    for name, images in (("base", right), ("dreambooth_prior", right), ("dreambooth", wrong)):
      step = 0 if name == "base" else STEPS[0]
      about = {"method": name, "subject": subject.name, "seed": 0, "step": step, "seconds": 1.0}
      cell = Cell(about, read_groups(images, FEW))
      save_cell(runs / "cells" / f"{name}_{subject.name}_0_{step}.json", cell)
  return tables.Results(runs)


def test_what_is_always_right_has_full_marks_and_no_harm(results):
  ones = results.of("dreambooth_prior")
  assert len(ones) == 2 and [o.subject.tier for o in ones] == ["known", "unseen"]
  for group in ("alone", "related"):
    assert tables.identity(ones, group).rate == 1
  assert all(v.correct for one in ones for group in one.verdicts.values() for v in group)
  assert tables.rate(ones, "class", tables.has_mark).rate == 0
  paired = results.paired(ones)
  assert (paired.both, paired.n, paired.p_value) == (6, 6, 1)
  assert tables.distance(results, ones, lambda o: o.color) == 0


def test_a_subject_that_leaks_is_seen_in_its_class(results):
  ones = results.of("dreambooth")
  assert tables.rate(ones, "class", tables.has_mark).rate == 1
  assert tables.rate(ones, "class", tables.has_color).rate == 1
  assert tables.copied(ones, "class").rate == 1
  assert tables.copied(results.of("dreambooth_prior"), "class").rate < 0.5
  assert results.paired(ones, "class").lost == 6
  assert tables.distance(results, ones, lambda o: o.color) == 1


def test_every_table_is_made(results):
  names = ["base", *METHOD_OF]
  for make in (tables.fidelity_table, tables.attribute_table, tables.harm_table,
               tables.copy_table, tables.subject_table):  # fmt: skip
    rows = make(results, names).splitlines()
    assert len({row.count("|") for row in rows}) == 1
    assert sum("DreamBooth" in row for row in rows) >= 2
  assert "| DreamBooth | 25 |" in tables.step_table(results, METHOD_OF)


def test_a_cell_comes_back_with_its_drawings(tmp_path):
  subject = SUBJECTS[0]
  counts = {group: max(n, 3) for group, n in FEW.items()}
  images = renders(subject, False)
  cell = Cell({"subject": subject.name, "step": 3}, read_groups(images, counts))
  save_cell(tmp_path / "one.json", cell, images)
  again = load_cell(tmp_path / "one.json")
  assert again.about == cell.about
  verdicts = cell.judged(subject)["related"]
  assert rates(again.judged(subject)["related"]) == rates(verdicts)
  np.testing.assert_array_equal(shown(tmp_path / "one.png")[3], images[FEW["alone"]])
  assert set(COUNTS) == set(FEW)


def verdicts_of(subject, others, attributes):
  """Of a drawing in each group that is right or not, and the subject's attributes alone."""
  one = lambda right: SimpleNamespace(
    correct=right, attributes=dict(zip(ATTRIBUTES, attributes, strict=True))
  )
  groups = {"alone": subject, "related": subject, "class": others, "own": others}
  return {group: [one(right) for right in found] for group, found in groups.items()}


def test_the_balance_of_a_subject_and_all_else():
  untouched = [verdicts_of([False, False], [True, True], [True, False, False, False])]
  everywhere = [verdicts_of([True, True], [False, False], [True] * 4)]
  half = [verdicts_of([True, False], [True, True], [True] * 4)]
  assert balance(untouched) == (0.0, 0.25) and balance(everywhere) == (0.0, 1.0)
  assert balance(half)[0] == pytest.approx(2 * 0.5 / 1.5)
  assert balance(untouched + everywhere)[0] == 0.5
  del half[0]["related"]
  assert balance(half, ("alone",))[0] == pytest.approx(2 * 0.5 / 1.5)


def test_what_one_word_holds(tmp_path):
  subject, other = words.KNOWN[0], SUBJECTS[0]
  image = planted.draw(training_scenes(subject)[0].objects, SIZE)
  reading = read_groups(image[None], {"x": 1})["x"]
  cell = lambda *phrases: Cell({}, dict.fromkeys(phrases, reading * words.COUNT))
  save_cell(words.path_of(tmp_path, subject, 0), cell(f"{subject.name} {subject.shape}", "grum"))
  save_cell(words.path_of(tmp_path, subject, 400, 1), cell(subject.word))
  save_cell(words.path_of(tmp_path, other, 400), cell(other.word))
  rows = next(line for line in words.section(tmp_path) if line.startswith("| what"))
  found = [line.split(" | ")[2].split()[0] for line in rows.splitlines()[2:]]
  assert found == ["100.0%", "100.0%", "100.0%", "0.0%"]


def test_drawings_of_another_base_are_not_mixed(tmp_path):
  base = {"backbone": {"kernel": jnp.ones((2, 3))}}
  recorded.check_base(tmp_path / "runs", base)
  recorded.check_base(tmp_path / "runs", base)
  with pytest.raises(SystemExit, match="of a base with other weights"):
    recorded.check_base(tmp_path / "runs", jax.tree.map(lambda x: x + 1e-7, base))


def test_what_is_recorded_comes_back_and_stays(tmp_path):
  runs, again, archive = tmp_path / "runs", tmp_path / "again", tmp_path / "x.tar.xz"
  recorded.restore(again, archive)
  (runs / "cells").mkdir(parents=True)
  (runs / "chosen.json").write_text("{}")
  (runs / "cells" / "a.json").write_text("first")
  recorded.record(runs, runs.rglob("*.json"), archive)
  same = archive.read_bytes()
  recorded.record(runs, [], archive)
  assert archive.read_bytes() == same  # what is not given stays, and the same gives the same
  (again / "cells").mkdir(parents=True)
  (again / "cells" / "a.json").write_text("newer")
  recorded.restore(again, archive)
  assert (again / "chosen.json").read_text() == "{}"
  assert (again / "cells" / "a.json").read_text() == "newer"
