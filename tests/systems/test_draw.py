"""Methods of guidance by name, from config text to images of a network with random weights."""

from pathlib import Path

import jax
import numpy as np
import pytest
from weights import random_weights

from t2i_jax.config import load_config
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.parallel import make_mesh
from t2i_jax.plan import Program
from t2i_jax.sampling import GUIDANCE
from t2i_jax.systems import make_system
from t2i_jax.systems.draw import Drawing, make_draw

pytestmark = pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 devices")

CONFIG = Path(__file__).parents[2] / "configs/scenes_dit_flow.py"
TINY = {
  "data.image_size": "(16, 16)", "text.vocab": "264", "text.length": "16",
  "text.towers.text": "bag_of_words(width=16)",
  "model.width": "32", "model.heads": "2",
  "model.depth": "3", "model.patch": "4", "sampling.steps": "3", "sampling.batch": "8",
  "sampling.solver": "euler",
}  # fmt: skip
PROMPTS, SEEDS = ["a red circle", "a blue square"], [0, 1]
TEXTS = {
  "cfg": "cfg(rescale=0.7, threshold=0.995, high=9.0)",
  "cfg_zero": "cfg_zero(zero_steps=1)",
  "apg": "apg(eta=0.2, norm=5, momentum=-0.75)",
  "cfg_norm": "cfg_norm(patch=4)",
  "pag": "pag(scale=3, layers=(1, 2))",
  "slg": "slg(layers=(1,))",
}


def config_of(**sampling):
  changes = {f"sampling.{key}": str(value) for key, value in sampling.items()}
  return load_config(CONFIG, TINY | changes)


@pytest.fixture(scope="module")
def system():
  return make_system(config_of(), Tokenizer.bytes())


@pytest.fixture(scope="module")
def params(system):
  """Random values, also where the initialisation has zeros, so that text and layers count."""
  return random_weights(system.abstract, 0.2)


@pytest.fixture(scope="module")
def images(system, params):
  """images(guidance="cfg", cfg=4.0) -> int [2, 16, 16, 3], each drawn once."""
  kept = {}

  def of(guidance, cfg=4.0):
    if (guidance, cfg) not in kept:
      c = config_of(guidance=guidance, cfg=cfg).sampling
      draw = make_draw(system, c, make_mesh(8, 1, 1))
      kept[guidance, cfg] = draw(params, PROMPTS, SEEDS).astype(int)
    return kept[guidance, cfg]

  return of


@pytest.mark.parametrize("name", GUIDANCE)
def test_a_method_is_a_word_in_the_config(name, images):
  plain = images("cfg")
  assert np.abs(images(TEXTS[name]) - plain).max() > 2


@pytest.mark.parametrize("name", ["pag", "slg"])
def test_a_perturbation_of_scale_zero_is_plain_guidance(name, images):
  found = images(f"{name}(scale=0, layers=(1, 2))")
  assert np.abs(found - images("cfg")).max() <= 1  # a level: other matmuls, other rounding


def test_a_perturbation_needs_no_null(images):
  """At cfg = 1 there are two conditions in a call, and the perturbed one still counts."""
  assert np.abs(images("pag(layers=(1, 2))", cfg=1.0) - images("cfg", cfg=1.0)).max() > 2


@pytest.mark.newest
@pytest.mark.parametrize("name", ["cfg", "apg", "pag", "slg"])
def test_no_method_moves_rows_between_devices(name, system):
  """Conditional and null rows are interleaved, so each stays where its row of the batch is."""
  mesh, c = make_mesh(8, 1, 1), config_of(guidance=TEXTS[name], cfg=4.0).sampling
  with jax.set_mesh(mesh):
    compiled = Drawing(system, c, mesh).lower(system.abstract)["sampler"].compile()
  found = Program(compiled.as_text()).collectives()
  assert found["all-to-all"] == found["collective-permute"] == 0
  assert found.total() == 0


def test_a_model_without_reference_images_refuses_them(system, params):
  draw = make_draw(system, config_of().sampling, make_mesh(8, 1, 1))
  with pytest.raises(ConfigError, match="takes no reference images"):
    draw(params, PROMPTS, SEEDS, references=[np.zeros((2, 16, 16, 3), np.uint8)])


@pytest.mark.parametrize(
  "guidance, words",
  [
    ("pag(layers=(3,))", "layers 0 to 2"),
    ("pag(scale=2.0)", "pag needs layers"),
    ("apg(eta='x')", "eta = 'x' is text; write a number"),
    ("cgf", "is not one of cfg, cfg_zero"),
  ],
)
def test_wrong_words_are_named_before_anything_is_compiled(guidance, words, system):
  c = config_of(guidance=guidance).sampling
  with pytest.raises(ConfigError, match=words):
    make_draw(system, c, make_mesh(8, 1, 1))
