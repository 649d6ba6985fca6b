"""The experiment of a third artist: its package is read, concepts are divided, answers tabled."""

import json

import jax
import numpy as np
import pytest

from benchmarks import emoji_artist as experiment
from benchmarks.emoji_artist_judge import (
  BATCH,
  SHIFT,
  SIDE,
  Artist,
  Concepts,
  Parts,
  divided,
  learn,
  read_artist,
  styles_of,
  views,
)
from benchmarks.emoji_artist_runs import METHODS, PERSONALISED, Paths, World, flags_of
from t2i_jax.data.from_emoji import draw_svg
from t2i_jax.evaluation.stats import Rate

NAMES = ("fox", "pizza", "rocket", "crown", "frog", "banana", "light bulb")
KEYS = ("1f98a", "1f355", "1f680", "1f451", "1f438", "1f34c", "1f4a1")
pytest.importorskip("emoji")


@pytest.fixture
def folder(tmp_path):
  square = '<rect width="8" height="8" fill="#ff0000"/>'
  icons = {
    "width": 8, "height": 8,
    "icons": {"fox": {"body": square}, "wide": {"body": square, "width": 16, "left": -8}},
    "aliases": {"fox-face": {"parent": "fox"}},
  }  # fmt: skip
  licence = {"title": "Apache 2.0", "spdx": "Apache-2.0", "url": "https://here"}
  author = {"name": "Someone", "url": "https://there"}
  info = {"name": "Kolt Emoji", "prefix": "kolt", "author": author, "license": licence}
  files = {
    "icons": icons, "chars": {"1f98a": "fox-face", "2764-fe0f": "wide"}, "info": info,
    "package": {"version": "1.2.3"},
  }  # fmt: skip
  for name, content in files.items():
    (tmp_path / f"{name}.json").write_text(json.dumps(content))
  return tmp_path


def test_a_package_of_icons(folder):
  pytest.importorskip("resvg_py")
  artist = read_artist(folder)
  assert artist.name == "Kolt" and set(artist.svgs) == {"1f98a", "2764"}
  whole, half = (np.asarray(draw_svg(artist.svgs[key], 16)) for key in ("1f98a", "2764"))
  assert np.all(whole == (255, 0, 0))
  assert np.all(half[4:12, 8:] == (255, 0, 0)) and np.all(half[:, :8] == 255)


def world_of(folder):
  images = np.zeros((len(KEYS), 3, SIDE, SIDE, 3), np.uint8)
  images[:, 1], images[:, 2] = 120, 240  # an artist is a grey
  concepts = Concepts(KEYS, images, ("OpenMoji", "Twemoji", "Kolt"))
  artist = Artist("Kolt", {}, read_artist(folder).info)
  return World(artist, concepts, divided(concepts, ("fox", "pizza")), 2)


def test_the_concepts_of_each_use_are_apart(folder):
  """The light bulb is of val_concept."""
  world = world_of(folder)
  assert world.parts == Parts([0, 1], [6], [2, 3, 4, 5], [2, 3, 4, 5])
  assert world.judged == [2, 3] and world.templates == ["frog, {}", "banana, {}"]
  groups = world.groups()
  assert groups["word"][0] == ["rocket, Kolt style", "crown, Kolt style"]
  assert groups["plain"][0] == ["rocket", "crown"]
  assert len({seed for kind, (_, seed) in groups.items() if kind != "taught"}) == 1


def test_views_are_shifted_and_mirrored():
  image = np.full((1, SIDE, SIDE, 3), 255, np.uint8)
  image[0, 10, 4] = 0
  found = views(np.repeat(image, 200, 0), np.random.default_rng(0))
  assert found.shape == (200, SIDE, SIDE, 3)
  rows, columns = np.nonzero(np.any(found != 255, (0, 3)))
  near = set(range(4 - SHIFT, 5 + SHIFT))
  assert set(rows.tolist()) == set(range(10 - SHIFT, 11 + SHIFT))
  assert set(columns.tolist()) == near | {SIDE - 1 - x for x in near}


def test_the_classifier_learns_artists_that_differ(folder):
  concepts = world_of(folder).concepts
  params = learn(concepts, [0, 1, 2], steps=20)
  images = np.concatenate([concepts.images[:, i] for i in range(3)])
  many = np.tile(images, (BATCH // len(images) + 1, 1, 1, 1))  # more than a batch
  wanted = np.tile(np.repeat(np.arange(3), len(KEYS)), BATCH // len(images) + 1)
  np.testing.assert_array_equal(styles_of(params, many), wanted)
  assert jax.tree.leaves(params)


def test_the_flags_of_the_verbs(folder, tmp_path):
  world, paths = world_of(folder), Paths(str(tmp_path / "runs"))
  flags = flags_of(paths, world, METHODS["domain_gallery"])
  assert flags[:2] == ["personalise", "--method=domain_gallery"]
  assert flags.count("--class-word=fox") == 1 and "--word=Kolt style" in flags
  flags = flags_of(paths, world, METHODS["forgot_kv"])
  assert flags[0] == "forget" and "--concept=Twemoji style" in flags and "--anchor=" in flags
  assert "--anchor=OpenMoji style" in flags_of(paths, world, METHODS["forgot_for"])
  assert paths.run("enhanced") == paths.run("domain_gallery")


def test_tables_of_answers(folder):
  world = world_of(folder)
  kinds = (*experiment.KINDS, "taught")
  base = {kind: np.array([0, 1]) for kind in kinds}
  answers = {name: base | {"word": np.array([2, 1])} for name in METHODS}
  answers = answers | {"base": base, "enhanced": {"word": np.array([2, 2])}}
  rates = experiment.rates_table(world, answers, ["base", *PERSONALISED], experiment.THIRD)
  lines = rates.splitlines()
  assert lines[0].count("Kolt: ") == 5 and "0.0% [0.0, 65.8]" in lines[2]
  assert "100.0% [34.2, 100.0]" in next(line for line in lines if "enhanced" in line)
  text = experiment.personalised_section(world, answers)
  assert "+50.0 [" in text and "+100.0 [" in text
  assert "Someone, https://there" in experiment.credit(world)
  assert experiment.MIT not in experiment.credit(world)
  assert "Twemoji: ..., OpenMoji style" in experiment.forgotten_section(world, answers)
  whole = [[Rate(2, 2), Rate(0, 2), Rate(0, 2)]] * 3
  assert "| Kolt | 100.0%" in experiment.classifier_section(world, whole, base)
