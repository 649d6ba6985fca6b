"""The DiT: its zero beginning, word order, remat, dtypes, FLOPs; test_families has the rest."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from weights import random_weights

from t2i_jax.errors import ConfigError
from t2i_jax.models import (
  Conditioning,
  DiT,
  Tower,
  abstract_of,
  init_params,
  matmul_flops,
  with_params,
)
from t2i_jax.models.dit import DiTConfig
from t2i_jax.models.params import scan_blocks, stack_blocks
from t2i_jax.towers import TextTower, TextTowerConfig

CONFIG = DiTConfig(
  width=32, depth=3, heads=2, patch=2, channels=3, out=3, text="cross", text_width=16
)
MODES = pytest.mark.parametrize("mode", ["cross", "joint", "pooled"])


@functools.cache
def make(config):
  return lambda rngs: DiT(config, rngs)


@functools.cache
def live(make):
  """Random values, also where the initialisation has zeros, so that every path counts."""
  return random_weights(abstract_of(make))


def condition(b=2, t=5, used=(5, 3), seed=1):
  key = jax.random.key(seed)
  mask = jnp.arange(t) < jnp.array(used)[:, None]
  tokens = jax.random.normal(key, (b, t, 16))
  return Conditioning({"text": Tower(tokens, mask, jax.random.normal(key, (b, 16)))}, {})


def forward(config, x, cond, params=None, dtype=jnp.float32):
  params = live(make(config)) if params is None else params
  return compiled(config)(params, x.astype(dtype), cond)


@functools.cache
def compiled(config):
  bind = with_params(make(config))
  return jax.jit(lambda params, x, cond: bind(params)(x, jnp.array([3.0, 700.0]), cond).value)


@MODES
def test_fresh_model_answers_zero(mode):
  config = dataclasses.replace(CONFIG, text=mode)
  params = init_params(make(config), jax.random.key(0))
  assert not np.any(forward(config, jnp.ones((2, 8, 8, 3)), condition(), params))


@MODES
def test_word_order_matters(mode):
  config = dataclasses.replace(CONFIG, text=mode)
  params = live(make(config))
  tower = TextTowerConfig(vocab=20, length=24, width=16, depth=1, heads=2)
  text = with_params(lambda r: TextTower(tower, r))(live(lambda r: TextTower(tower, r)))
  ids, mask = jnp.array([[1, 5, 6, 7, 2]] * 2), jnp.ones((2, 5), bool)
  x = jnp.ones((2, 8, 8, 3))
  a = forward(config, x, Conditioning({"text": text(ids, mask)}, {}), params)
  b = forward(config, x, Conditioning({"text": text(ids[:, [0, 3, 2, 1, 4]], mask)}, {}), params)
  assert float(jnp.abs(a - b).max()) > 1e-3


@pytest.mark.parametrize("absolute", [False, True])
def test_only_absolute_positions_tell_equal_patches_apart(absolute):
  config = dataclasses.replace(CONFIG, absolute=absolute)
  found = forward(config, jnp.ones((2, 8, 8, 3)), condition())
  patches = found.reshape(2, 4, 2, 4, 2, 3).swapaxes(2, 3).reshape(2, 16, -1)
  apart = float(jnp.abs(patches - patches[:, :1]).max())
  assert apart > 1e-2 if absolute else apart < 1e-4


@pytest.mark.parametrize("remat", ["full", "dots", "attention", "qkv"])
def test_remat_changes_no_gradient(remat):
  x, cond = jax.random.normal(jax.random.key(2), (2, 8, 8, 3)), condition()
  params = live(make(CONFIG))

  def loss(params, config):
    return jnp.sum(jnp.square(forward(config, x, cond, params)))

  plain = jax.grad(loss)(params, CONFIG)
  again = jax.grad(loss)(params, dataclasses.replace(CONFIG, remat=remat))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), plain, again)


def test_scanned_equals_unrolled():
  class Add(nnx.Module):
    def __init__(self, rngs):
      self.w = nnx.Param(jax.random.normal(rngs.params(), (4, 4)), axes=("a", "b"), matrix=None)

    def __call__(self, x, extra):
      return jnp.tanh(x @ self.w[...]) + extra

  blocks = stack_blocks(Add, 3, nnx.Rngs(0))
  extra = jnp.arange(3.0)
  scanned = scan_blocks(blocks, jnp.ones((2, 4)), lambda b, x, e: (b(x, e), e), extra)
  x = jnp.ones((2, 4))
  for i in range(3):
    x = jnp.tanh(x @ blocks.w[...][i]) + extra[i]
  np.testing.assert_allclose(scanned[0], x, atol=1e-6)
  np.testing.assert_array_equal(scanned[1], extra)  # what each block gives besides
  weights = blocks.w[...]
  assert not np.array_equal(weights[0], weights[1])  # each layer has its own draw


def test_bfloat16_stays_near_float32():
  x, cond = jax.random.normal(jax.random.key(2), (2, 8, 8, 3)), condition()
  exact, half = forward(CONFIG, x, cond), forward(CONFIG, x, cond, dtype=jnp.bfloat16)
  assert half.dtype == jnp.float32
  assert float(jnp.abs(half - exact).max()) < 0.05 * float(jnp.abs(exact).max())


@pytest.mark.newest
@MODES
def test_flops_against_xla(mode):
  """One block, so that the scan body that XLA counts once is all there is."""
  config = dataclasses.replace(CONFIG, text=mode, width=128, depth=1, heads=2, text_width=64)
  tower = TextTowerConfig(vocab=20, length=24, width=64, depth=1, heads=2)
  maker = lambda r: TextTower(tower, r)

  def run(p, q, x, ids):
    text = with_params(maker)(q)(ids, jnp.ones_like(ids, bool))
    return with_params(make(config))(p)(x, jnp.zeros(1), Conditioning({"text": text}, {})).value

  p, q = abstract_of(make(config)), abstract_of(maker)
  args = (p, q, jnp.ones((1, 16, 16, 3)), jnp.ones((1, 24), int))
  counted = jax.jit(run).lower(*args).compile().cost_analysis()["flops"]
  ours = matmul_flops(run, *args)
  assert 0.9 < ours / counted < 1.02  # XLA also counts norms, softmax and GELU


@pytest.mark.parametrize(
  "change, words",
  [
    ({"text": "add"}, "cross, joint, pooled"),
    ({"remat": "some"}, "none, full, dots"),
    ({"width": 30}, "width 8 x n"),
  ],
)
def test_bad_configs_name_the_fix(change, words):
  with pytest.raises(ConfigError, match=words):
    dataclasses.replace(CONFIG, **change)
