"""Noise of an inversion kept like Gaussian noise: uncorrelated, of mean 0 and variance 1.

    L = pair + kl,   pair = sum over a pyramid of sizes, sum over shifts of (correlation)^2
                     kl   = var + mean^2 - 1 - log var
    eps <- eps - rate grad L,   some times, of the eps_hat of every step

Source: [2302.03027 sec. 3.1, its code]. The code draws one shift of each size at random, here all
of them count, so that no key is needed: correlations of all shifts are one Fourier transform.
"""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from t2i_jax.process import Prediction, Time, convert
from t2i_jax.ranges import Range
from t2i_jax.sampling.solver import Denoiser

SMALLEST = 8  # side at which the pyramid ends, as published


class Regular(NamedTuple):
  """times: gradient steps of each eps_hat;   pair, kl: rates of either term"""

  times: Annotated[int, Range("[0, 1000]")] = 5
  pair: float = 20.0
  kl: float = 20.0


REGULAR = Regular()


def correlations(x: jax.Array) -> jax.Array:
  """mean over places of x[i] x[i + d], cyclic, d = 1 .. n / 2, down and across.  [B, n, n', C] ->
  [B, n // 2 + n' // 2, C]
  """

  def along(axis: int) -> jax.Array:
    n = x.shape[axis]
    power = jnp.square(jnp.abs(jnp.fft.fft(x, axis=axis)))
    of_shifts = jnp.fft.ifft(power, axis=axis).real / n  # mean along the axis
    other = 3 - axis
    return jnp.mean(of_shifts, axis=other)[:, 1 : n // 2 + 1]

  return jnp.concatenate([along(1), along(2)], 1)


def irregularity(eps: jax.Array, pair: float = 1.0, kl: float = 1.0) -> jax.Array:
  """pair x the squared correlations + kl x the divergence from unit variance.  [B, H, W, C] -> [B]

  The squared correlation is a mean over the shifts of a size, a sum over sizes, axes and channels.
  """
  total, x = jnp.zeros(len(eps)), eps
  while True:
    total = total + 2 * pair * jnp.sum(jnp.mean(jnp.square(correlations(x)), 1), 1)
    b, rows, cols, channels = x.shape
    if min(rows, cols) <= SMALLEST or rows % 2 or cols % 2:
      break
    x = jnp.mean(x.reshape(b, rows // 2, 2, cols // 2, 2, channels), (2, 4))
  mean, var = jnp.mean(eps, (1, 2, 3)), jnp.var(eps, (1, 2, 3))
  return total + kl * (var + jnp.square(mean) - 1 - jnp.log(var + 1e-7))


def regularised(denoise: Denoiser, how: Regular = REGULAR) -> Denoiser:
  """A denoiser whose eps_hat is regular, for `invert` of images [B, H, W, C]; alpha > 0."""
  gradient = jax.grad(lambda eps: jnp.sum(irregularity(eps, how.pair, how.kl)))

  def regular(x_t: jax.Array, time: Time, cond) -> Prediction:
    prediction = convert(denoise(x_t, time, cond), "eps", x_t, time)
    step = lambda _, eps: eps - gradient(eps)
    return prediction._replace(value=jax.lax.fori_loop(0, how.times, step, prediction.value))

  return regular
