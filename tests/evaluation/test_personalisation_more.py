"""The experiments of Imagic, ComFusion and DomainGallery: prompts, orders, pages without a run."""

import json
import random

import numpy as np
from PIL import Image

from benchmarks import personalisation_comfusion as comfusion
from benchmarks import personalisation_domain as domain
from benchmarks import personalisation_imagic as imagic
from benchmarks.personalisation_adapt import METHOD_OF, chains
from benchmarks.personalisation_bench import SHOWN, judged
from benchmarks.personalisation_beside import CHUNK, in_turn
from benchmarks.personalisation_more import page
from benchmarks.personalisation_world import SIZE, Cell, read_groups, save_cell
from t2i_jax.data.scenes import planted
from t2i_jax.data.scenes.facts import Spec
from t2i_jax.data.scenes.layout import place
from t2i_jax.data.scenes.planted.world import EASY, NONE
from t2i_jax.evaluation.planted_judge import judge_planted
from t2i_jax.evaluation.planted_reader import read_all


def placed(scene, rng, color="black", shape="square"):
  """Objects as a prompt asks for them.   color, shape: of what it leaves open"""
  looks = [fact.a for fact in scene.facts if fact.kind == "exists"]
  rel = next((fact.rel for fact in scene.facts if fact.rel), None)
  specs = [Spec(look.color or color, look.shape or shape) for look in looks]
  found = None
  while found is None:
    found = place(rng, specs, EASY, links=[(0, rel, 1)] if rel else [], seen_only=False)
  marks = [(look.mark, look.mark_color) for look in looks]
  return tuple(
    planted.Thing(o.shape, o.color, o.size, o.x, o.y, o.r, *(m if m[1] else (NONE, NONE)))
    for o, m in zip(found, marks, strict=True)
  )


def cell_of(groups, objects_of, rendering_of):
  scenes = [(group, scene) for group, some in groups.items() for scene in some]
  images = [planted.draw(objects_of(*one), SIZE, rendering_of(*one)) for one in scenes]
  counts = {group: len(some) for group, some in groups.items()}
  return Cell({"seed": 0}, read_groups(np.stack(images), counts))


def test_the_matrix_of_a_domain_that_is_a_rendering_and_of_one_that_is_copied():
  groups = {name: some[:6] for name, some in domain.prompts().items()}
  rng, with_word = random.Random(0), ("intra", "shape", "color", "cross")
  ask = lambda group, scene: scene.objects or placed(scene, rng)
  rendering = lambda group, _: "hatch" if group in with_word else "plain"
  ideal = cell_of(groups, ask, rendering)
  red = domain.domain_scenes(0)[0].objects
  copied = cell_of(groups, lambda *_: red, lambda *_: "hatch")
  found = [
    domain.rate([cell], names, test, groups).rate
    for cell in (ideal, copied)
    for names, test in (
      (["intra", "shape", "color", "cross"], domain.rendered),
      (["class", "own"], domain.rendered),
      (["color", "cross"], domain.has_color("red")),
      (["shape", "cross"], domain.has_class),
      (["shape", "color", "cross"], domain.right),
    )
  ]
  assert found[:5] == [1, 0, 0, 0, 1] and found[5:] == [1, 1, 1, 1, 0]


def test_the_ten_images_are_circles_of_the_unseen_rendering():
  scenes, images = domain.domain_scenes(1), domain.domain_images(1)
  verdicts = judge_planted(images, scenes)
  assert {v.seen.rendering for v in verdicts} == {"hatch"} and all(v.adherence for v in verdicts)
  assert scenes != domain.domain_scenes(0)


def test_every_relation_and_object_is_in_both_halves_of_the_scenes():
  for field in ("relation", "color", "shape"):
    count = lambda half, field=field: sorted(getattr(scene, field) for scene in half)
    assert count(comfusion.TRAINED) == count(comfusion.HELD_OUT)
  assert not set(comfusion.TRAINED) & set(comfusion.HELD_OUT)


def test_a_subject_in_its_scenes_is_right():
  rng, subject = random.Random(1), comfusion.SUBJECTS[0]
  groups = {name: some[:12] for name, some in comfusion.prompts(subject).items()}
  del groups["own"]
  cell = cell_of(groups, lambda _, scene: placed(scene, rng), lambda *_: "plain")
  verdicts = judged(cell, groups)
  assert all(v.correct for group in verdicts.values() for v in group)
  assert all(v.identity for v in verdicts["heldout"]) and verdicts["class"][0].identity is None
  image = comfusion.training_image(subject)
  (verdict,) = judge_planted(planted.draw(image.objects, SIZE)[None], [image])
  one = comfusion.One(cell, subject, verdicts)
  assert comfusion.place_copied(one, verdict)


def test_rows_take_turns_and_epochs_have_all_images():
  rows = np.concatenate([in_turn([(0, 5), (10, 4)], 2)(3, first) for first in (0, CHUNK)])
  assert rows.shape == (2 * CHUNK, 4)
  own, prior = rows[:, ::2].reshape(-1), rows[:, 1::2].reshape(-1)
  assert set(own) == set(range(5)) and set(prior) == set(range(10, 14))
  for of, n in ((own, 5), (prior, 4)):
    epochs = of[: len(of) // n * n].reshape(-1, n)
    assert all(len(set(epoch)) == n for epoch in epochs)


def test_methods_that_need_anothers_words_are_run_after_it():
  found = chains(METHOD_OF)
  assert sorted(name for some in found for name in some) == sorted(METHOD_OF)
  assert ["inversion", "pivotal"] in found


def test_the_page_of_nothing_says_that_nothing_was_run(tmp_path):
  text = page(tmp_path, tmp_path, "python -m benchmarks.personalisation_more")
  assert text.count("not run") >= len(imagic.WAYS) + len(comfusion.ROWS) + len(domain.ROWS)
  rows = [line for line in text.splitlines() if line.startswith("| exact render")]
  assert rows[0].count("100.0%") == 5
  assert not list(tmp_path.iterdir())


def test_the_page_of_all_cells_has_all_rows(tmp_path, monkeypatch):
  """Of a subject at one place in whatever is drawn."""
  to = tmp_path / "docs"
  to.mkdir()
  image = planted.draw(comfusion.training_image(comfusion.SUBJECTS[0]).objects, SIZE)
  (seen,) = read_all(image[None])

  def save(path, counts, about):
    path.parent.mkdir(parents=True, exist_ok=True)
    strip = np.concatenate([image] * SHOWN * len(counts), axis=1)
    Image.fromarray(strip).save(path.with_suffix(".png"))
    save_cell(path, Cell(about | {"seconds": 1.0}, {g: [seen] * n for g, n in counts.items()}))

  counts_of = lambda groups: {group: len(some) for group, some in groups.items()}
  settings = {"embedding_rate": 1.0, "weight_rate": 1.0, "step": imagic.WEIGHT_STEPS[0]}
  chosen = settings | {"eta": "0.8", "eta_alone": "0.9", "rate": 1.0}
  for name in ("imagic", "comfusion", "domain"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "chosen.json").write_text(json.dumps(chosen))
  monkeypatch.setattr(imagic, "TURNS", 2)
  etas = dict.fromkeys([f"{eta:g}" for eta in imagic.ETAS], len(imagic.SEEDS))
  alone = {imagic.NO_ETA: len(imagic.SEEDS)}
  for job in imagic.jobs(False):
    ways = [("embedding", 1, 0, 0), ("both", 1, 1, imagic.WEIGHT_STEPS[0])]
    for way in ways:
      save(imagic.path_of(tmp_path / "imagic" / "cells", job, *way), etas, {})
    for step in imagic.WEIGHT_STEPS:
      save(imagic.path_of(tmp_path / "imagic" / "cells", job, "weights", 0, 1, step), alone, {})
  for name in ("base", "named", *comfusion.ROWS):
    for subject in comfusion.SUBJECTS:
      counts = counts_of(comfusion.prompts(subject))
      path = tmp_path / "comfusion" / "cells" / f"{name}_{subject.name}_0.json"
      save(path, counts, {"subject": subject.name, "seed": 0})
  counts = counts_of(domain.prompts())
  rows = ["base", *domain.ROWS, *(f"enhanced_{key}" for key in domain.ENHANCED)]
  for name in rows:
    save(tmp_path / "domain" / "cells" / f"{name}_0.json", counts, {"seed": 0})
  for step in (0, *domain.ARTIST_STEPS):
    path = tmp_path / "domain" / "artist" / f"{step}_0.json"
    save(path, counts_of(domain.artist_prompts()), {"seed": 0})
  text = page(tmp_path, to, "python -m benchmarks.personalisation_more")
  assert "not run" not in text and "nan" not in text
  for row in (*comfusion.ROWS.values(), *domain.ROWS.values()):
    assert f"| {row.name} |" in text
  images = [path.suffix for path in to.iterdir()]
  assert sorted(images) == [".png", ".png", ".png", ".svg"]
