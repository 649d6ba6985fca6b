"""Objectives of few-step models: a step of each on a tiny network, and what each is made of."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.config import load_config
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.models.layers import gelu
from t2i_jax.parallel import mesh_of
from t2i_jax.process import convert
from t2i_jax.systems import Draws, make_system
from t2i_jax.systems.draw import Drawing
from t2i_jax.systems.few_step import until

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = {
  "data.image_size": "(16, 16)", "text.vocab": "264", "text.length": "16",
  "text.towers.text": "bag_of_words(width=16)", "model.width": "16",
  "model.heads": "2", "model.depth": "1", "model.patch": "4",
}  # fmt: skip
ROWS = 8


def system_of(name, **changes):
  """name: of one of CONFIGS, NAME or NAME:VARIANT"""
  name, _, variant = name.partition(":")
  return system_at(f"{CONFIGS / name}.py" + (f":{variant}" if variant else ""), TINY, **changes)


def system_at(path, sizes=None, **changes):
  given = {key.replace("__", "."): str(value) for key, value in changes.items()}
  config = load_config(path, (sizes or {}) | given)
  return config, make_system(config, Tokenizer.bytes())


def random_params(system):
  rng, shapes = np.random.default_rng(0), system.abstract
  draw = lambda leaf: rng.normal(0, 0.15, leaf.shape).astype(np.float32)
  return jax.tree.map(draw, shapes)


def step_of(system, step=0, drop=0):
  """A batch and its draws, `drop` rows without their caption."""
  rng = np.random.default_rng(1)
  batch = jax.tree.map(lambda a: np.ones(a.shape, a.dtype), system.rows(ROWS))
  batch = batch._replace(images=rng.integers(0, 256, batch.images.shape).astype(np.uint8))
  dropped = {"text": jnp.arange(ROWS) < drop}
  t = jnp.linspace(0.02, 0.98, ROWS)
  return batch, Draws(t, jnp.arange(ROWS), jax.random.key(3), dropped, jnp.int32(step))


@pytest.mark.parametrize("name", ["scenes_consistency", "scenes_meanflow"])
def test_a_step_has_a_finite_gradient_and_the_model_draws(name):
  config, system = system_of(name)
  params, (batch, draws) = random_params(system), step_of(system, 400, drop=2)

  @jax.jit
  def loss(params):
    each = system.losses(params, batch, draws)["image"]
    return jnp.sum(each), each

  (_, each), gradient = jax.value_and_grad(loss, has_aux=True)(params)
  assert each.shape == (ROWS,) and np.all(np.isfinite(each))
  norms = [float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(gradient)]
  assert np.all(np.isfinite(norms)) and np.mean(np.array(norms) > 0) > 0.9
  c = config.sampling
  images = Drawing(system, c, mesh_of(config.mesh)).draw(params, ["a", "b"], [0, 1])
  assert images.shape == (2, 16, 16, 3) and images.std() > 0


def test_levels_of_consistency():
  """From 2 to 8 levels and one more, up to t = 1; at the lowest pair the target is the data."""
  _, system = system_of(
    "scenes_consistency", train__objective="consistency(steps=90,first=2,last=8)"
  )
  span, t, counts = system.objective.tables(system)
  assert span == 30 and list(counts) == [3, 5, 9] and np.all(np.diff(t[-1]) > 0)
  assert [row[n - 1] for row, n in zip(t, counts, strict=True)] == [1, 1, 1]
  params, (batch, draws) = random_params(system), step_of(system, step=59)
  low = draws._replace(t=jnp.full(ROWS, 1e-3))
  s, t = t[1, :2].astype(np.float32)

  @jax.jit
  def both(params):
    x0 = system.encode(params, batch.images[:, 0])
    eps, cond = system.mix(x0, low).eps, system.conditioning(params, batch, low)
    x_t, time = (1 - t) * x0 + t * eps, system.process.at(jnp.full(ROWS, t))
    x0_hat = convert(system.denoise(params, x_t, time, cond), "x0", x_t, time).value
    square = jnp.sum(jnp.square(x0_hat - (x0 + s / (1 - s) * eps)), (1, 2, 3))
    c = 0.00054 * (16 * 16 * 3) ** 0.5
    return system.losses(params, batch, low)["image"], (jnp.sqrt(square + c**2) - c) / (t - s)

  np.testing.assert_allclose(*both(params), rtol=1e-4)


def test_meanflow_without_a_span_is_flow_matching():
  """Rows of r = t, whose loss is the squared error of the velocity: that of plain training."""
  ratio = {"train__objective": "meanflow(ratio=0.0, power=0.0)"}
  plain = {"train__objective": "denoising", "process__weighting": "velocity"}
  systems = [system_of("scenes_meanflow", **given)[1] for given in (ratio, plain)]
  params, (batch, draws) = random_params(systems[0]), step_of(systems[0], drop=2)
  draws = draws._replace(t=jnp.linspace(0.1, 0.98, ROWS))  # the plain weight is bounded below
  average, flow = (
    jax.jit(lambda p, s=s: s.losses(p, batch, draws)["image"])(params) for s in systems
  )
  np.testing.assert_allclose(average / (16 * 16 * 3), flow, rtol=1e-4)


def test_a_second_time_has_no_effect_before_training():
  """So that a start from a network of one time is that network; later it has one."""
  _, system = system_of("scenes_meanflow")
  params, (batch, draws) = random_params(system), step_of(system)
  time = system.process.at(draws.t)

  @jax.jit
  def change(params):
    x_t = system.encode(params, batch.images[:, 0])
    cond = system.encode_text(params, batch.text)
    at = lambda cond: system.denoise(params, x_t, time, cond).value
    return jnp.max(jnp.abs(at(cond) - at(until(cond, jnp.float32(0)))))

  assert change(params) > 1e-3
  start = jax.jit(system.init)(jax.random.key(0))["backbone"]["span_in"]
  params["backbone"]["span_in"] = start
  assert change(params) == 0


def test_gelu_has_both_derivatives():
  x = jnp.linspace(-4, 4, 33)
  for way in (lambda f: jax.jvp(f, (x,), (x,)), lambda f: jax.vjp(f, x)[1](x)):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
      way(gelu),
      way(lambda x: jax.nn.gelu(x, approximate=True)),
    )


@pytest.mark.parametrize(
  "name, changes, words",
  [
    ("scenes_dit_flow", {"train__objective": "meanflow"}, "model.times=2"),
    ("scenes_meanflow", {"process__kind": "trigonometric"}, "process.kind='flow'"),
    ("scenes_meanflow", {"model__times": 3}, "model.times = 3"),
    ("scenes_consistency", {"train__objective": "consistency(steps=9,first=1)"}, "first = 1 is"),
    ("scenes_consistency", {"train__objective": "consistency"}, "consistency needs steps"),
    ("scenes_consistency", {"process__timesteps": "logit_normal(mean=1.5)"}, "see the data"),
  ],
)
def test_refusals(name, changes, words):
  with pytest.raises(ConfigError, match=words):
    system_of(name, **changes)


def test_two_times_are_drawn_by_euler():
  config, system = system_of("scenes_meanflow", sampling__solver="heun")
  with pytest.raises(ConfigError, match=r"Use sampling\.solver='euler'"):
    Drawing(system, config.sampling, mesh_of(config.mesh))
