"""The judge: near-perfect on renders, deaf to nothing in a caption, and hard to fool."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from benchmarks.proofs import judge_proof
from t2i_jax.data.scenes import (
  BACKGROUND,
  COLORS,
  LEVELS,
  SHAPES,
  Fact,
  Object,
  Spec,
  make_scene,
  prompts,
  render,
)
from t2i_jax.data.scenes.render import draw
from t2i_jax.errors import DataError
from t2i_jax.evaluation.judge import UNKNOWN, judge, read

RED = COLORS["red"]


def drawn(paint, size=32, fine=8):
  """An image painted by PIL, not by our renderer; `paint(draw, scale)`."""
  image = Image.new("RGB", (size * fine, size * fine), BACKGROUND)
  paint(ImageDraw.Draw(image), size * fine)
  return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def disc(x, y, r, color=RED):
  return lambda d, s: d.ellipse([s * (x - r), s * (y - r), s * (x + r), s * (y + r)], fill=color)


def box(x0, y0, x1, y1, color=RED):
  return lambda d, s: d.rectangle([s * x0, s * y0, s * x1 - 1, s * y1 - 1], fill=color)


def both(*paints):
  return lambda d, s: [p(d, s) for p in paints]


def names(image):
  return sorted((o.color, o.shape) for o in read(image))


# -- on exact renders -----------------------------------------------------------------------------

CLAIMS = [
  *((level, LEVELS[level].floor, 0.0, 0.0) for level in LEVELS),
  *((level, LEVELS[level].floor, 0.6, 12.0) for level in LEVELS),
  *((level, 64, 0.0, 0.0) for level in LEVELS),
  ("easy", 32, 1.0, 8.0),
  ("counts", 32, 1.0, 8.0),
  ("full", 64, 1.0, 8.0),
  *(
    pytest.param(level, size, 0.0, 0.0, marks=pytest.mark.proof)
    for level in LEVELS
    for size in (96, 128, 256)
  ),
]


@pytest.mark.parametrize("level, size, blur, noise", CLAIMS)
def test_renders_are_judged_correct(level, size, blur, noise):
  n = 200 if size <= 64 else 80
  scenes = judge_proof.sample_scenes(level, n, seed=11)
  assert judge_proof.accuracy(scenes, size, blur, noise).rate >= 0.995


@pytest.mark.parametrize("level", LEVELS)
def test_captions_with_one_false_fact_are_refused(level):
  scenes = judge_proof.sample_scenes(level, 200, seed=12)
  rates = judge_proof.false_acceptance(scenes, LEVELS[level].floor)
  assert set(rates) >= {"color", "shape", "total", "relation", "swap"}
  assert all(rate.rate < 0.01 for rate in rates.values())


def test_images_do_not_pass_for_other_captions():
  scenes = prompts("full", "binding", False, 60)
  wrong = [judge(render(a, 64), b.facts).correct for a, b in itertools.pairwise(scenes)]
  assert sum(wrong) <= 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("color", COLORS)
def test_each_shape_in_each_color_with_its_place_and_size(shape, color):
  o = Object(shape, color, "medium", 0.37, 0.58, 0.13)
  (seen,) = read(draw((o,), 32))
  assert (seen.shape, seen.color, seen.size) == (shape, color, "medium")
  assert abs(seen.x - o.x) * 32 < 0.1 and abs(seen.y - o.y) * 32 < 0.1
  assert seen.r == pytest.approx(o.r, rel=0.04)


@pytest.mark.parametrize("inner, outer", itertools.permutations(COLORS, 2))
def test_each_color_in_each_other(inner, outer):
  objects = (
    Object("circle", outer, "large", 0.5, 0.5, 0.3),
    Object("triangle", inner, "small", 0.47, 0.53, 0.095),
  )
  seen = read(draw(objects, 48))
  assert [(o.shape, o.color, o.size) for o in seen] == [(o.shape, o.color, o.size) for o in objects]
  a, b = Spec(inner, "triangle"), Spec(outer, "circle")
  image = draw(objects, 48)
  assert judge(image, [Fact("relation", a, "inside", b), Fact("total", n=2)]).correct
  assert judge(image, [Fact("relation", b, "surrounding", a)]).correct
  assert not judge(image, [Fact("relation", b, "inside", a)]).correct
  assert not judge(image, [Fact("relation", a, "below", b)]).correct


def test_a_mirrored_image_swaps_left_and_right_and_keeps_above():
  for scene in prompts("easy", "relation", False, 40):
    (fact,) = (f for f in scene.facts if f.kind == "relation")
    verdict = judge(np.ascontiguousarray(render(scene, 32)[:, ::-1]), scene.facts)
    assert verdict.correct == (fact.rel in ("above", "below"))
    assert verdict.failed == (() if verdict.correct else (fact,))


def test_colors_may_drift():
  rng = np.random.default_rng(0)
  wrong = 0
  for i in range(100):
    scene = make_scene(i, "counts", "val")
    image = render(scene, 32).astype(float)
    tint = rng.uniform(-25, 25, 3)
    away = np.abs(image - BACKGROUND).max(-1, keepdims=True) / 255  # keeps the background
    wrong += not judge(np.clip(image + tint * away, 0, 255).astype(np.uint8), scene.facts).correct
  assert wrong == 0


# -- on images that no scene makes --------------------------------------------------------------


def test_reads_what_another_renderer_draws():
  image = drawn(both(disc(0.25, 0.3, 0.15), box(0.55, 0.5, 0.85, 0.8, COLORS["blue"])))
  assert names(image) == [("blue", "square"), ("red", "circle")]
  facts = [Fact("relation", Spec("red", "circle"), "left of", Spec("blue", "square"))]
  assert judge(image, facts).correct


def test_an_empty_image_holds_nothing():
  blank = np.full((32, 32, 3), BACKGROUND, np.uint8)
  assert read(blank) == ()
  for scene in judge_proof.sample_scenes("full", 100):
    assert not judge(blank, scene.facts).correct


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_satisfies_no_caption(seed):
  rng = np.random.default_rng(seed)
  static = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
  flat = np.full((32, 32, 3), rng.integers(0, 256, 3), np.uint8)
  for image in (static, flat):
    assert not any(judge(image, s.facts).correct for s in judge_proof.sample_scenes("easy", 50))


def test_a_patch_whose_median_is_the_background_is_an_unknown_object():
  image = np.full((32, 32, 3), BACKGROUND, np.uint8)
  for i in range(9):  # stripes of three pale colours
    image[8:17, 10 + i, i // 3] -= 90
  (seen,) = read(image)
  assert (seen.shape, seen.color) == ("square", UNKNOWN)
  np.testing.assert_allclose([seen.x, seen.y], [14.5 / 32, 12.5 / 32], atol=0.01)


def test_an_extra_object_is_counted_and_a_speck_is_not():
  facts = [Fact("exists", Spec("red", "circle")), Fact("total", n=1)]
  alone = disc(0.3, 0.3, 0.16)
  assert judge(drawn(both(alone, box(0.8, 0.8, 0.85, 0.88, (35, 65, 215)))), facts).correct
  verdict = judge(drawn(both(alone, disc(0.75, 0.75, 0.1, COLORS["green"]))), facts)
  assert verdict.failed == (facts[1],) and len(verdict.seen) == 2


@pytest.mark.parametrize(
  "color", [(255, 120, 190), (128, 128, 128), (140, 80, 30), (230, 150, 155), (0, 0, 110)]
)
def test_a_color_outside_the_palette_is_an_unknown_object(color):
  assert names(drawn(disc(0.5, 0.5, 0.18, color))) == [(UNKNOWN, "circle")]


@pytest.mark.parametrize(
  "paint",
  [
    both(disc(0.5, 0.5, 0.2), disc(0.5, 0.5, 0.1, BACKGROUND)),  # a ring
    both(disc(0.35, 0.5, 0.14), disc(0.61, 0.5, 0.14)),  # two that touch
    both(disc(0.5, 0.5, 0.2), box(0.2, 0.5, 0.8, 0.8, BACKGROUND)),  # half a disc
    box(0.2, 0.4, 0.8, 0.6),
    lambda d, s: d.polygon([(s * 0.3, s * 0.3), (s * 0.7, s * 0.3), (s * 0.5, s * 0.65)], fill=RED),
    lambda d, s: d.ellipse([s * 0.2, s * 0.35, s * 0.8, s * 0.65], fill=RED),
  ],
)
@pytest.mark.parametrize("size", [32, 64])
def test_an_outline_unlike_all_shapes_is_an_unknown_object(paint, size):
  assert names(drawn(paint, size)) == [("red", UNKNOWN)]


def test_an_object_in_two_colors_is_two_objects():
  red, blue = (drawn(disc(0.5, 0.5, 0.2, COLORS[c])) for c in ("red", "blue"))
  image = np.concatenate([red[:16], blue[16:]])
  assert names(image) == [("blue", UNKNOWN), ("red", UNKNOWN)]


def test_a_wide_image_is_read_in_units_of_its_shorter_side():
  square = draw((Object("star", "green", "medium", 0.5, 0.5, 0.13),), 64)
  wide = np.concatenate([square, np.full((64, 32, 3), BACKGROUND, np.uint8)], 1)
  (seen,) = read(wide)
  assert (seen.shape, seen.size) == ("star", "medium")
  assert seen.r == pytest.approx(0.13, rel=0.03) and seen.x == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
  "shape, dtype", [((32, 32, 3), np.float32), ((32, 32), np.uint8), ((3, 9, 9), np.uint8)]
)
def test_other_arrays_are_refused_with_their_shape(shape, dtype):
  with pytest.raises(DataError, match=r"the image is \w+ \[.*takes uint8 \[H, W, 3\]"):
    read(np.zeros(shape, dtype))


# -- the page -------------------------------------------------------------------------------------


def test_the_proof_page_is_written(tmp_path, monkeypatch):
  monkeypatch.setattr(judge_proof, "RESOLUTIONS", (48,))
  monkeypatch.setattr(judge_proof, "MANY", 4)
  monkeypatch.setattr(judge_proof, "FALSE_SCENES", 30)
  judge_proof.main(["--to", str(tmp_path)])
  page = (tmp_path / "judge.md").read_text(encoding="utf-8")
  assert "python -m benchmarks.proofs.judge_proof" in page
  assert page.count("| full | ") >= 8 and "{" not in page
  with Image.open(tmp_path / "judge.png") as sheet:
    assert min(sheet.size) > 600
