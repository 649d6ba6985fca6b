"""Editors of an image on a tiny network of random weights, where each has to give it back."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.config import build, load_config
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.edit.inversions import (
  Edict,
  FlowEdit,
  Ilvr,
  NegativePrompt,
  NullText,
  RFInversion,
)
from t2i_jax.edit.methods import METHODS
from t2i_jax.edit.request import Request
from t2i_jax.edit.session import Session
from t2i_jax.edit.structure import Pix2PixZero, PlugAndPlay, direction
from t2i_jax.errors import ConfigError
from t2i_jax.parallel import mesh_of
from t2i_jax.sampling.ilvr import low_pass
from t2i_jax.systems import make_system

CONFIG = Path(__file__).parents[2] / "configs/scenes_dit_flow.py"
TINY = {
  "data.image_size": "(16, 16)", "text.vocab": "264", "text.length": "40",
  "text.towers.text": "transformer(width=16, depth=1, heads=2)", "model.width": "16",
  "model.heads": "2", "model.depth": "2", "model.patch": "4", "sampling.steps": "3",
  "sampling.batch": "2", "process.prediction": "velocity",
}  # fmt: skip
IMAGE = np.random.default_rng(1).integers(30, 225, (16, 16, 3)).astype(np.uint8)
SAME = Request("a red circle", "a red circle", (0, 1), IMAGE)
OTHER = SAME._replace(target="a blue square")


@pytest.fixture(scope="module")
def system():
  return make_system(load_config(CONFIG, TINY), Tokenizer.bytes())


@pytest.fixture(scope="module")
def params(system):
  """Random values where the initialisation has zeros, so that text and layers count."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), system.abstract
  )


@pytest.fixture(scope="module")
def model(system, params):
  def of(cfg=2.5, **sampling):
    changes = {f"sampling.{key}": str(value) for key, value in (sampling | {"cfg": cfg}).items()}
    config = load_config(CONFIG, TINY | changes)
    mesh = mesh_of(config.mesh)
    return SimpleNamespace(
      config=config, system=system, params=params, mesh=mesh, need=lambda task: None
    )

  return of


# Where the method has nothing to change: its settings, a strength, the scale of guidance.
EXACT = [
  (Edict(), 0.7, 2.5),
  (RFInversion(stop=1.0), 1.0, 2.5),
  (FlowEdit(source_scale=2.5), 1.0, 2.5),
  (FlowEdit(draws=2, source_scale=1.0), 0.7, 1.0),
]


@pytest.mark.newest
@pytest.mark.parametrize("method, strength, cfg", EXACT, ids=lambda v: str(v)[:20])
def test_the_image_comes_back_where_nothing_is_to_change(model, method, strength, cfg):
  found = method(model(cfg), SAME._replace(strengths=(strength,)))
  assert np.all(found.before == IMAGE)
  assert np.abs(found.after[strength].astype(int) - IMAGE).max() <= 1


NEAR = [
  (NegativePrompt(), 0.7, 2.5),
  (NullText(steps=2), 0.7, 1.0),
  (Pix2PixZero(), 0.1, 1.0),
  (PlugAndPlay(), 0.8, 1.0),
]


@pytest.mark.parametrize("method, strength, cfg", NEAR, ids=lambda v: str(v)[:20])
def test_an_inversion_comes_near_to_the_image(model, method, strength, cfg):
  """Up to the error of DDIM's steps: nearer than to another image."""
  drawn = method(model(cfg), SAME._replace(strengths=(strength,))).after[strength]
  assert drawn.shape == (2, 16, 16, 3) and np.all(drawn[0] == drawn[1])
  away = np.abs(drawn[0].astype(int) - IMAGE).mean()
  assert away < 0.25 * np.abs(IMAGE[::-1].astype(int) - IMAGE).mean()


def test_ilvr_has_the_means_of_the_image(model):
  found = Ilvr(until=1.0)(model(), OTHER._replace(strengths=(4.0,))).after[4.0]
  mean = lambda image: np.asarray(low_pass(jnp.asarray(image, jnp.float32), 4))
  inside = np.all((found > 0) & (found < 255), axis=(1, 2, 3))
  assert np.abs(mean(found) - mean(IMAGE[None])).max() < 2 or not inside.all()
  assert np.any(found[0] != found[1])


def test_a_direction_is_the_difference_of_means(model):
  session = Session(model(), "pix2pix_zero")
  before, after = session.encoded(["a", "a red circle"]), session.encoded(["b", "c", "a blue"])
  found = direction(before, after)["text"]["tokens"]
  wanted = np.mean(after.towers["text"].tokens, 0) - np.mean(before.towers["text"].tokens, 0)
  np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_settings_are_written_in_the_method():
  """As --method of t2i edit, with their ranges."""
  make = lambda text: build(METHODS, text, "--method")
  assert make("flow_edit(draws=4, plain=0.1)") == FlowEdit(4, 0.1)
  assert make("pnp(features=(2,), share=0.5)") == PlugAndPlay((2,), (), 0.5)
  with pytest.raises(ConfigError, match="mix"):
    make("edict(mix=0.2)")


def test_refusals(model):
  one = model()
  with pytest.raises(ConfigError, match="give it with --image"):
    Edict()(one, SAME._replace(image=None))
  with pytest.raises(ConfigError, match="edits the whole image"):
    Edict()(one, SAME._replace(mask=np.ones((16, 16), bool)))
  with pytest.raises(ConfigError, match=r"0\.1 is below 0\.333"):
    Edict()(one, SAME._replace(strengths=(0.1,)))
  with pytest.raises(ConfigError, match="guided by the null alone"):
    Edict()(model(guidance="apg"), SAME)
  with pytest.raises(ConfigError, match="factor = 3 does not divide 16 x 16"):
    Ilvr()(one, SAME._replace(strengths=(3.0,)))
  with pytest.raises(ConfigError, match=r"2\.5: a factor of ilvr is a whole number"):
    Ilvr()(one, SAME._replace(strengths=(2.5,)))
  with pytest.raises(ConfigError, match="sentences before and after"):
    Pix2PixZero(before="a")
