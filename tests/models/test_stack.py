"""Stacks: skips, residuals and losses of blocks, each equal to a loop over the blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import condition, config_of, forward, image, live_params, maker
from flax import nnx
from toy_blocks import DEPTH, WIDTH, Block, each_block, toy

from t2i_jax.errors import ConfigError
from t2i_jax.models import with_params
from t2i_jax.models.attention import attend
from t2i_jax.models.params import backwards, scan_blocks, stack_blocks
from t2i_jax.models.stack import Answer, BlockOutput, Runs, Stacks
from t2i_jax.models.streams import Both

X = toy()[1]


@functools.cache
def stack(depth=DEPTH, seed=0):
  return stack_blocks(Block, depth, nnx.Rngs(seed))


def same_value_and_slope(f, g, x):
  of = lambda f: jax.jit(jax.value_and_grad(lambda x: jnp.sum(jnp.square(f(x)))))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
  jax.tree.map(close, of(f)(x), of(g)(x))


@pytest.mark.parametrize("remat", ["none", "full"])
def test_skips_are_consumed_in_reverse(remat):
  """Down, and up with the last skip first: value and gradient."""
  down, up = stack(seed=0), stack(seed=1)
  c = Runs(remat=remat)

  def scanned(x):
    stacks = Stacks(c)

    def going_down(block, x, _, at):
      x = block(x)
      return BlockOutput(x, skip=x)

    x = stacks.run("down", down, x, going_down)
    skips = backwards(stacks.skips["down"])
    return stacks.run("up", up, x, lambda block, x, skip, at: block(x + skip), skips)

  def loop(x):
    skips = []
    for block in each_block(down):
      x = block(x)
      skips.append(x)
    for block in each_block(up):
      x = block(x + skips.pop())
    return x

  same_value_and_slope(scanned, loop, X)


@pytest.mark.parametrize("depth, count", [(5, 5), (5, 2), (7, 3), (4, 3), (4, 1)])
@pytest.mark.parametrize("tokens", [6, 4])  # of all, or of the image's, which are the last
def test_residuals_are_added_after_blocks(depth, count, tokens):
  """By the rule of FluxTransformer2DModel: number i // ceil(depth / count)."""
  blocks = stack(depth)
  residuals = jax.random.normal(jax.random.key(7), (count, 2, tokens, WIDTH))
  call = lambda block, x, _: (block(x), None)

  def loop(x, residuals):
    for i, block in enumerate(each_block(blocks)):
      x = block(x).at[:, -tokens:].add(residuals[i // int(np.ceil(depth / count))])
    return x

  scanned = lambda residuals: scan_blocks(blocks, X, call, None, "full", residuals)[0]
  same_value_and_slope(scanned, lambda residuals: loop(X, residuals), residuals)


def test_residuals_of_one_of_two_streams():
  """And more residuals than blocks are refused, as is a stack that does not exist."""
  blocks, residuals = stack(2), jnp.ones((1, *X.shape))
  call = lambda block, x, _: (Both(block(x.text), block(x.image)), None)
  both = Both(X, X)
  plain, _ = scan_blocks(blocks, both, call)
  found, _ = scan_blocks(blocks, both, call, residuals=Both(None, residuals))
  np.testing.assert_array_equal(found.text, plain.text)
  assert float(jnp.abs(found.image - plain.image).max()) > 0.5
  with pytest.raises(ConfigError, match="3 residuals for a stack of 2 blocks"):
    scan_blocks(blocks, X, call, residuals=jnp.ones((3, *X.shape)))
  stacks = Stacks(Runs(), residuals={"doubel": residuals})
  stacks.run("double", blocks, X, lambda block, x, _, at: block(x))
  with pytest.raises(
    ConfigError, match=r"residuals: no stack .* is named 'doubel'\. It has double"
  ):
    stacks.answer(X)


def test_a_backbone_takes_residuals(monkeypatch):
  """FLUX's two stacks, fewer residuals than blocks: scanned, and in a loop of Python."""
  config = config_of("flux")
  params, x, cond = live_params("flux", config), image(), condition("flux")
  shapes = {"double": (1, 2, 16, 32), "single": (2, 2, 16, 32)}
  keys = dict(zip(shapes, jax.random.split(jax.random.key(3)), strict=True))
  given = {name: jax.random.normal(keys[name], shape) for name, shape in shapes.items()}
  residuals = given | {"double": Both(None, given["double"])}
  model = lambda params: with_params(maker("flux", config))(params)
  run = lambda: jax.jit(lambda p, r: model(p)(x, jnp.full(2, 300.0), cond, residuals=r).value)(
    params, residuals
  )
  found = run()
  assert float(jnp.abs(found - forward("flux", config, params, x, cond)).max()) > 1e-2

  def loop(self, name, blocks, x, call, xs=None, text=0):
    for i, block in enumerate(each_block(blocks)):
      x = call(block, x, jax.tree.map(lambda leaf, i=i: leaf[i], xs), lambda _: attend)
      added = given[name][i // -(-2 // len(given[name]))]
      x = Both(x.text, x.image + added) if name == "double" else x.at[:, text:].add(added)
    return x

  monkeypatch.setattr(Stacks, "run", loop)
  monkeypatch.setattr(Stacks, "answer", lambda self, value: Answer(value, {}, {}))
  np.testing.assert_allclose(found, run(), atol=2e-5)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_blocks_add_losses_from_inside_the_scan(remat):
  """A router's balance: one number a layer, and one a row; summed over layers and stacks."""
  first, second = stack(3, seed=0), stack(2, seed=1)
  c = Runs(remat=remat)

  def routed(block, x):
    x = block(x)
    share = jnp.mean(jax.nn.softmax(x, axis=-1), axis=1)  # [B, experts]
    return x, {"balance": WIDTH * jnp.sum(jnp.mean(share, axis=0) ** 2), "rows": jnp.max(share, -1)}

  def scanned(x):
    stacks = Stacks(c)

    def call(block, x, _, at):
      x, losses = routed(block, x)
      return BlockOutput(x, losses=losses)

    x = stacks.run("first", first, x, call)
    return stacks.answer(stacks.run("second", second, x, call))

  def loop(x):
    total = {"balance": 0.0, "rows": jnp.zeros(len(x))}
    for block in (*each_block(first), *each_block(second)):
      x, losses = routed(block, x)
      total = {name: total[name] + losses[name] for name in total}
    return Answer(x, total, {})

  def of(f):
    loss = lambda x: (f(x).losses["balance"], f(x))
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(X)

  found, expected = of(scanned), of(loop)
  losses = found[0][1].losses
  assert losses["balance"].shape == () and losses["rows"].shape == (2,)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
  jax.tree.map(close, found, expected)


def test_without_losses_an_answer_has_none():
  stacks = Stacks(Runs())
  answer = stacks.answer(stacks.run("blocks", stack(2), X, lambda block, x, _, at: block(x)))
  assert answer.losses == {} and answer.notes == {} and answer.value.shape == X.shape
