"""The DiT: shapes, padding, aspect ratios, scanned against unrolled, remat, dtypes, FLOPs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning, DiT, Tower, axes_of, init_params, matrices_of, with_params
from t2i_jax.models.dit import DiTConfig, forward_flops
from t2i_jax.models.params import scan_blocks, stack_blocks
from t2i_jax.towers import TextTower, TextTowerConfig, tower_flops

CONFIG = DiTConfig(
  width=32, depth=3, heads=2, patch=2, channels=3, out_channels=3, text="cross", text_width=16
)
MODES = pytest.mark.parametrize("mode", ["cross", "joint"])


def make(config):
  return lambda rngs: DiT(config, rngs)


def live(params, seed=9):
  """Random values where the initialisation has zeros, so that every path counts."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  noise = [x + 0.2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
  return jax.tree.unflatten(tree, noise)


def condition(b=2, t=5, used=(5, 3), seed=1):
  key = jax.random.key(seed)
  mask = jnp.arange(t) < jnp.array(used)[:, None]
  tokens = jax.random.normal(key, (b, t, 16))
  return Conditioning({"text": Tower(tokens, mask, jax.random.normal(key, (b, 16)))}, {})


def forward(config, x, cond, params=None, dtype=jnp.float32):
  params = live(init_params(make(config), jax.random.key(0))) if params is None else params
  bind = with_params(make(config))
  run = jax.jit(lambda params, x, cond: bind(params)(x, jnp.array([3.0, 700.0]), cond))
  return run(params, x.astype(dtype), cond)


@MODES
@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (16, 6)])
def test_any_aspect_ratio(mode, shape):
  config = dataclasses.replace(CONFIG, text=mode)
  out = forward(config, jnp.ones((2, *shape, 3)), condition())
  assert out.shape == (2, *shape, 3) and out.dtype == jnp.float32
  assert float(jnp.std(out)) > 0


@MODES
def test_fresh_model_answers_zero(mode):
  config = dataclasses.replace(CONFIG, text=mode)
  params = init_params(make(config), jax.random.key(0))
  assert not np.any(forward(config, jnp.ones((2, 8, 8, 3)), condition(), params))


@MODES
def test_padding_does_not_matter(mode):
  config = dataclasses.replace(CONFIG, text=mode)
  x = jax.random.normal(jax.random.key(5), (2, 8, 8, 3))
  short = condition(t=5, used=(5, 3))
  text = short.towers["text"]
  longer = Tower(
    jnp.concatenate([text.tokens, 7 * jnp.ones((2, 4, 16))], 1),
    jnp.pad(text.mask, ((0, 0), (0, 4))),
    text.pooled,
  )
  a = forward(config, x, short)
  b = forward(config, x, Conditioning({"text": longer}, {}))
  np.testing.assert_allclose(a, b, atol=2e-5)
  changed = text._replace(tokens=text.tokens.at[1, 4].set(9.0))  # beyond row 1's three tokens
  np.testing.assert_allclose(a, forward(config, x, Conditioning({"text": changed}, {})), atol=1e-6)


@MODES
def test_word_order_matters(mode):
  config = dataclasses.replace(CONFIG, text=mode)
  params = live(init_params(make(config), jax.random.key(0)))
  tower = TextTowerConfig(vocab=20, length=24, width=16, depth=1, heads=2)
  text = with_params(lambda r: TextTower(tower, r))(
    live(init_params(lambda r: TextTower(tower, r), jax.random.key(1)))
  )
  ids, mask = jnp.array([[1, 5, 6, 7, 2]] * 2), jnp.ones((2, 5), bool)
  x = jnp.ones((2, 8, 8, 3))
  a = forward(config, x, Conditioning({"text": text(ids, mask)}, {}), params)
  b = forward(config, x, Conditioning({"text": text(ids[:, [0, 3, 2, 1, 4]], mask)}, {}), params)
  assert float(jnp.abs(a - b).max()) > 1e-3


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_no_gradient(remat):
  x, cond = jax.random.normal(jax.random.key(2), (2, 8, 8, 3)), condition()
  params = live(init_params(make(CONFIG), jax.random.key(0)))

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
  scanned = scan_blocks(blocks, jnp.ones((2, 4)), lambda b, x, e: b(x, e), extra)
  x = jnp.ones((2, 4))
  for i in range(3):
    x = jnp.tanh(x @ blocks.w[...][i]) + extra[i]
  np.testing.assert_allclose(scanned, x, atol=1e-6)
  weights = blocks.w[...]
  assert not np.array_equal(weights[0], weights[1])  # each layer has its own draw


def test_compiled_size_does_not_grow_with_depth():
  def lines(depth):
    config = dataclasses.replace(CONFIG, depth=depth)
    params = jax.eval_shape(lambda: init_params(make(config), jax.random.key(0)))
    run = lambda params, x: forward(config, x, condition(), params)
    return len(jax.jit(run).lower(params, jnp.ones((2, 8, 8, 3))).as_text().splitlines())

  assert abs(lines(2) - lines(12)) < 20


def test_bfloat16_stays_near_float32():
  x, cond = jax.random.normal(jax.random.key(2), (2, 8, 8, 3)), condition()
  exact, half = forward(CONFIG, x, cond), forward(CONFIG, x, cond, dtype=jnp.bfloat16)
  assert half.dtype == jnp.float32
  assert float(jnp.abs(half - exact).max()) < 0.05 * float(jnp.abs(exact).max())


@MODES
def test_every_weight_has_axes_and_matters(mode):
  config = dataclasses.replace(CONFIG, text=mode)
  params = live(init_params(make(config), jax.random.key(0)))
  axes, matrices = axes_of(make(config)), matrices_of(make(config))
  is_leaf = lambda x: x is None or isinstance(x, tuple)
  for leaf, axis, matrix in zip(
    jax.tree.leaves(params),
    jax.tree.leaves(axes),
    jax.tree.leaves(matrices, is_leaf=is_leaf),
    strict=True,
  ):
    assert leaf.ndim == len(axis)
    if matrix is not None:
      dims = sorted(d for side in matrix for d in side)
      assert len(set(dims)) == len(dims) and dims[0] >= 0 and dims[-1] < leaf.ndim
  x, cond = jax.random.normal(jax.random.key(2), (2, 8, 8, 3)), condition()
  grads = jax.grad(lambda p: jnp.sum(jnp.square(forward(config, x, cond, p))))(params)
  for path, g in jax.tree.leaves_with_path(grads):
    assert float(jnp.abs(g).max()) > 0, jax.tree_util.keystr(path)


@MODES
def test_flops_against_xla(mode):
  """One block, so that the scan body that XLA counts once is all there is."""
  config = dataclasses.replace(CONFIG, text=mode, width=128, depth=1, heads=2, text_width=64)
  tower = TextTowerConfig(vocab=20, length=24, width=64, depth=1, heads=2)
  maker = lambda r: TextTower(tower, r)

  def run(p, q, x, ids):
    text = with_params(maker)(q)(ids, jnp.ones_like(ids, bool))
    return with_params(make(config))(p)(x, jnp.zeros(1), Conditioning({"text": text}, {}))

  p, q = (
    jax.eval_shape(lambda m=m: init_params(m, jax.random.key(0))) for m in (make(config), maker)
  )
  compiled = jax.jit(run).lower(p, q, jnp.ones((1, 16, 16, 3)), jnp.ones((1, 24), int)).compile()
  counted = compiled.cost_analysis()["flops"]
  ours = forward_flops(config, 64, 24) + tower_flops(tower, 24)
  assert 0.9 < ours / counted < 1.02  # XLA also counts norms, softmax and GELU


@pytest.mark.parametrize(
  "change, words",
  [
    ({"text": "add"}, "cross, joint"),
    ({"remat": "some"}, "none, full, dots"),
    ({"width": 30}, "width 8 x n"),
  ],
)
def test_bad_configs_name_the_fix(change, words):
  with pytest.raises(ConfigError, match=words):
    dataclasses.replace(CONFIG, **change)
