"""Codes: FSQ and LFQ against their papers' formulas, a moving codebook against its own in numpy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.autoencoders import AUTOENCODERS, codebook
from t2i_jax.autoencoders.lookup_free import fsq_bound, fsq_round
from t2i_jax.config import build
from t2i_jax.errors import ConfigError
from t2i_jax.models.params import abstract_of, with_params

SIZES = "widths=(4,), layers=1, groups=2, mid_attention=False"
ROUNDED = {f"fsq(levels=(8, 5, 2), {SIZES})": 3, f"lfq({SIZES})": 4, f"vq(codes=6, {SIZES})": 3}
CODES = (80, 16, 6)


def model_of(text):
  c, rng = build(AUTOENCODERS, text, "autoencoder", ROUNDED[text]), np.random.default_rng(0)
  random = lambda leaf: rng.standard_normal(leaf.shape, np.float32)
  return c, with_params(c.make)(jax.tree.map(random, abstract_of(c.make)))


def test_fsq_is_the_listing_of_its_paper():
  """[2309.15505 app. A.1] in numpy; levels even, odd and two, at all distances from 0."""
  levels, eps = np.array([8, 5, 2, 3]), 1e-3
  z = np.random.default_rng(0).normal(0, 2, (500, 4))
  half_l = (levels - 1) * (1 - eps) / 2
  offset = np.where(levels % 2 == 1, 0.0, 0.5)
  bounded = np.tanh(z + np.tan(offset / half_l)) * half_l - offset
  rounded = np.round(bounded) / (levels // 2)
  found = fsq_bound(jnp.asarray(z, jnp.float32), tuple(levels))
  np.testing.assert_allclose(found, bounded / (levels // 2), atol=2e-6)
  np.testing.assert_allclose(fsq_round(found, tuple(levels)), rounded, atol=1e-6)
  assert [len(np.unique(column)) for column in rounded.T] == [8, 5, 2, 3]
  outside = fsq_round(jnp.full((1, 4), 9.0), tuple(levels))  # what a generator may draw
  np.testing.assert_allclose(outside, [[0.75, 1, 0, 1]])


@pytest.mark.parametrize("text", ROUNDED, ids=lambda text: text[:3])
def test_every_code_decodes_from_its_index(text):
  """index -> code -> index; the rounded code is itself, and its gradient that of the latents."""
  c, model = model_of(text)
  assert c.codes == dict(zip(ROUNDED, CODES, strict=True))[text]
  indices = jnp.arange(c.codes).reshape(1, -1, 2)

  @jax.jit
  def found(indices):
    z, x = model.lookup(indices), model.vectors(indices)
    slope = jax.grad(lambda x: jnp.sum(jnp.sin(model.quantise(x))))(x + 1e-3)
    return model.indices(z), z, x, model.quantise(x + 1e-3), slope

  back, z, x, rounded, slope = found(indices)
  np.testing.assert_array_equal(back, indices)
  assert len(np.unique(np.asarray(z).reshape(-1, z.shape[-1]), axis=0)) == c.codes
  np.testing.assert_allclose(rounded, x, atol=1e-6)
  np.testing.assert_allclose(slope, np.cos(x), atol=1e-5)


def test_bits_of_lfq_are_signs():
  _, model = model_of(f"lfq({SIZES})")
  x = jnp.array([[[[0.3, -2.0, 0.1, -0.1]]]])
  np.testing.assert_array_equal(model.quantise(x), [[[[1, -1, 1, -1]]]])
  assert model.nearest(x).item() == 0b0101


def test_codebook_of_moving_averages():
  """N, m and m / N of [1711.00937 app. A.1] kept apart in float64, over forty batches."""
  rng, decay, codes = np.random.default_rng(0), 0.9, 5
  book = jnp.asarray(rng.normal(0, 1, (codes, 2)), jnp.float32)
  sizes = jnp.zeros(codes)
  n, m = np.zeros(codes), np.zeros((codes, 2))
  for _ in range(40):
    x = rng.normal(0, 1, (3, 2, 4, 2)).astype(np.float32)
    weight = np.array([1, 0, 1], np.float32)
    nearest = np.argmin(np.square(x[..., None, :] - np.asarray(book)).sum(-1), axis=-1)
    counts, sums = codebook.assigned(x, nearest, weight, codes)
    book, sizes = codebook.averaged(book, sizes, counts, sums, decay)
    used = nearest[weight > 0].reshape(-1)
    hot = np.eye(codes)[used]
    n = decay * n + (1 - decay) * hot.sum(0)
    m = decay * m + (1 - decay) * hot.T @ x[weight > 0].reshape(-1, 2)
    np.testing.assert_allclose(sizes, n, rtol=1e-5)
    seen = n > 0
    np.testing.assert_allclose(np.asarray(book)[seen], (m / np.maximum(n, 1e-30)[:, None])[seen],
                               rtol=1e-4, atol=1e-4)  # fmt: skip


def test_dead_codes_become_latents_of_the_batch():
  """Drawn in micro-batches, whose sums have one latent a code; the others stay."""
  rng = np.random.default_rng(1)
  x = jnp.asarray(rng.normal(0, 1, (8, 2, 2, 3)), jnp.float32)
  key, rows = jax.random.key(3), jnp.arange(8)
  draw = jax.jit(lambda x, rows: codebook.candidates(x, rows, key, 50, 8))
  whole, halves = draw(x, rows), [draw(x[i::2], rows[i::2]) for i in range(2)]
  np.testing.assert_array_equal(whole, halves[0] + halves[1])
  places = {tuple(row) for row in np.asarray(x).reshape(-1, 3).tolist()}
  found = [tuple(row) for row in np.asarray(whole).tolist()]
  assert set(found) <= places and len(set(found)) > 15

  book, sizes = jnp.zeros((4, 3)), jnp.array([0.0, 0.9, 1.1, 30.0])
  moved, after = codebook.restarted(book, sizes, whole[:4], jnp.float32(40), 0.1)
  np.testing.assert_array_equal(moved[:2], whole[:2])
  np.testing.assert_array_equal(moved[2:], 0)
  np.testing.assert_allclose(after, [10, 10, 1.1, 30])
  kept, _ = codebook.restarted(book, sizes, whole[:4], jnp.float32(40), 0.0)
  np.testing.assert_array_equal(kept, book)


def test_how_codes_are_used():
  even = jnp.ones(8)
  np.testing.assert_allclose(codebook.perplexity(even), 8, rtol=1e-6)
  counts = jnp.array([3.0, 1.0, 0.0, 0.0])
  expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
  np.testing.assert_allclose(codebook.perplexity(counts), expected, rtol=1e-6)
  assert codebook.used(counts) == 0.5 and codebook.perplexity(0 * counts) == 1


@pytest.mark.parametrize(
  "text, channels, message",
  [
    ("fsq(levels=(8, 8))", 3, "has 2 channels, and z has 3: give one number a channel, or use mod"),
    ("fsq(levels=(1, 8))", 2, "is not in [2, 1024]"),
    ("fsq(levels=(1024, 1024, 1024, 1024))", 4, "are 1099511627776 codes"),
    ("lfq", 20, "20 channels are 2^20 codes, which training sums over: use model.channels=14 at"),
    ("kl(measured=True, shift=0.1)", 4, "measured=True sets mean and deviation"),
  ],
)
def test_sizes_that_are_refused(text, channels, message):
  with pytest.raises(ConfigError, match=re.escape(message)):
    build(AUTOENCODERS, text, "autoencoder", channels)
