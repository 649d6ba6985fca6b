"""Pairs drawn side by side by a tiny DiT of random weights, beside plain drawing; the verb."""

import jax
import numpy as np
import pytest
from golden_folders import write_golden
from PIL import Image
from toys import TINY_DIT, saved

from t2i_jax.cli.main import main
from t2i_jax.config import load_config
from t2i_jax.edit import METHODS, Request
from t2i_jax.edit.pairs import How, Pairs
from t2i_jax.edit.prompt_to_prompt import PromptToPrompt
from t2i_jax.edit.towers import places_of
from t2i_jax.edit.word_maps import Grid, blended, own_grid
from t2i_jax.errors import ConfigError, PromptError
from t2i_jax.inference import open_model, open_pipeline
from t2i_jax.systems.tasks import Start

TINY = TINY_DIT | {
  "sampling.solver": "euler", "sampling.steps": "5", "sampling.batch": "2", "sampling.cfg": "3.0",
}  # fmt: skip
SOURCE, TARGET, SEEDS = "a red circle", "a blue circle", (3, 4)
REQUEST = Request(SOURCE, TARGET, SEEDS)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("edit") / "run"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
    saved(folder, load_config("configs/scenes_dit_flow.py", TINY))
  return folder


@pytest.fixture(scope="module")
def model(workdir):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
    return open_model(workdir)


@pytest.fixture(scope="module")
def plain(model):
  return {prompt: model.draw([prompt] * 2, SEEDS).astype(int) for prompt in (SOURCE, TARGET)}


def near(a, b):
  return np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1


@pytest.mark.newest
def test_beside_plain_drawing(model, plain):
  """The source is as if drawn alone, and so is the target in no steps; of one prompt both are the
  same. Blending leaves what is outside the region."""
  method = PromptToPrompt(blend="circle", threshold=0.0, maps=True)
  pairs = Pairs(model, How(blends=True, first=1, keeps=True))
  texts = method._texts(model.system, REQUEST)
  same = method._texts(model.system, REQUEST._replace(target=SOURCE))

  def drawn(texts, cross, threshold=0.0, inside=1.0):
    request = REQUEST._replace(target=next(p for p in texts[1].prompts if p).prompt)
    how = PromptToPrompt(inside=inside, blend="circle", maps=True)
    return pairs.draw(how._given(model, request, texts, pairs.steps, cross), threshold)

  edited, never = drawn(texts, 1.0), drawn(texts, 0.0, inside=0.0)
  assert near(edited.before, plain[SOURCE]) and near(never.before, plain[SOURCE])
  assert near(never.after, plain[TARGET])
  assert not near(edited.after, plain[TARGET]) and not near(edited.after, plain[SOURCE])
  alike = drawn(same, 1.0)
  assert near(alike.after, alike.before)
  assert pairs._sample._cache_size() == 1  # prompts, steps and threshold are arguments

  region = drawn(texts, 1.0, 0.999)
  differs = np.any(np.abs(region.after.astype(int) - region.before) > 1, axis=-1)
  assert 0 < differs.mean() < 0.8  # of 16 tokens a mask has one or two
  by_step, by_layer = edited.recorded
  assert by_step.shape == (2, 2, 5, 4, 4, 4) and by_layer.shape == (2, 2, 2, 4, 4, 4)
  np.testing.assert_allclose(by_step.mean(2), by_layer.mean(2), atol=1e-5)
  assert by_step.min() >= 0 and by_step[..., 1:].sum(-1).max() <= 1 + 1e-5
  np.testing.assert_array_equal(by_step[..., 0], by_step[..., 3])  # "circle" is word 2 of three


def test_an_image_comes_back_beside_its_edit(model, workdir):
  """The source's row is inverted and drawn at scale 1, as t2i sample --invert does at --cfg=1."""
  image = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
  found = PromptToPrompt(cross=0.6)(model, REQUEST._replace(image=image))
  unguided = open_model(workdir, {"sampling.cfg": "1.0"})
  start = Start(np.stack([image] * 2), source=[SOURCE] * 2)
  assert near(found.before, unguided.redraw([SOURCE] * 2, list(SEEDS), start))
  assert not near(found.after[0.6], found.before)


def test_what_is_refused_before_anything_is_compiled(model):
  call = lambda how, **more: PromptToPrompt(**how)(model, REQUEST._replace(**more))
  for how, more, words in (
    ({"blend": "square"}, {}, "'square' is no word"),
    ({"reweight": "red=2"}, {}, "'red' is no word of 'a blue circle'"),
    ({"blend": "red,blue,circle"}, {}, "give a word, or one of each prompt"),
    ({"kind": "replace"}, {"target": "a large blue circle"}, "--kind=refine"),
  ):
    with pytest.raises(PromptError, match=words):
      call(how, **more)
  for how, more, words in (
    ({"kind": "mix"}, {}, "not one of replace, refine"),
    ({"reweight": "red"}, {}, "write WORD=NUMBER"),
    ({"joint": "all"}, {}, "--joint=all is not one of image, whole"),
    ({"joint": "whole"}, {}, "no joint attention of text and image"),
    ({}, {"strengths": (1.5,)}, "--strengths=1.5 is not in"),
    ({}, {"mask": np.ones((16, 16), bool)}, "Use --blend=WORD"),
  ):
    with pytest.raises(ConfigError, match=words):
      call(how, **more)


def test_blending_by_hand():
  """Above the threshold in either row the target stays, elsewhere it is the source."""
  x = np.arange(2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4, 1)
  maps = np.zeros((2, 2, 2), np.float32)
  maps[0, 0, 0], maps[1, 1, 1], maps[1, 0, 1] = 5.0, 0.2, 0.05
  found = np.asarray(blended(x, maps, 0.3))
  np.testing.assert_array_equal(found[0], x[0])
  own = np.zeros((4, 4), bool)
  own[:2, :2] = own[2:, 2:] = True
  np.testing.assert_array_equal(found[1, ..., 0], np.where(own, x[1, ..., 0], x[0, ..., 0]))


def test_grids_of_layers():
  class UNet:
    pass

  class DiT:
    patch = 2

  assert own_grid(64 * 48, UNet, (64, 48)) == Grid(64, 48)
  assert own_grid(9 * 6, UNet, (65, 48)) == Grid(9, 6)  # halved three times, rounded up
  assert own_grid(32, DiT, (4, 6)) == Grid(2, 3)


def test_sdedit_is_redrawing(model):
  image = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
  found = METHODS["sdedit"]()(model, REQUEST._replace(image=image, strengths=(0.6,)))
  start = Start(np.stack([image] * 2), strength=0.6)
  np.testing.assert_array_equal(found.after[0.6], model.redraw([TARGET] * 2, list(SEEDS), start))
  with pytest.raises(ConfigError, match="give it with --image"):
    METHODS["sdedit"]()(model, REQUEST)


def test_the_verb(workdir, one_device, tmp_path, capsys):
  out, common = tmp_path / "out", ["edit", f"--workdir={workdir}", f"--prompt={SOURCE}"]
  assert main([
    *common, "--to-prompt=a large blue circle", "--seeds=3,4", "--strengths=0.2,0.8", "--self=0.2",
    "--reweight=blue=2.0", "--maps", f"--out={out}",
  ]) == 0  # fmt: skip
  sides = [f"{s}_seed{i}.png" for s in ("before", "after_0.2", "after_0.8") for i in SEEDS]
  maps = [f"maps_{side}_seed{i}.png" for side in ("before", "after") for i in SEEDS]
  assert {path.name for path in out.iterdir()} == {*sides, *maps, "grid.png", "report.html"}
  assert (out / "report.html").read_text().count("<figure>") == 3 * 2 + 2 * (3 + 4)
  assert Image.open(out / sides[0]).text["target"] == "a large blue circle"
  assert main([*common, "--method=sdedit", "--cross=0.5"]) == 2
  assert "--cross: not of --method=sdedit" in capsys.readouterr().err
  assert main([*common, "--mask=m.png"]) == 2
  assert "--mask belongs to --image" in capsys.readouterr().err


proof = lambda name: pytest.param(name, marks=pytest.mark.proof)


@pytest.mark.parametrize("name", ["sd1", "flux", proof("sdxl"), proof("sd3"), proof("z_image")])
def test_published_models(name, one_device, tmp_path):
  """Levels of a U-Net, joint sequences, with maps that are held whole or not, text that is filled
  up: of one prompt both are the same."""
  write_golden(tmp_path, name)
  few = {"sampling.steps": "2", "sampling.batch": "1"}
  model = open_pipeline(tmp_path / name, few, (32, 32))
  joint = "whole" if name in ("flux", "sd3") else "image"
  how = PromptToPrompt(cross=1.0, inside=1.0, blend="cat", maps=True, joint=joint)
  found = how(model, Request("a cat", "a cat", (0,)))
  assert near(found.after[1.0], found.before) and len(found.sheets) == 2
  place = places_of(model.system)
  assert np.all(place.encoder >= 0) and len(set(zip(*place, strict=True))) == len(place.token)
