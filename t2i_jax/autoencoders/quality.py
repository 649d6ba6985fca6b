"""How near a reconstruction is to its image: PSNR and SSIM of each image."""

import jax
import jax.numpy as jnp
import numpy as np

SIDE, SIGMA = 11, 1.5  # of SSIM's Gaussian window
K1, K2 = 0.01, 0.03
RANGE = 2.0  # of pixels in [-1, 1]


def psnr(image_hat: jax.Array, image: jax.Array) -> jax.Array:
  """Peak signal-to-noise ratio in dB, of images [B, H, W, 3] in [-1, 1].   # [B]

  An exact one has 100 dB.
  """
  error = jnp.mean(jnp.square(image_hat - image), axis=(1, 2, 3))
  return 10 * jnp.log10(RANGE**2 / jnp.maximum(error, RANGE**2 * 1e-10))


def ssim(image_hat: jax.Array, image: jax.Array) -> jax.Array:
  """Structural similarity over a Gaussian window of 11 x 11, the mean over places and colours.

  images [B, H, W, 3] in [-1, 1], at least 11 x 11.   # [B]
  Source: Wang et al. 2004, Image Quality Assessment, eq. 13, with the window inside the image
  """
  rows, cols = _window(image.shape[1]), _window(image.shape[2])
  blur = lambda x: jnp.einsum("oh,bhwc,pw->bopc", rows, x, cols, precision="highest")
  a, b = image_hat, image
  mean_a, mean_b = blur(a), blur(b)
  var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
  both = blur(a * b) - mean_a * mean_b
  c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
  top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
  below = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
  return jnp.mean(top / below, axis=(1, 2, 3))


def _window(length: int) -> np.ndarray:
  """The Gaussian at every place inside a side, as a matrix; a product with it has a fixed order of
  sums, and no convolution by channel, which is slow on CPUs.   # [length - 10, length]
  """
  one = np.exp(-0.5 * np.square((np.arange(SIDE) - SIDE // 2) / SIGMA))
  out = np.zeros((length - SIDE + 1, length), np.float32)
  for i, row in enumerate(out):
    row[i : i + SIDE] = one / one.sum()
  return out
