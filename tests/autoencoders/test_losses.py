"""Losses and qualities against closed forms, brute force, and a direct SSIM in numpy."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.autoencoders import KLConfig, losses, measured, quality
from t2i_jax.autoencoders.lookup_free import FSQModel, LFQModel
from t2i_jax.errors import ConfigError
from t2i_jax.models.params import abstract_of, with_params
from t2i_jax.pretrained.known import spec_for

RNG = np.random.default_rng(0)


def test_kl_is_that_of_gaussians():
  """Against an integral over a fine grid, dimension by dimension."""
  mean = RNG.normal(0, 1, (2, 1, 2, 2)).astype(np.float32)
  logvar = RNG.uniform(-2, 1, mean.shape).astype(np.float32)
  x = np.linspace(-15, 15, 60_001)
  log = lambda x, m, v: -0.5 * ((x - m) ** 2 / v + np.log(2 * np.pi * v))
  total = np.zeros(2)
  for index in np.ndindex(mean.shape):
    m, v = mean[index], np.exp(logvar[index])
    p = log(x, m, v)
    total[index[0]] += np.sum(np.exp(p) * (p - log(x, 0, 1))) * (x[1] - x[0])
  np.testing.assert_allclose(losses.kl(mean, logvar), total, rtol=1e-4)


def test_hinge_and_pixels():
  real, fake = jnp.array([2.0, 0.5, -1.0, 0.0]), jnp.array([-2.0, 0.5, 1.0, -1.0])
  logits = lambda x: x.reshape(2, 2, 1, 1)
  expected = [0.5 * ((0 + 0.5) / 2 + (0 + 1.5) / 2), 0.5 * ((2 + 1) / 2 + (2 + 0) / 2)]
  np.testing.assert_allclose(losses.hinge(logits(real), logits(fake)), expected)
  a, b = jnp.zeros((1, 2, 2, 1)), jnp.array([1.0, -1.0, 2.0, 0.0]).reshape(1, 2, 2, 1)
  assert losses.l1(a, b) == 1.0 and losses.l2(a, b) == 1.5


def test_perceptual_distance_is_of_directions():
  a = RNG.normal(0, 1, (2, 5, 7)).astype(np.float32)
  np.testing.assert_allclose(losses.perceptual([a], [3 * a]), 0, atol=1e-6)
  np.testing.assert_allclose(losses.perceptual([a, a], [-a, a]), 4, rtol=1e-5)


def test_commitment_moves_latents_and_not_codes():
  x, codes = jnp.ones((1, 1, 1, 2)), jnp.zeros((1, 1, 1, 2))
  assert losses.commitment(x, codes) == 1
  by_x, by_codes = jax.grad(lambda *a: losses.commitment(*a)[0], argnums=(0, 1))(x, codes)
  np.testing.assert_array_equal(by_x, 1)
  np.testing.assert_array_equal(by_codes, 0)


@pytest.mark.parametrize("model", [LFQModel, FSQModel])
def test_entropy_is_that_of_all_codes(model):
  """Against a softmax over all codes, their distances in half steps of each channel."""
  levels = {FSQModel: (2, 5, 4), LFQModel: (2, 2, 2)}[model]
  values = model.values.fget(SimpleNamespace(levels=levels, bits=3))
  x = RNG.normal(0, 0.7, (2, 2, 1, 3)).astype(np.float32)
  codes = np.array(list(itertools.product(*values)), np.float64)
  steps = np.array([v[1] - v[0] for v in values]) / 2
  logits = -np.square((x[..., None, :] - codes) / steps).sum(-1) / 0.8
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  entropy = lambda p: -(p * np.log(np.maximum(p, 1e-300))).sum(-1)
  expected = entropy(p).mean((1, 2)) - entropy(p.mean((0, 1, 2)))
  found = losses.code_entropy(x, values, 0.8)
  np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_adaptive_weight_is_a_ratio_of_norms():
  a, b = jnp.array([3.0, 4.0]), jnp.array([0.6, 0.8])
  np.testing.assert_allclose(losses.adaptive_weight(a, b), 5 / (1 + 1e-4), rtol=1e-6)
  assert losses.adaptive_weight(a, 0 * b) == 1e4
  assert jax.grad(lambda a: losses.adaptive_weight(a, b))(a).tolist() == [0, 0]


def test_psnr():
  image = jnp.zeros((1, 4, 4, 3))
  np.testing.assert_allclose(quality.psnr(image + 0.2, image), 20, rtol=1e-5)  # error 1/10 of 2
  assert quality.psnr(image, image) == 100


def test_ssim_is_that_of_its_windows():
  """Every window of 11 x 11 of the formula by itself, on images of other sides."""
  a = RNG.uniform(-1, 1, (2, 13, 12, 3)).astype(np.float32)
  b = np.clip(a + RNG.normal(0, 0.3, a.shape), -1, 1).astype(np.float32)
  at = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
  window = np.outer(at, at)[..., None] / np.outer(at, at).sum()
  c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
  expected = np.zeros(2)
  for n, i, j in itertools.product(range(2), range(3), range(2)):
    x, y = (v[n, i : i + 11, j : j + 11].astype(np.float64) for v in (a, b))
    mean = lambda v: (window * v).sum((0, 1))
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean((x - mx) ** 2), mean((y - my) ** 2), mean((x - mx) * (y - my))
    one = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    expected[n] += one.mean() / 6
  np.testing.assert_allclose(quality.ssim(b, a), expected, rtol=1e-4)
  np.testing.assert_allclose(quality.ssim(a, a), 1, rtol=1e-5)


def test_statistics_of_latents():
  x = RNG.normal(3, 2, (4, 3, 3, 2)).astype(np.float32)
  counts = np.array([1, 1, 0, 1], np.float32)
  mean, var = measured.mean_and_var(measured.moments(x, counts))
  used = x[counts > 0].reshape(-1, 2)
  np.testing.assert_allclose(mean, used.mean(0), rtol=1e-5)
  np.testing.assert_allclose(var, used.var(0), rtol=1e-4)
  first = measured.tracked(jnp.zeros(2), jnp.ones(2), measured.moments(x, counts), 0.0)
  np.testing.assert_allclose(first, (mean, var))


def test_settled_statistics_are_those_of_the_config():
  """latents_mean and latents_std of a published config, with the same z and back."""
  config = KLConfig(2, (4,), 1, 2, mid_attention=False, measured=True)
  params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), abstract_of(config.make))
  params["latents"] = {"mean": np.array([1, -2], np.float32), "var": np.array([4, 9], np.float32)}
  fixed, rest = measured.settled(config, params)
  np.testing.assert_allclose(fixed.latents_std, (2, 3), rtol=1e-6)
  assert fixed.latents_mean == (1, -2) and jax.tree.structure(rest) == jax.tree.structure(
    abstract_of(fixed.make)
  )
  x = RNG.normal(0, 1, (1, 2, 2, 2)).astype(np.float32)
  before, after = with_params(config.make)(params), with_params(fixed.make)(rest)
  np.testing.assert_allclose(before.normalise(x), after.normalise(x), rtol=1e-5)
  np.testing.assert_allclose(before.restore(before.normalise(x)), x, rtol=1e-5, atol=1e-6)
  with pytest.raises(ConfigError, match="has scale and shift as weights"):
    spec_for(config).write(config)
  with pytest.raises(ConfigError, match="KLConfig without measured=True has nothing to settle"):
    measured.settled(fixed, rest)
