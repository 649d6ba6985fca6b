"""Drawing from images, by several prompts, beside a weaker model: a network of random weights."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.config import load_config
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError, PromptError
from t2i_jax.parallel import mesh_of
from t2i_jax.sampling.likelihood import (
  bits_per_dimension,
  dequantised,
  hutchinson,
  log_likelihood,
)
from t2i_jax.systems import make_system
from t2i_jax.systems.draw import Drawing
from t2i_jax.systems.guides import NO_GUIDES, Guides, Weak
from t2i_jax.systems.likelihood import make_likelihood, rising_times
from t2i_jax.systems.system import unit_range
from t2i_jax.systems.tasks import Ode, Start

CONFIG = Path(__file__).parents[2] / "configs/scenes_dit_flow.py"
TINY = {
  "data.image_size": "(16, 16)", "text.vocab": "264", "text.length": "40",
  "text.towers.text": "bag_of_words(width=16)", "model.width": "16",
  "model.heads": "2", "model.depth": "2", "model.patch": "4", "process.prediction": "velocity",
  "sampling.steps": "3", "sampling.batch": "2",
}  # fmt: skip
PROMPTS, SEEDS = ["a red circle", "a blue square"], [0, 1]
FILL = np.zeros((2, 16, 16), bool)
FILL[:, 4:9, 3:12] = True


def config_of(**sampling):
  changes = {f"sampling.{key}": str(value) for key, value in sampling.items()}
  return load_config(CONFIG, TINY | changes)


def drawing(system, guides=NO_GUIDES, **sampling):
  c = config_of(**sampling)
  return Drawing(system, c.sampling, mesh_of(c.mesh), guides)


@pytest.fixture(scope="module")
def system():
  return make_system(config_of(), Tokenizer.bytes())


@pytest.fixture(scope="module")
def params(system):
  """Random values where the initialisation has zeros, so that text and layers count."""
  rng, shapes = np.random.default_rng(0), system.abstract
  draw = lambda leaf: rng.normal(0, 0.15, leaf.shape).astype(np.float32)
  return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def plain(system):
  return drawing(system)


def test_strength_one_is_plain_sampling(plain, params, images):
  """On the flow nothing of the image is left at t = 1."""
  found = plain.redraw(params, PROMPTS, SEEDS, Start(images))
  assert np.array_equal(found, plain.draw(params, PROMPTS, SEEDS))


def test_noise_that_is_given_is_used(system, plain, params, images):
  """That of the seeds, given, makes what the seeds make."""
  keys = jax.vmap(jax.random.key)(jnp.array(SEEDS))
  eps = np.asarray(system.process.prior(keys, system.x_shape))
  found = plain.redraw(params, PROMPTS, [7, 8], Start(images, strength=0.7, noise=eps))
  wanted = plain.redraw(params, PROMPTS, SEEDS, Start(images, strength=0.7))
  assert np.abs(found.astype(int) - wanted).max() <= 1


def test_strength_near_zero_returns_the_image(system, params, images):
  """A velocity moves x_t by as much as the time that is left; half of it moves it more."""
  fine = drawing(system, steps=500)
  near, half = (
    fine.redraw(params, PROMPTS, SEEDS, Start(images, strength=s)).astype(int) for s in (4e-3, 0.02)
  )
  assert np.abs(near - images).max() <= 4 < np.abs(half - images).max()


@pytest.mark.parametrize("guidance", ["cfg", "apg", "compose(weights=(1.0, -0.5))"])
def test_a_mask_keeps_what_it_does_not_fill(system, params, images, guidance):
  found = drawing(system, guidance=guidance, batch=4).redraw(
    params, ["a AND b", "c AND d"], SEEDS, Start(images, FILL, repeats=2)
  )
  assert np.array_equal(found[~FILL], images[~FILL])
  assert np.mean(found[FILL] != images[FILL]) > 0.9


def test_a_full_mask_is_plain_sampling(plain, params, images):
  found = plain.redraw(params, PROMPTS, SEEDS, Start(images, np.ones_like(FILL)))
  assert np.abs(found.astype(int) - plain.draw(params, PROMPTS, SEEDS)).max() <= 1


def test_inversion_goes_up_and_comes_back(system, params, images):
  """Down the grid with the prompt of the source, at scale 1, it ends nearer to the image than with
  another, and that nearer than from fresh noise."""
  there = drawing(system, cfg=1.0, steps=100)
  start = Start(images, strength=0.1, source=PROMPTS)
  back = there.redraw(params, PROMPTS, SEEDS, start).astype(int)
  other = there.redraw(params, PROMPTS[::-1], SEEDS, start).astype(int)
  fresh = there.redraw(params, PROMPTS, SEEDS, start._replace(source=None)).astype(int)
  miss = lambda found: np.abs(found - images).mean()
  assert miss(back) < miss(other) < miss(fresh)


def test_guidance_by_the_same_model_is_plain(system, params):
  """At any scale: worse + scale (cond - worse) is cond. A model of other weights is seen."""
  unguided = drawing(system, cfg=1.0).draw(params, PROMPTS, SEEDS).astype(int)
  auto = lambda weights: drawing(
    system, Guides(weak=Weak(system, weights)), guidance="auto(workdir='runs/weak', scale=3.0)"
  ).draw(params, PROMPTS, SEEDS)
  assert np.abs(auto(params) - unguided).max() <= 1
  assert np.abs(auto(jax.tree.map(lambda w: 0.5 * w, params)) - unguided).max() > 2


def test_prompts_joined_by_and(system, params, plain):
  """A weight of 1 beside one of 0 is plain guidance of the first prompt."""
  joined = [f"{prompt} AND {other}" for prompt, other in zip(PROMPTS, PROMPTS[::-1], strict=True)]
  of = lambda weights: (
    drawing(system, guidance=f"compose(weights={weights})").draw(params, joined, SEEDS).astype(int)
  )
  alone = plain.draw(params, PROMPTS, SEEDS)
  assert np.abs(of((1.0, 0.0)) - alone).max() <= 1
  assert np.abs(of((1.0, 1.0)) - alone).max() > 2


def test_a_second_prompt_has_a_scale_of_its_own(system, params, plain):
  """Of the same prompt twice, dual is plain guidance at the second's scale."""
  twice = [f"{prompt} AND {prompt}" for prompt in PROMPTS]
  found = drawing(system, guidance="dual(image_scale=2.5)", cfg=4.0).draw(params, twice, SEEDS)
  assert np.abs(found.astype(int) - plain.draw(params, PROMPTS, SEEDS)).max() <= 1


def test_the_verb_has_the_likelihood_of_the_function(system, params, images):
  c = config_of(batch=1)
  ode = Ode(3, 2)
  found = make_likelihood(system, c.sampling, mesh_of(c.mesh))(params, images, PROMPTS, SEEDS, ode)
  keys = jnp.stack([jax.random.split(jax.random.key(seed)) for seed in SEEDS])
  x0 = dequantised(unit_range(images), keys[:, 0])
  text = {name: encoder.encode(PROMPTS) for name, encoder in system.text.items()}
  cond = system.encode_text(params, text)
  denoise = lambda x_t, time, cond: system.denoise(params, x_t, time, cond)
  times = rising_times(system.process, ode.steps, ode.smallest)
  function = jax.jit(
    lambda x0: log_likelihood(
      denoise, system.process, times, x0, cond, hutchinson(keys[:, 1], ode.probes)
    )
  )
  np.testing.assert_allclose(found, bits_per_dimension(function(x0), 16 * 16 * 3), rtol=1e-4)


def test_what_cannot_be_is_refused_before_anything_is_compiled(system, params, images):
  other = make_system(
    load_config(CONFIG, TINY | {"data.image_size": "(32, 32)"}), Tokenizer.bytes()
  )
  weak = Guides(weak=Weak(other, params))
  with pytest.raises(ConfigError, match=r"weak model's images \[H, W, C\] is \(32, 32, 3\)"):
    drawing(system, weak, guidance="auto(workdir='runs/weak')")
  with pytest.raises(ConfigError, match="weak model of auto is opened by t2i sample"):
    drawing(system, guidance="auto(workdir='runs/weak')")
  with pytest.raises(ConfigError, match=r"strength = 0.1: .* at least 0.333"):
    drawing(system).redraw(params, PROMPTS, SEEDS, Start(images, strength=0.1))
  with pytest.raises(ConfigError, match="keeps outputs of steps before"):
    drawing(system, solver="dpmpp").redraw(params, PROMPTS, SEEDS, Start(images, FILL, repeats=2))
  with pytest.raises(PromptError, match=r"joins 1 prompts, and .* takes 2"):
    drawing(system, guidance="compose(weights=(1.0, 1.0))").draw(params, PROMPTS, SEEDS)
