"""Prompt-to-Prompt on an inverted image: beside the editors of the inversions, and on a U-Net."""

import itertools

import jax
import numpy as np
import pytest
from golden_folders import write_golden
from toys import TINY_DIT, saved

from t2i_jax.config import load_config
from t2i_jax.edit import Request
from t2i_jax.edit.inversions import Edict, NegativePrompt, NullText
from t2i_jax.edit.pairs import How, Pairs
from t2i_jax.edit.prompt_to_prompt import PromptToPrompt
from t2i_jax.edit.session import Session
from t2i_jax.errors import ConfigError
from t2i_jax.inference import open_model, open_pipeline

TINY = TINY_DIT | {
  "sampling.solver": "heun", "sampling.steps": "4", "sampling.batch": "1", "sampling.cfg": "2.0",
}  # fmt: skip
IMAGE = np.random.default_rng(1).integers(30, 225, (16, 16, 3)).astype(np.uint8)
REQUEST = Request("a red circle", "a blue circle", (0,), IMAGE)


@pytest.fixture(scope="module")
def of(tmp_path_factory):
  """The tiny model, with keys of config.sampling."""
  folder = tmp_path_factory.mktemp("edit") / "run"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
    saved(folder, load_config("configs/scenes_dit_flow.py", TINY))

  def opened(**sampling):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
      return open_model(folder, {f"sampling.{key}": str(v) for key, v in sampling.items()})

  return opened


@pytest.fixture(scope="module")
def model(of):
  return of()


def away(a, b):
  return np.abs(np.asarray(a, int) - np.asarray(b, int)).max()


# By --inverter: the editor of the same inversion, and how far the image comes back at most, of 255.
INVERTERS = {
  "null_text(steps=2, rate=0.1)": (NullText(2, 0.1), 255),
  "negative_prompt": (NegativePrompt(), 255),
  "edict": (Edict(), 1),
  "direct": (None, 1),
  "direct(prompt=False)": (None, 1),
}


@pytest.mark.newest
@pytest.mark.parametrize("inverter", INVERTERS)
def test_an_inversion_with_its_controls(model, inverter):
  """Without edited attention both rows are as the inversion's own editor draws them. Attention and
  weights of words count; outside a blended region the source stays, which no edit changes."""
  pairs = Pairs(model, How(inverter=inverter, blends=True))

  def drawn(target, threshold=0.0, **settings):
    request, how = REQUEST._replace(target=target), PromptToPrompt(blend="circle", **settings)
    texts = how._texts(model.system, request)
    return pairs.draw(how._given(model, request, texts, pairs.steps, how.cross), threshold)

  never = drawn(REQUEST.target, cross=0.0, inside=0.0)
  method, most = INVERTERS[inverter]
  assert away(never.before, IMAGE) <= most
  if method is not None:
    session = Session(model, "an inversion")
    sampler = session.compiled(method.sampler(session, 1.0))
    for target, row in ((REQUEST.prompt, never.before), (REQUEST.target, never.after)):
      alone = session.draw(sampler, REQUEST._replace(target=target), IMAGE, 1.0)
      assert away(row, alone) <= 1

  replaced = drawn(REQUEST.target, kind="replace")
  refined = drawn("a large blue circle", kind="refine")
  weighed = drawn(REQUEST.target, kind="replace", reweight="blue=9")
  edits = [one.after for one in (never, replaced, refined, weighed)]
  assert all(away(a, b) > 1 for a, b in itertools.combinations(edits, 2))
  blended = drawn(REQUEST.target, 0.999, kind="replace")
  stays = np.all(np.abs(blended.after.astype(int) - blended.before) <= 1, axis=-1)
  assert 0 < stays.mean() < 1
  assert all(away(one.before, never.before) <= 1 for one in (replaced, refined, weighed, blended))
  assert pairs._sample._cache_size() == 1


def test_a_folder_of_a_u_net(one_device, tmp_path):
  """Stable Diffusion's, with random weights: refine, reweight and blend in one program."""
  write_golden(tmp_path, "sd1")
  few = {"sampling.steps": "2", "sampling.batch": "1"}
  model = open_pipeline(tmp_path / "sd1", few, (32, 32))
  image = np.random.default_rng(1).integers(30, 225, (32, 32, 3)).astype(np.uint8)
  request = Request("a cat", "a black cat", (0,), image)
  pairs = Pairs(model, How(inverter="null_text(steps=1)", blends=True))

  def drawn(**settings):
    how = PromptToPrompt(blend="cat", **settings)
    texts = how._texts(model.system, request)
    return pairs.draw(how._given(model, request, texts, pairs.steps, how.cross), 0.1)

  edited, plain = drawn(reweight="black=9"), drawn(cross=0.0, inside=0.0)
  assert away(edited.before, plain.before) <= 1 < away(edited.after, plain.after)


def test_refusals(model, of):
  with pytest.raises(ConfigError, match="--inverter belongs to --image"):
    PromptToPrompt(inverter="edict")(model, REQUEST._replace(image=None))
  with pytest.raises(ConfigError, match="not one of ddim_inverse, midpoint, negative_prompt"):
    PromptToPrompt(inverter="ddim")
  with pytest.raises(
    ConfigError, match=r"sampling.cfg = 1\. Use --guidance=cfg with --cfg above 1"
  ):
    PromptToPrompt(inverter="null_text")(of(cfg=1.0), REQUEST)
  with pytest.raises(ConfigError, match=r"cannot undo\. Use --guidance=cfg"):
    PromptToPrompt(inverter="edict")(of(guidance="apg"), REQUEST)
  with pytest.raises(ConfigError, match="Use --cfg above 1"):
    PromptToPrompt(inverter="direct(prompt=False)")(of(cfg=1.0), REQUEST)
  noisy = of(solver="ddpm")
  with pytest.raises(ConfigError, match="does not lead back to an image"):
    PromptToPrompt()(noisy, REQUEST)
