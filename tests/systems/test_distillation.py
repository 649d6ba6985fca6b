"""Objectives with a frozen teacher: what the student is compared with, and what is left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.errors import ConfigError
from t2i_jax.process import Time, convert, to_x0_eps
from t2i_jax.process.weightings import WEIGHTINGS
from t2i_jax.systems import for_inference
from t2i_jax.systems.parts import check_started
from t2i_jax.systems.system import DRAW_END, row_keys
from tests.systems.test_few_step import ROWS, random_params, step_of, system_at, system_of

CONSISTENCY = "scenes_consistency:distillation"
STUDENT = """
from ml_collections import ConfigDict
from t2i_jax.configs.compare import text_conditioning as parent

def get_config():
  c = parent.get_config("double_single")
  c.parts.text.train = "none"
  c.parts.teacher = ConfigDict({"train": "none"})
  c.model.update(guidance=2.5, width=16, heads=2, patch=4, rope_axes=(4, 2, 2))
  c.data.image_size, c.text.vocab, c.text.length = (16, 16), 264, 16
  c.text.towers.text = "bag_of_words(width=16)"
  c.train.objective = "guidance_distillation(low=1.5, high=4.0)"
  return c
"""


@pytest.fixture(scope="module")
def student(tmp_path_factory):
  file = tmp_path_factory.mktemp("configs") / "student.py"
  file.write_text(STUDENT)
  return file


def guided(system, params, x_t, time, scale, batch):
  """x0_hat and eps_hat of the teacher under classifier-free guidance, of two calls."""
  cond = system.encode_text(params, batch.text)
  null = jax.tree.map(lambda n, c: jnp.broadcast_to(n, c.shape), system.null(params), cond)
  one = lambda c: to_x0_eps(system.denoise(params, x_t, time, c, part="teacher"), x_t, time)
  return tuple(n + scale * (c - n) for c, n in zip(one(cond), one(null), strict=True))


def test_consistency_distillation_follows_the_guided_teacher():
  """Between two levels Heun's method in alpha / sigma, written out."""
  _, system = system_of(CONSISTENCY)
  params, (batch, draws) = random_params(system), step_of(system)
  _, table, counts = system.objective.tables(system)
  t, s = (float(table[0, i]) for i in (counts[0] - 1, counts[0] - 2))  # the first from pure noise
  draws = draws._replace(t=jnp.full(ROWS, (t + s) / 2))
  at = lambda t: Time(*(jnp.full(ROWS, f) for f in system.process.at(jnp.float32(t))))

  @jax.jit
  def both(params):
    x0 = system.encode(params, batch.images[:, 0])
    x_t = system.mix(x0, draws).eps
    x0_t, eps_t = guided(system, params, x_t, at(t), 2.0, batch)
    first = (1 - s) * x0_t + s * eps_t
    x0_s, _ = guided(system, params, first, at(s), 2.0, batch)
    x_s = s * (x_t + (1 - s) / s * (x0_t + x0_s) / 2)
    cond = system.encode_text(params, batch.text)
    x0_of = lambda x, t: convert(system.denoise(params, x, at(t), cond), "x0", x, at(t)).value
    square = jnp.sum(jnp.square(x0_of(x_t, t) - x0_of(x_s, s)), (1, 2, 3))
    c = 0.00054 * (16 * 16 * 3) ** 0.5
    return system.losses(params, batch, draws)["image"], (jnp.sqrt(square + c**2) - c) / (t - s)

  np.testing.assert_allclose(*both(params), rtol=1e-4)


def test_guidance_distillation_compares_with_the_guided_teacher(student):
  """At the scale that each row draws, which the student is given; the teacher has no embedding."""
  _, system = system_at(student)
  params, (batch, draws) = random_params(system), step_of(system)
  assert "guidance_in" in params["backbone"] and "guidance_in" not in params["teacher"]

  @jax.jit
  def both(params):
    keys = row_keys(draws.key, draws.rows, DRAW_END)
    scale = jax.vmap(lambda key: jax.random.uniform(key, (), minval=1.5, maxval=4.0))(keys)
    m = system.mix(system.encode(params, batch.images[:, 0]), draws)
    x0_hat, _ = guided(system, params, m.x_t, m.time, scale[:, None, None, None], batch)
    cond = system.encode_text(params, batch.text)
    cond = cond._replace(extras={"guidance": scale})
    own = convert(system.denoise(params, m.x_t, m.time, cond), "x0", m.x_t, m.time).value
    error = jnp.mean(jnp.square(own - x0_hat), (1, 2, 3)) * WEIGHTINGS["velocity"]()(m.time)
    return system.losses(params, batch, draws)["image"], error

  np.testing.assert_allclose(*both(params), rtol=1e-3)


def test_a_teacher_has_a_start():
  _, system = system_of(CONSISTENCY)
  with pytest.raises(ConfigError, match=r"parts\.teacher\.start='run:PATH'"):
    check_started(system.parts)
  _, system = system_of(CONSISTENCY, parts__teacher__start="run:w")
  check_started(system.parts)


def test_inference_has_no_teacher():
  _, system = system_of(CONSISTENCY)
  assert set(system.parts) == {"backbone", "text", "teacher"}
  assert set(for_inference(system).parts) == {"backbone", "text"}


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"parts__teacher__train": "all"}, r"parts\.teacher\.train='none'"),
    ({"parts__text__train": "all"}, r"parts\.text\.train='none'"),
    ({"train__objective": "guidance_distillation"}, r"model\.guidance above 0"),
    ({"train__objective": "denoising"}, "config.parts names backbone, teacher, text"),
  ],
)
def test_refusals(changes, words):
  with pytest.raises(ConfigError, match=words):
    system_of(CONSISTENCY, **changes)


def test_scales_that_are_none_are_refused(student):
  changes = {"train__objective": "guidance_distillation(low=3.0, high=2.0)"}
  with pytest.raises(ConfigError, match="low <= high"):
    system_at(student, **changes)
