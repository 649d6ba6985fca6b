"""Random weights for tests that ask what a model computes, not how it is initialised."""

import jax
import jax.numpy as jnp
import numpy as np


def random_weights(abstract, scale=0.25, seed=9):
  """Normal weights of the shapes of `abstract`, none of them zero; gains lie about 1.

  Drawn by numpy: the initialisation by itself compiles a program for every
  shape that a model has, four seconds for each small backbone.
  """
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    noise = scale * rng.standard_normal(leaf.shape, np.float32)
    return jnp.asarray(noise + ("gain" in jax.tree_util.keystr(path[-1:])))

  return jax.tree.map_with_path(draw, abstract)
