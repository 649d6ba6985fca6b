"""Layers against closed forms and jax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.models import layers, positions


def test_gelu_and_its_slope_are_jax_nn():
  x = jnp.linspace(-6, 6, 401)
  np.testing.assert_allclose(layers.gelu(x), jax.nn.gelu(x), atol=1e-6)
  np.testing.assert_allclose(
    jax.vmap(jax.grad(layers.gelu))(x), jax.vmap(jax.grad(jax.nn.gelu))(x), atol=1e-6
  )


@pytest.mark.newest
def test_norms():
  x = jnp.asarray(np.random.default_rng(0).normal(3, 5, (4, 7, 16)), jnp.float32)
  normed = layers.layer_norm(x)
  np.testing.assert_allclose(normed.mean(-1), 0, atol=1e-5)
  np.testing.assert_allclose(normed.std(-1), 1, atol=1e-4)
  np.testing.assert_allclose(jnp.square(layers.rms_norm(x)).mean(-1), 1, atol=1e-4)
  # The same direction in bfloat16 for large values: statistics are float32.
  big = (x * 1e4).astype(jnp.bfloat16)
  half = layers.layer_norm(big).astype(jnp.float32)
  np.testing.assert_allclose(half, normed, atol=5e-2)


def test_patchify_round_trip_and_order():
  x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
  tokens = layers.patchify(x, 2)
  assert tokens.shape == (2, 6, 12)
  np.testing.assert_array_equal(tokens[0, 1].reshape(2, 2, 3), x[0, :2, 2:4])  # reading order
  np.testing.assert_array_equal(layers.unpatchify(tokens, 2, 4, 6), x)


def test_rope_scores_depend_on_offsets_only():
  rng = np.random.default_rng(0)
  q, k = (jnp.asarray(rng.normal(size=16), jnp.float32) for _ in range(2))

  def score(at_q, at_k):
    cos, sin = positions.rope_angles(jnp.array([at_q, at_k]), 16, 100.0)
    q_r, k_r = positions.rotate(jnp.stack([q, k])[None, :, None], cos, sin)[0, :, 0]
    return float(q_r @ k_r)

  assert score([2, 5], [4, 1]) == pytest.approx(score([7, 6], [9, 2]), abs=1e-4)
  assert score([2, 5], [4, 1]) != pytest.approx(score([2, 5], [5, 1]), abs=1e-3)
  assert score([3, 3], [3, 3]) == pytest.approx(float(q @ k), abs=1e-4)
  with pytest.raises(ValueError, match="does not split over 3 axes"):
    positions.rope_angles(jnp.zeros((1, 3)), 16, 100.0)


def test_timestep_embedding_tells_neighbours_apart():
  e = layers.timestep_embedding(jnp.arange(1000.0), 256)
  np.testing.assert_allclose(e[0], np.r_[np.ones(128), np.zeros(128)])
  assert float(jnp.linalg.norm(e[1:] - e[:-1], axis=1).min()) > 0.1
  assert layers.timestep_embedding(jnp.ones(1, jnp.bfloat16), 8).dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rotary_positions_are_the_same_in_the_form_for_tpus(dtype):
  x = jax.random.normal(jax.random.key(0), (2, 5, 3, 8)).astype(dtype)
  cos, sin = positions.rope_angles(jnp.arange(10.0).reshape(5, 2), 8, 100.0)
  whole = positions._rotate_whole(x, cos[:, None], sin[:, None])
  np.testing.assert_array_equal(positions.rotate(x, cos, sin), whole)
