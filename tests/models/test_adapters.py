"""Adapters: a side path equals merged weights, and costs no gradient of the weights."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import condition, config_of, forward, image, live_params, maker
from toy_blocks import DEPTH, HEAD, HEADS, WIDTH, Model, toy

from t2i_jax.errors import ConfigError
from t2i_jax.models import Adapter, matmul_flops, merge_adapters, with_params
from t2i_jax.models.adapters import dropped
from t2i_jax.models.lora import Masks
from t2i_jax.parallel import batch_sharding, make_mesh

RANK = 4
INPUTS = {"q": (WIDTH,), "out": (HEADS, HEAD)}
OUTPUTS = {"q": (HEADS, HEAD), "out": (WIDTH,)}


def adapter(key, layers, inputs, outputs, scale=0.7, zero=False):
  one, two = jax.random.split(key)
  a = 0.3 * jax.random.normal(one, (*layers, *inputs, RANK))
  b = 0.3 * jax.random.normal(two, (*layers, RANK, *outputs))
  return Adapter(a, 0 * b if zero else b, scale)


def toy_adapters(zero=False):
  keys = jax.random.split(jax.random.key(4))
  return {
    f"blocks/{name}": adapter(key, (DEPTH,), INPUTS[name], OUTPUTS[name], zero=zero)
    for name, key in zip(INPUTS, keys, strict=True)
  }


bound = with_params(Model)
forward_toy = jax.jit(lambda params, x, adapters=None: bound(params, adapters)(x))


def test_a_side_path_equals_merged_weights():
  params, x = toy()
  adapters = toy_adapters()
  merged = forward_toy(merge_adapters(params, adapters), x)
  np.testing.assert_allclose(forward_toy(params, x, adapters), merged, rtol=1e-5, atol=1e-5)
  assert float(jnp.abs(merged - forward_toy(params, x)).max()) > 1e-2
  half = jax.eval_shape(forward_toy, params, x.astype(jnp.bfloat16), adapters)
  assert half.dtype == jnp.bfloat16


def test_with_b_of_zero_nothing_changes():
  params, x = toy()
  plain, merged = forward_toy(params, x), merge_adapters(params, toy_adapters(zero=True))
  np.testing.assert_array_equal(forward_toy(params, x, toy_adapters(zero=True)), plain)
  jax.tree.map(np.testing.assert_array_equal, merged, params)


def loss(remat, adapters, params, x):
  bind = with_params(lambda rngs: Model(rngs, remat))
  return jnp.sum(jnp.square(bind(params, adapters)(x)))


@pytest.mark.parametrize("remat", ["none", "full"])
def test_gradients_are_those_through_merged_weights(remat):
  params, x = toy()
  adapters = toy_adapters()
  found = jax.jit(jax.grad(partial(loss, remat)))(adapters, params, x)
  through = jax.jit(
    jax.grad(lambda adapters: loss("none", None, merge_adapters(params, adapters), x))
  )
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
  jax.tree.map(close, found, through(adapters))
  assert len(jax.tree.leaves(found)) == 2 * len(adapters)


def test_no_gradient_of_the_weights_is_computed():
  """FLOPs by closed form: of W, forward and the gradient of x; of A and B, both gradients too.

  The gradient of the very first x is not needed, which the scan, having one body, computes."""
  params, x = toy()
  adapters, tokens = toy_adapters(), x.shape[0] * x.shape[1]
  slope = jax.grad(partial(loss, "none"))
  inner = HEADS * HEAD
  of_w, of_ab = 2 * WIDTH * inner, 2 * RANK * (WIDTH + inner)
  assert matmul_flops(slope, adapters, params, x) == 2 * tokens * DEPTH * (2 * of_w + 3 * of_ab)


def test_a_backbone_takes_adapters():
  """FLUX, with adapters in both stacks, at a modulation and outside of them."""
  config = config_of("flux")
  params, x, cond = live_params("flux", config), image(), condition("flux")
  shapes = {
    "double/image/heads/kv": ((2,), (32,), (2, 2, 16)),
    "double/text/mlp/up": ((2,), (32,), (128,)),
    "single/out": ((2,), (2, 16), (32,)),
    "single_adaln": ((2,), (32,), (3, 32)),
    "final_adaln": ((), (32,), (2, 32)),
    "text_in": ((), (24,), (32,)),
  }
  keys = jax.random.split(jax.random.key(2), len(shapes))
  adapters = {path: adapter(key, *shapes[path]) for path, key in zip(shapes, keys, strict=True)}
  bind = with_params(maker("flux", config))
  run = lambda params, adapters: bind(params, adapters)(x, jnp.full(2, 300.0), cond).value
  merged = forward("flux", config, merge_adapters(params, adapters), x, cond)
  np.testing.assert_allclose(
    jax.jit(run)(params, adapters), merged, atol=1e-5 * float(jnp.abs(merged).max())
  )
  assert float(jnp.abs(merged - forward("flux", config, params, x, cond)).max()) > 1e-2


def dropping(rows, key=3, rate=0.25):
  masks = Masks(jax.random.key(key), rows)
  return {
    path: replace(one, keys=masks.keys(path, (DEPTH,)), rate=rate)
    for path, one in toy_adapters().items()
  }


def test_dropout_of_the_side_paths_of_a_stack():
  """The scan equals its blocks one by one, each with the mask of its layer and row; the masks of a
  row are those of its number, alone and on eight devices, too."""
  params, x = toy(rows=8)
  adapters = dropping(jnp.arange(8))
  found, h = forward_toy(params, x, adapters), x
  for i in range(DEPTH):

    def layer(seen, name, inputs, outputs, i=i):
      one, kernel = adapters[f"blocks/{name}"], params["blocks"][name]["kernel"][i]
      of = f"bt{inputs},{inputs}"
      inner = jnp.einsum(f"{of}r->btr", dropped(seen, one.keys[i], one.rate), one.a[i])
      side = one.scale * jnp.einsum(f"btr,r{outputs}->bt{outputs}", inner, one.b[i])
      return jnp.einsum(f"{of}{outputs}->bt{outputs}", seen, kernel) + side

    h = h + layer(jnp.tanh(layer(h, "q", "d", "nk")), "out", "nk", "d")
  np.testing.assert_allclose(found, h, rtol=1e-5, atol=1e-5)
  alone = forward_toy(params, x[3:4], dropping(jnp.array([3])))
  np.testing.assert_allclose(alone, found[3:4], rtol=1e-5, atol=1e-5)
  with pytest.raises(ConfigError, match="in a step of 1 images"):
    forward_toy(params, x, dropping(jnp.array([3])))
  mesh = make_mesh(8)
  put = lambda leaf: jax.device_put(leaf, batch_sharding(mesh))
  run = jax.jit(lambda x, rows: bound(params, dropping(rows))(x))
  np.testing.assert_allclose(run(put(x), put(jnp.arange(8))), found, rtol=1e-5, atol=1e-5)


def test_the_law_of_dropout():
  """Each number is kept with probability 1 - rate, independently of row, path and layer, so that
  the mean is what it was; n = 40,000: four standard deviations."""
  masks = Masks(jax.random.key(0), jnp.arange(20))
  keys = masks.keys("blocks/q", (2,))
  x = jnp.ones((20, 1000))
  kept = [np.asarray(dropped(x, k, 0.3)) > 0 for k in (*keys, masks.keys("out", ()))]
  np.testing.assert_array_equal(np.unique(dropped(x, keys[0], 0.3)), [0, np.float32(1) / 0.7])
  for one in kept:
    assert abs(one.mean() - 0.7) < 4 * (0.21 / one.size) ** 0.5
  pairs = [(kept[0], kept[1]), (kept[0], kept[2]), (kept[0][:10], kept[0][10:])]
  for a, b in pairs:
    assert abs((a & b).mean() - 0.49) < 4 * (0.25 / a.size) ** 0.5


@pytest.mark.parametrize(
  "path, layers, inputs, words",
  [
    ("blocks/k", (DEPTH,), (WIDTH,), "'blocks/k'"),
    ("blocks", (DEPTH,), (WIDTH,), "'blocks'"),
    ("blocks/q", (DEPTH,), (WIDTH + 1,), "do not multiply to the kernel"),
    ("blocks/q", (), (WIDTH,), "leading axis in a stack"),
  ],
)
def test_what_does_not_fit_is_named(path, layers, inputs, words):
  params, _ = toy()
  wrong = {path: adapter(jax.random.key(0), layers, inputs, (HEADS, HEAD))}
  with pytest.raises(ConfigError, match=words):
    merge_adapters(params, wrong)
  with pytest.raises(ConfigError, match=words):
    bound(params, wrong)
