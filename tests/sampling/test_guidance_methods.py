"""Every method of guidance: what it is at its ends, what it promises; rows, calls, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guided_toys import FLOW, SHAPE, at, conditions, normal, once, toy

from t2i_jax.errors import ConfigError
from t2i_jax.parallel import batch_sharding, make_mesh
from t2i_jax.plan import Program
from t2i_jax.process import Prediction, convert
from t2i_jax.sampling import (
  GRIDS,
  GUIDANCE,
  SOLVERS,
  Labelled,
  autoguide,
  classify,
  compose,
  dual,
  guide,
  make_plan,
  remember,
  sample,
)
from t2i_jax.sampling.guidance import Views
from t2i_jax.sampling.guidance_methods import apg, cfg, cfg_norm, cfg_zero, enhance, pag, slg

# Every method that a list can hold, with whatever extra conditions it needs.
METHODS = {
  "cfg": cfg(),
  "cfg, rescaled": cfg(rescale=0.7),
  "cfg, rescaled in v": cfg(rescale=0.7, on="v"),
  "cfg, thresholded": cfg(threshold=0.9),
  "cfg, within": cfg(low=0.2, high=3.0),
  "cfg_zero": cfg_zero(zero_steps=0),
  "cfg_zero, waiting": cfg_zero(zero_steps=2),
  "apg": apg(),
  "apg, no memory": apg(momentum=0.0),
  "cfg_norm": cfg_norm(),
  "cfg_norm, packed": cfg_norm(patch=2),
  "pag": pag(layers=(0,)),
  "slg": slg(layers=(0,)),
  "dual": dual(image_scale=1.3),
  "compose": compose(weights=(1.0, 0.5, -0.3)),
}

EVERY = pytest.mark.parametrize("name", METHODS)


@pytest.mark.newest
@EVERY
def test_scale_one_is_the_condition(name):
  """Exactly, in the method's own kind; for several prompts and images, what is left of them."""
  method, x, time = METHODS[name], normal(1), at(FLOW, 0.6)
  cond = conditions(method)
  found = once(method, 1.0, x, time, cond)
  views = [convert(toy(x, time, c), found.kind, x, time) for c in (cond.cond, *cond.others)]
  null = convert(toy(x, time, cond.null), found.kind, x, time).value
  wanted, others = views[0].value, [view.value for view in views[1:]]
  if name in ("pag", "slg"):
    wanted = wanted + {"pag": 3.0, "slg": 2.8}[name] * (wanted - others[0])
  elif name == "dual":
    wanted = null + 1.3 * (others[0] - null) + (wanted - others[0])
  elif name == "compose":
    wanted = wanted + 0.5 * (others[0] - null) - 0.3 * (others[1] - null)
  elif name == "cfg, thresholded":
    size = np.abs(np.asarray(wanted)).reshape(4, -1)
    s = np.maximum(np.quantile(size, 0.9, axis=1), 1).reshape(4, 1, 1, 1)
    wanted = np.clip(wanted, -s, s) / s
  elif name == "cfg_zero, waiting":
    wanted = jnp.zeros_like(wanted)
  close = {"pag", "slg", "dual", "compose", "cfg, thresholded"}
  np.testing.assert_allclose(found.value, wanted, rtol=0, atol=2e-6 if name in close else 0)


@pytest.mark.parametrize("name", ["cfg", "compose", "cfg, within"])
def test_scale_zero_is_the_null(name):
  method, x, time = METHODS[name], normal(1), at(FLOW, 0.6)
  cond = conditions(method)
  found = once(method, 0.0, x, time, cond)
  np.testing.assert_array_equal(found.value, toy(x, time, cond.null).value)


def orthogonal(x_t, time, cond):
  """A velocity whose guidance, cond - null, stands at right angles to null in every row."""
  left = jnp.zeros_like(x_t).at[..., 0].set(x_t[..., 0] + 2)
  right = jnp.zeros_like(x_t).at[..., 1].set(x_t[..., 1])
  return Prediction(left + cond[:, :, None, None] * right, "velocity")


def small(x_t, time, cond):
  """x0 well inside [-1, 1]."""
  return Prediction(0.05 * jnp.tanh(x_t + cond[:, :, None, None]), "x0")


NEUTRAL = {
  "rescale = 0": (cfg(rescale=0.0), toy),
  "nothing to threshold": (cfg(threshold=0.995), small),
  "the whole interval": (cfg(low=0.0, high=1e6), toy),
  "apg": (apg(eta=1.0, norm=0.0, momentum=0.0), toy),
  "apg, long": (apg(eta=1.0, norm=1e6, momentum=0.0), toy),
  "pag of scale 0": (pag(layers=(0,), scale=0.0), toy),
  "slg of scale 0": (slg(layers=(0,), scale=0.0), toy),
  "cfg_zero at right angles": (cfg_zero(zero_steps=0), orthogonal),
  "one prompt": (compose((1.0,)), toy),
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_settings_are_plain_guidance(name):
  method, denoise = NEUTRAL[name]
  x, time, cond = normal(1), at(FLOW, 0.6), conditions(method)
  found = convert(once(method, 4.0, x, time, cond, denoise), "velocity", x, time)
  plain = once(cfg(), 4.0, x, time, cond._replace(others=()), denoise)
  wanted = convert(plain, "velocity", x, time)
  np.testing.assert_allclose(found.value, wanted.value, atol=2e-5)


def test_dual_guidance_with_equal_scales_is_plain():
  """Whatever the image says, s_I = s_T leaves null + s (both - null)."""
  x, time = normal(1), at(FLOW, 0.6)
  cond = conditions(dual())
  found = once(dual(image_scale=jnp.float32(4.0)), 4.0, x, time, cond)
  wanted = once(cfg(), 4.0, x, time, cond._replace(others=()))
  np.testing.assert_allclose(found.value, wanted.value, atol=2e-5)


@pytest.mark.parametrize("name", ["cfg", "pag", "slg", "apg, no memory"])
def test_without_a_null_the_scale_has_no_say(name):
  method, x, time = METHODS[name], normal(1), at(FLOW, 0.6)
  cond = conditions(method)
  with_null = once(method, 1.0, x, time, cond)
  without = once(method, 1.0, x, time, cond._replace(null=None))
  np.testing.assert_allclose(without.value, with_null.value, atol=1e-6)


def test_the_interval_is_of_sigma_over_alpha():
  """low < s <= high guides; outside and at either limit beyond, the condition is exact."""
  method, x = cfg(low=0.25, high=3.0), normal(1)
  cond = conditions(method)
  # Flow: t = s / (1 + s); quarters are exact in float32. One time a row.
  time = at(FLOW, [0.2, 0.5, 0.75, 0.875])  # s = 1/4, 1, 3, 7
  guided = once(method, 4.0, x, time, cond).value
  plain, own = once(cfg(), 4.0, x, time, cond).value, toy(x, time, cond.cond).value
  for row, inside in enumerate([False, True, True, False]):
    np.testing.assert_array_equal(guided[row], (plain if inside else own)[row])
  ends = at(FLOW, 1.0)
  upward = once(cfg(low=0.25), 4.0, x, ends, cond).value  # noise alone is above any low
  np.testing.assert_array_equal(upward, once(cfg(), 4.0, x, ends, cond).value)


@pytest.mark.parametrize("on", ["x0", "v", "eps"])
def test_rescaling_keeps_the_conditional_deviation(on):
  x, time = normal(1), at(FLOW, 0.6)
  cond = conditions(cfg())
  found = once(cfg(rescale=1.0, on=on), 6.0, x, time, cond)
  own = convert(toy(x, time, cond.cond), on, x, time).value
  assert found.kind == on
  std = lambda a: np.std(np.asarray(a, np.float64).reshape(4, -1), axis=1, ddof=1)
  np.testing.assert_allclose(std(found.value), std(own), rtol=1e-5)


def test_thresholding_keeps_x0_in_range_and_its_order():
  wide = lambda x_t, time, cond: Prediction(3 * x_t + cond[:, :, None, None], "x0")
  x, time, cond = normal(1), at(FLOW, 0.6), conditions(cfg())
  found = once(cfg(threshold=0.9), 2.0, x, time, cond, wide).value
  size = np.abs(np.asarray(found)).reshape(4, -1)
  assert abs(size.max() - 1) < 1e-6
  # The stated share of each row is at the limit; the rest keeps its proportions.
  share = np.mean(size > 1 - 1e-6, axis=1)
  assert np.all(np.abs(share - 0.1) <= 1 / 48 + 1e-6)


@pytest.mark.parametrize("patch", [1, 2])
def test_tokens_keep_the_conditional_length(patch):
  x, time = normal(1), at(FLOW, 0.6)
  cond = conditions(cfg())
  found = once(cfg_norm(patch=patch), 5.0, x, time, cond).value
  own = toy(x, time, cond.cond).value
  for i in range(0, 4, patch):
    for j in range(0, 4, patch):
      token = lambda a, i=i, j=j: np.asarray(a[:, i : i + patch, j : j + patch]).reshape(4, -1)
      a, b = (np.linalg.norm(token(a), axis=1) for a in (found, own))
      np.testing.assert_allclose(a, b, rtol=1e-5)


def test_apg_moves_at_right_angles_and_not_too_far():
  x, time = normal(1), at(FLOW, 0.6)
  cond = conditions(cfg())
  found = once(apg(eta=0.0, norm=0.5), 7.0, x, time, cond).value
  own = convert(toy(x, time, cond.cond), "x0", x, time).value
  moved = np.asarray(found - own, np.float64).reshape(4, -1)
  along = (moved * np.asarray(own).reshape(4, -1)).sum(1) / np.linalg.norm(
    own.reshape(4, -1), axis=1
  )
  assert np.abs(along).max() < 1e-4
  length = np.linalg.norm(moved, axis=1)
  assert np.all(length < 6 * 0.5 + 1e-5) and np.all(length > 1)


@EVERY
def test_what_else_the_network_said_is_kept(name):
  """A learned variance, in aux, is the conditional one; the memory has a place of its own."""
  method, x, time = METHODS[name], normal(1), at(FLOW, 0.6)
  more = lambda x_t, time, cond: toy(x_t, time, cond)._replace(aux=cond)
  cond = conditions(method)
  found = once(method, 4.0, x, time, cond, more)
  np.testing.assert_array_equal(found.aux, cond.cond)
  assert (found.memory is None) == (method.starts is None)


@EVERY
def test_rows_do_not_know_each_other(name):
  method, time = METHODS[name], at(FLOW, [0.3, 0.5, 0.7, 0.9])
  x, cond = normal(1), conditions(method)
  found = once(method, 4.0, x, time, cond)
  other_x = x.at[1:].set(normal(2)[1:])
  others = jax.tree.map(lambda a, b: a.at[1:].set(b[1:]), cond, conditions(method, seed=3))
  changed = once(method, 4.0, other_x, time, others)
  np.testing.assert_array_equal(found.value[0], changed.value[0])
  if name != "cfg_zero, waiting":  # whose first velocities are 0 everywhere
    assert float(jnp.abs(found.value[1] - changed.value[1]).max()) > 1e-3


@EVERY
def test_a_scale_may_differ_by_row(name):
  method, x, time = METHODS[name], normal(1), at(FLOW, 0.6)
  cond = conditions(method)
  scales = jnp.array([0.0, 1.0, 2.5, 7.0])
  together = once(method, scales, x, time, cond).value
  for row, scale in enumerate(scales):
    alone = once(method, scale, x, time, cond).value
    np.testing.assert_allclose(together[row], alone[row], atol=1e-6)


@EVERY
@pytest.mark.parametrize("null", [True, False])
def test_one_call_of_the_network(name, null):
  method, calls = METHODS[name], []

  def counted(x_t, time, cond):
    calls.append((len(x_t), len(cond)))
    return toy(x_t, time, cond)

  cond = conditions(method)
  cond = cond if null else cond._replace(null=None)
  once(method, 4.0, normal(1), at(FLOW, 0.6), cond, counted)
  rows = SHAPE[0] * (1 + null + method.others)
  assert calls == [(rows, rows)]


@EVERY
def test_another_scale_compiles_nothing(name):
  method, time, cond = METHODS[name], at(FLOW, 0.6), conditions(METHODS[name])
  compiled = jax.jit(lambda x, scale: once(method, scale, x, time, cond).value)
  found = [compiled(normal(1), jnp.float32(scale)) for scale in (0.0, 1.0, 7.5)]
  assert compiled._cache_size() == 1
  assert all(np.all(np.isfinite(one)) for one in found)


WEIGHT = normal(11, (48, 48)) / 7


def network(x_t, time, cond):
  """A matrix over the whole row, so that rows are the only axis that can be shared out."""
  hidden = jnp.tanh(x_t.reshape(len(x_t), -1) @ WEIGHT + cond)
  return Prediction(hidden.reshape(x_t.shape), "velocity")


def _classified(scale, method):
  log_prob = lambda x, time, y: -jnp.sum(jnp.square(x), axis=(1, 2, 3)) * y[:, 0]
  return classify(network, log_prob, scale), lambda cond: Labelled(cond.cond, cond.cond)


def _autoguided(scale, method):
  return autoguide(network, lambda *a: network(*a), method, scale), lambda cond: cond


@pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 devices")
@pytest.mark.parametrize("name", [*METHODS, "classify", "autoguide"])
def test_no_method_moves_rows_between_devices(name):
  mesh, method = make_mesh(8, 1, 1), METHODS.get(name, cfg())
  solver = SOLVERS["euler"]()
  plan = make_plan(solver, FLOW, GRIDS["trailing"](FLOW, 4))

  def guided(scale):
    special = {"classify": _classified, "autoguide": _autoguided}
    if name in special:
      return special[name](scale, method)
    return guide(network, method, scale), lambda cond: cond

  def draw(x, cond, scale):
    denoise, of = guided(scale)
    hooks = {} if name == "classify" else remember(method, x)
    return sample(denoise, solver, plan, x, of(cond), **hooks)[0]

  rows = lambda a: jax.ShapeDtypeStruct((16, *a.shape[1:]), a.dtype, sharding=batch_sharding(mesh))
  x, cond = jax.tree.map(rows, (normal(1), conditions(method)))
  with jax.set_mesh(mesh):
    compiled = jax.jit(draw, out_shardings=batch_sharding(mesh)).lower(x, cond, np.float32(3))
    found = Program(compiled.compile().as_text()).collectives()
  assert found.total() == 0, dict(found)


@pytest.mark.parametrize(
  "make, words",
  [
    (lambda: cfg(low=2.0, high=1.0), "low = 2.0 to high = 1.0"),
    (lambda: cfg(threshold=99.5), "0.995"),
    (lambda: cfg(rescale=0.5, on="x"), "'x'"),
    (lambda: pag(layers=3), "layers=(2, 3)"),
  ],
)
def test_wrong_settings_are_named(make, words):
  with pytest.raises(ConfigError, match=words.replace("(", r"\(").replace(")", r"\)")):
    make()


def test_every_method_of_a_config_is_in_the_lists():
  assert set(GUIDANCE) <= {name.split(",")[0] for name in METHODS}


@pytest.mark.parametrize("of, other", [("word", "ki"), ("rest", "a circle")])
def test_a_word_is_enhanced(of, other):
  """Both ways, of numbers [2411.04571 eq. 6]; the other prompt follows from the first."""
  method = enhance("ki", 0.5, of)
  assert method.reworded("a ki circle") == other
  prediction = lambda value: Prediction(jnp.full((1, 2), value), "eps")
  views = Views(prediction(3.0), prediction(1.0), (prediction(2.0),), jnp.zeros((1, 2)), None)
  expected = 1 + 4 * (3 - 1) + 4 * 0.5 * ((2 - 1) if of == "word" else (3 - 2))
  np.testing.assert_allclose(method.combine(views, 4.0).value, expected)
