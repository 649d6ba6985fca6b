"""Objectives that forget: what each holds to what, written out on a model that compiles quickly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import make_batch
from toys import config_of, register, system_of
from weights import random_weights

from t2i_jax.errors import ConfigError
from t2i_jax.process import Prediction, convert
from t2i_jax.process.matching import partly_denoised
from t2i_jax.process.schedules import flow
from t2i_jax.process.time import like
from t2i_jax.sampling.guidance import Guided, guide
from t2i_jax.sampling.guidance_methods import GUIDANCE
from t2i_jax.systems.ablation import Ablation, Esd, Maximise
from t2i_jax.systems.denoising import denoising
from t2i_jax.systems.roles import before
from t2i_jax.systems.system import DRAW_END, Draws, row_keys

ROWS = 8
DDPM = {
  "process.kind": "ddpm_cosine", "process.prediction": "eps", "process.weighting": "eps",
}  # fmt: skip
PARTS = {
  "backbone": {"start": "", "train": "all"},
  "text": {"start": "", "train": "none"},
  "teacher": {"start": "run:x", "train": "none"},
}
OBJECTIVES = {
  "current": Ablation(),
  "frozen": Ablation("frozen"),
  "noise": Ablation("noise", regularisation=0.25),
  "esd": Esd(0.7, "anchor", guidance=2.0, denoise_steps=3),
  "null": Esd(0.7, guidance=2.0, denoise_steps=3),
  "maximise": Maximise(),
  "ceiling": Maximise(ceiling=1e-3, regularisation=0.5),
}


@pytest.fixture(scope="module", params=["flow", "ddpm"])
def made(request):
  """A system with a frozen copy, parameters, a batch of pairs, draws."""
  with pytest.MonkeyPatch.context() as patch:
    register(patch)
    changes = {"train.objective": "esd"} | (DDPM if request.param == "ddpm" else {})
    system = system_of(config_of(changes, parts=PARTS))
    params = random_weights(system.abstract, 0.3)
    batch = make_batch(ROWS, (8, 8, 3), 16)._replace(role=np.arange(ROWS, dtype=np.int32) % 2)
    batch = jax.tree.map(jnp.asarray, batch)
    t = jnp.linspace(0.3, 0.9, ROWS)
    yield system, params, batch, Draws(t, jnp.arange(ROWS), jax.random.key(0), {}, 0)


def of(tree, role):
  return jax.tree.map(lambda x: x[role::2], tree)


@pytest.fixture(scope="module")
def found(made):
  """(the values of all objectives, what they should be), in one program."""
  system, params, batch, draws = made
  kind = "eps" if system.output.prediction == "eps" else "velocity"
  mean = lambda x: jnp.mean(x**2, (1, 2, 3))

  def losses(params):
    given = {name: one(system, params, batch, draws) for name, one in OBJECTIVES.items()}
    plain = batch._replace(role=None)
    return given | {"validation": OBJECTIVES["current"](system, params, plain, draws)}

  def expected(params):
    m = of(system.mix(system.encode(params, batch.images[:, 0], draws.key, draws.rows), draws), 0)
    both = system.encode_text(params, batch.text)
    anchor, concept = of(both, 0), of(both, 1)
    null = jax.tree.map(lambda n, c: jnp.broadcast_to(n, c.shape), system.null(params), anchor)

    def under(part, cond, x_t):
      prediction = system.denoise(params, x_t, m.time, cond, part=part)
      return convert(prediction, kind, x_t, m.time).value

    own = under("backbone", concept, m.x_t)
    guided = guide(before(system, params), GUIDANCE["cfg"](), 2.0)
    prior = system.process.prior(row_keys(draws.key, draws.rows[1::2], DRAW_END), system.x_shape)
    denoise = lambda x, time: guided(x, time, Guided(concept, null))
    x_t = partly_denoised(denoise, system.process, prior, m.time.t, 3)
    push = 0.7 * (under("teacher", concept, x_t) - under("teacher", null, x_t))
    to = {"esd": under("teacher", anchor, x_t), "null": under("teacher", null, x_t)}
    away = {name: mean(under("backbone", concept, x_t) - (to[name] - push)) for name in to}
    relabelled = batch._replace(images=jnp.repeat(batch.images[::2], 2, 0))
    same = draws._replace(t=jnp.repeat(draws.t[::2], 2), rows=jnp.repeat(draws.rows[::2], 2))
    return away | {
      "current": mean(own - under("backbone", anchor, m.x_t)),
      "frozen": mean(own - under("teacher", anchor, m.x_t)),
      "denoising": denoising(system, params, batch, draws)["image"],
      "noise": denoising(system, params, relabelled, same)["image"][1::2],
    }

  params = params | {"teacher": jax.tree.map(lambda x: 0.9 * x, params["backbone"])}
  return jax.jit(lambda params: (losses(params), expected(params)))(params)


TERMS = {"current": "ablation", "frozen": "ablation", "noise": "ablation"} | dict.fromkeys(
  ("esd", "null"), "esd"
)


@pytest.mark.parametrize("name, term", TERMS.items())
def test_what_the_concept_is_held_to(found, name, term):
  """Squared differences of velocities, of noises in DDPM: at the anchor's images with noise, or on
  the trajectory of ESD; the noise-based variant has the denoising loss of the anchor's images."""
  value, wanted = found[0][name], found[1][name]
  np.testing.assert_allclose(value[term][1::2], wanted, rtol=5e-3)
  assert np.all(wanted > 0) and not np.any(value[term][::2])
  assert (name == "noise") == bool(np.any(value["image"]))


def test_denoising_of_anchors_and_of_concepts(found):
  given, plain = found[0], found[1]["denoising"]
  for name, weight in (("noise", 0.25), ("ceiling", 0.5)):
    np.testing.assert_allclose(given[name]["image"][::2], weight * plain[::2], rtol=1e-3)
    assert not np.any(given[name]["image"][1::2])
  np.testing.assert_allclose(given["maximise"]["maximise"][1::2], -plain[1::2], rtol=1e-3)
  np.testing.assert_allclose(given["ceiling"]["maximise"][1::2], -1e-3, rtol=1e-6)
  np.testing.assert_allclose(given["validation"]["image"], plain, rtol=1e-3)
  assert not np.any(given["validation"]["ablation"])


def test_the_anchor_has_no_gradient(made):
  """Where the concept is the anchor the slope is 0."""
  system, params, batch, draws = made

  def total(backbone, text):
    given = batch._replace(text=text)
    values = Ablation()(system, params | {"backbone": backbone}, given, draws)
    return jnp.sum(values["ablation"])

  slope = jax.jit(jax.grad(total))
  largest = lambda text: max(
    float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope(params["backbone"], text))
  )
  same = jax.tree.map(lambda x: jnp.repeat(x[::2], 2, 0), batch.text)
  assert largest(same) < 1e-3 * largest(batch.text)


def test_a_trajectory_ends_where_the_exact_one_does():
  """Gaussian data of variance s^2: x_t = x_1 sqrt(var_t / var_1), of each row at its own time."""
  process, s2 = flow(), 0.3**2

  def denoise(x, time):
    alpha, sigma = like(time.alpha, x), like(time.sigma, x)
    return Prediction(alpha * s2 * x / (alpha**2 * s2 + sigma**2), "x0")

  t = jnp.array([0.2, 0.5, 0.9, 0.99])
  x = jax.random.normal(jax.random.key(0), (4, 3))
  exact = x * jnp.sqrt((1 - t) ** 2 * s2 + t**2)[:, None]
  solve = jax.jit(lambda n: partly_denoised(denoise, process, x, t, n), static_argnums=0)
  error = [float(jnp.max(jnp.abs(solve(n) - exact))) for n in (20, 40)]
  assert error[1] < 0.05 and 1.6 < error[0] / error[1] < 2.4  # of first order


def test_dropped_captions_are_refused(made):
  system, params, batch, draws = made
  dropping = draws._replace(drop={"text": jnp.zeros(ROWS, bool)})
  with pytest.raises(ConfigError, match="the null would be ablated"):
    jax.eval_shape(lambda params: Ablation()(system, params, batch, dropping), params)
