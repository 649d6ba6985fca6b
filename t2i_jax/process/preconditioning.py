"""EDM's preconditioning: a wrapper around a network F, which then predicts x0.

    D(x_t) = c_skip x + c_out F(c_in x, c_noise),   x = x_t / alpha,  s = sigma / alpha

    c_skip = sigma_data^2 / (s^2 + sigma_data^2)        c_in = 1 / sqrt(s^2 + sigma_data^2)
    c_out  = s sigma_data / sqrt(s^2 + sigma_data^2)    c_noise: the process's model_time

Source: [2206.00364 eq. 7 and table 1]. At the start of training D is near c_skip x, the best linear
denoiser, and the target of F has unit variance at every noise level.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from t2i_jax.process.time import Time, like


def coefficients(time: Time, sigma_data: float = 0.5) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(c_in, c_skip, c_out) as factors of x_t itself and of F, finite also where alpha = 0."""
  alpha, sigma = time.alpha, time.sigma
  norm = jnp.sqrt(jnp.square(sigma) + jnp.square(alpha * sigma_data))
  return 1 / norm, alpha * jnp.square(sigma_data / norm), sigma * sigma_data / norm


def preconditioned(
  network: Callable[[jax.Array], jax.Array], x_t: jax.Array, time: Time, sigma_data: float = 0.5
) -> jax.Array:
  """x0_hat of a network with input c_in x_t. Returns float32, shaped like x_t."""
  c_in, c_skip, c_out = (like(c, x_t) for c in coefficients(time, sigma_data))
  return c_skip * x_t + c_out * network(c_in * x_t).astype(jnp.float32)
