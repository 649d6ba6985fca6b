"""The one attention against a loop, and what the mask's integers mean."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.models import Mask, attend


def qkv(b=2, lq=5, lk=7, heads=4, kv_heads=4, k=8, seed=0):
  rng = np.random.default_rng(seed)
  shapes = [(b, lq, heads, k), (b, lk, kv_heads, k), (b, lk, kv_heads, k)]
  return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]


def by_loop(q, k, v, allowed=None):
  out = np.zeros(q.shape)
  group = q.shape[2] // k.shape[2]
  for b, i, h in np.ndindex(*q.shape[:3]):
    scores = np.asarray(k[b, :, h // group] @ q[b, i, h]) / np.sqrt(q.shape[-1])
    if allowed is not None:
      scores = np.where(allowed[b, i], scores, -np.inf)
    p = np.exp(scores - scores.max())
    out[b, i, h] = (p / p.sum()) @ np.asarray(v[b, :, h // group])
  return out


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_against_a_loop(kv_heads):
  q, k, v = qkv(kv_heads=kv_heads)
  np.testing.assert_allclose(attend(q, k, v), by_loop(q, k, v), atol=1e-5)


@pytest.mark.newest
def test_the_order_of_the_matmuls_by_platform():
  """On a CPU queries come first, so that no scores are transposed; elsewhere as einsum has it."""
  q, k, v = qkv(lq=5, lk=7, k=11)
  shapes = {}
  for platform in ("cpu", "tpu"):
    text = jax.jit(attend).trace(q, k, v).lower(lowering_platforms=(platform,)).as_text()
    shapes[platform] = re.findall(r"dot_general.* -> tensor<(.*)xf32>", text)
  assert shapes == {"cpu": ["2x4x5x1x7", "2x4x1x5x11"], "tpu": ["2x4x7x5x1", "2x4x11x1x5"]}


def test_packed_causal_and_image_rows():
  """Two documents in a row; the second is text, then an image that sees all of itself."""
  doc = jnp.array([[0, 0, 1, 1, 1, 1, -1]])
  end = jnp.array([[0, 1, 2, 5, 5, 5, 6]])  # token 2 is text, 3 to 5 the image
  allowed = np.asarray(Mask(doc, doc, end).allowed())[0]
  expected = np.zeros((7, 7), bool)
  expected[0, :1] = expected[1, :2] = True
  expected[2, 2] = expected[3:6, 2:6] = expected[6, 6] = True
  assert np.array_equal(allowed, expected)
  q, k, v = qkv(b=1, lq=7)
  got = attend(q, k, v, Mask(doc, doc, end))
  np.testing.assert_allclose(got, by_loop(q, k, v, expected[None]), atol=1e-5)


def test_bfloat16_softmax_is_float32():
  q, k, v = qkv(lk=512)
  exact = attend(q, k, v)
  half = attend(*(x.astype(jnp.bfloat16) for x in (q, k, v)))
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(half, np.float32), exact, atol=2e-2)


def test_a_row_without_keys_is_finite():
  q, k, v = qkv(lk=3)
  mask = Mask(jnp.ones((2, 5), int), jnp.zeros((2, 3), int))
  out, grad = jax.value_and_grad(lambda q: attend(q, k, v, mask).sum())(q)
  assert np.isfinite(out) and np.all(np.isfinite(grad))
