"""A small residual block with kernels of three axes, and a model of one stack of it."""

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.layers import Dense
from t2i_jax.models.params import init_params, scan_blocks, stack_blocks

WIDTH, HEADS, HEAD, DEPTH = 8, 3, 7, 5


class Block(nnx.Module):
  def __init__(self, rngs):
    self.q = Dense(rngs, WIDTH, (HEADS, HEAD), ("embed", "heads", "head_dim"))
    self.out = Dense(rngs, (HEADS, HEAD), WIDTH, ("heads", "head_dim", "embed"))

  def __call__(self, x):
    return x + self.out(jnp.tanh(self.q(x)))


class Model(nnx.Module):
  def __init__(self, rngs, remat="none"):
    self.blocks, self.remat = stack_blocks(Block, DEPTH, rngs), remat

  def __call__(self, x):
    return scan_blocks(self.blocks, x, lambda block, x, _: (block(x), None), remat=self.remat)[0]


def each_block(stack):
  """The blocks of a stack, one by one."""
  graph, weights = nnx.split(stack)
  depth = jax.tree.leaves(weights)[0].shape[0]
  return [nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], weights)) for i in range(depth)]


def toy(seed=0, rows=2, tokens=6):
  """Parameters, and an input [rows, tokens, WIDTH]."""
  x = jax.random.normal(jax.random.key(seed + 1), (rows, tokens, WIDTH))
  return init_params(Model, jax.random.key(seed)), x
