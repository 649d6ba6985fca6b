"""The ControlNet of a DiT beside its blocks written out one after the other; what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from weights import random_weights

from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning, DiT, Tower, abstract_of, attend, init_params, with_params
from t2i_jax.models.dit import DiTConfig
from t2i_jax.models.dit_controlnet import DiTControlNetConfig
from t2i_jax.models.layers import final_layer, patchify

BASE = DiTConfig(
  width=32, depth=3, heads=2, patch=2, channels=4, out=4, text="cross", text_width=16
)
MODES = pytest.mark.parametrize("mode", ["cross", "joint"])
TIME = jnp.array([3.0, 700.0])


@functools.cache
def configs(mode, depth=2):
  """Of a base, and of a ControlNet with an image of 16 x 16 pixels over 8 x 8 latents."""
  base = dataclasses.replace(BASE, text=mode)
  own = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)} | {"depth": depth}
  return base, DiTControlNetConfig(**own, base_depth=3, factor=2)


@functools.cache
def base_maker(config):
  return lambda rngs: DiT(config, rngs)


def given():
  keys = jax.random.split(jax.random.key(0), 4)
  mask = jnp.arange(5) < jnp.array([5, 3])[:, None]
  tower = Tower(jax.random.normal(keys[0], (2, 5, 16)), mask, jax.random.normal(keys[1], (2, 16)))
  x = jax.random.normal(keys[2], (2, 8, 8, 4))
  return x, Conditioning({"text": tower}, {}), jax.random.uniform(keys[3], (2, 16, 16, 3))


def answer(config, params, x, cond, residuals=None):
  return with_params(base_maker(config))(params)(x, TIME, cond, residuals=residuals).value


def residuals_of(net, x, cond, image, scale=None):
  found = net(x, TIME, cond, net.embed(image))
  return found if scale is None else net.scaled(found, scale)


@MODES
def test_at_the_start_it_adds_nothing_to_the_bit(mode):
  base, own = configs(mode)
  x, cond, image = given()
  params = random_weights(abstract_of(base_maker(base)))
  fresh = init_params(own.make, jax.random.key(1))
  added = jax.jit(lambda p: residuals_of(with_params(own.make)(p), x, cond, image))(fresh)
  assert added["blocks"].shape == (3, 2, 16, 32) and not np.any(added["blocks"])
  run = jax.jit(functools.partial(answer, base))
  np.testing.assert_array_equal(run(params, x, cond, added), run(params, x, cond))


def through(module, entered, added):
  """The blocks one after the other, with what is added after each, and x after each."""
  graph, state = nnx.split(module.blocks)
  x, after = entered.x, []
  for i, modulation in enumerate(module.adaln(entered.vector)):
    block = nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], state))
    x = entered.call(block, x, modulation, lambda site: attend)
    if added is not None:
      x = x.at[:, entered.words :].add(added[i])
    after.append(x)
  return x, after


@MODES
def test_it_is_its_blocks_written_out(mode):
  base, own = configs(mode)
  x, cond, image = given()
  params = random_weights(abstract_of(base_maker(base)))
  weights = random_weights(abstract_of(own.make), seed=2)
  net, model = with_params(own.make)(weights), with_params(base_maker(base))(params)
  scale = jnp.array([[0.5, -1.0], [1.0, 2.0]])

  hint = patchify(image, 4) @ weights["hint_in"]["kernel"] + weights["hint_in"]["bias"]
  np.testing.assert_allclose(net.embed(image), hint, atol=1e-5)
  entered = net.entered(x, TIME, cond, hint)
  _, after = through(net, entered, None)
  kernel, bias = weights["outputs"]["kernel"], weights["outputs"]["bias"]
  added = [
    scale[:, i, None, None] * (a[:, entered.words :] @ kernel[i] + bias[i])
    for i, a in enumerate(after)
  ]
  added = [*added, jnp.zeros_like(added[0])]  # to the third block of the base nothing
  start = model.entered(x, TIME, cond)
  last, _ = through(model, start, added)
  expected = final_layer(
    last[:, start.words :], model.final_adaln(start.vector), model.head, 2, 8, 8
  )
  found = answer(base, params, x, cond, residuals_of(net, x, cond, image, scale))
  np.testing.assert_allclose(found, expected, atol=2e-4 * float(jnp.abs(expected).max()))
  assert float(jnp.abs(found - answer(base, params, x, cond)).max()) > 1e-2


def test_what_is_refused():
  with pytest.raises(ConfigError, match="depth = 4: the backbone has 3 blocks"):
    configs("cross", 4)
  base, own = configs("cross")
  assert not [n for n, (a, b) in own.compared(base, 2).items() if a != b]
  other = dataclasses.replace(base, width=64, depth=4)
  wrong = [n for n, (a, b) in own.compared(other, 1).items() if a != b]
  assert wrong[0] == "model.width" and len(wrong) == 3
  with pytest.raises(ConfigError, match=r"takes one time.*model\.times=1"):
    dataclasses.replace(own, times=2)
