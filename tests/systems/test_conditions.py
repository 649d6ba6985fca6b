"""Condition images that are made of images, beside scipy and numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from t2i_jax.config import build
from t2i_jax.data.conditions import OF_RECORDS
from t2i_jax.errors import ConfigError
from t2i_jax.systems.conditions import CONDITIONS, LUMINANCE, edges


def images(seed=0):
  return np.random.default_rng(seed).random((2, 8, 12, 3), np.float32)


def test_edges_are_sobels():
  x = images()
  grey = x @ np.float32(LUMINANCE)
  of = lambda one: np.hypot(*(ndimage.sobel(one, axis, mode="nearest") for axis in (0, 1)))
  expected = np.minimum(np.stack([of(one) for one in grey]) / 4, 1)
  np.testing.assert_allclose(edges()(jnp.asarray(x))[..., 1], expected, atol=1e-6)
  step = np.zeros((1, 6, 6, 3), np.float32)
  step[:, :, 3:] = 1
  found = np.asarray(edges()(jnp.asarray(step)))[0, :, :, 0]
  np.testing.assert_allclose(found, np.tile([0, 0, 1, 1, 0, 0], (6, 1)), atol=1e-6)


def test_blurred_are_means_of_squares():
  x, blurred = images(), build(CONDITIONS, "blurred(factor=4)", "condition")
  found = np.asarray(blurred(jnp.asarray(x)))
  np.testing.assert_allclose(
    found[1, 4:, 8:], np.broadcast_to(x[1, 4:, 8:].mean((0, 1)), (4, 4, 3))
  )
  with pytest.raises(ConfigError, match="4 does not divide 6 x 12"):
    blurred(jnp.asarray(x[:, :6]))


@pytest.mark.parametrize("name", sorted(CONDITIONS.keys() - OF_RECORDS.keys()))
def test_all_keep_shape_and_range(name):
  x = images()
  x[0], x[1, ::2] = 0, 1
  found = np.asarray(build(CONDITIONS, name, "condition")(jnp.asarray(x[:, :8, :8])))
  assert found.shape == (2, 8, 8, 3) and found.dtype == np.float32
  assert found.min() >= 0 and found.max() <= 1 + 1e-6
