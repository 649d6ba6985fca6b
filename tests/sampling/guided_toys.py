"""What the tests of guidance share: a toy denoiser, conditions for any method, one guided call."""

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.process import PROCESSES, Prediction, Time
from t2i_jax.sampling import Guided, guide

SHAPE = (4, 4, 4, 3)  # B, H, W, C

FLOW = PROCESSES["flow"]()


def at(process, t):
  return Time(*(jnp.asarray(field) for field in process.at(np.asarray(t, np.float64))))


def normal(seed, shape=SHAPE):
  return jax.random.normal(jax.random.key(seed), shape)


def toy(x_t, time, cond):
  """A nonlinear denoiser of velocity, whose condition is an array [B, 1]; null is 0."""
  push = jnp.tanh(x_t * 1.3 + cond[:, :, None, None]) - 0.4 * x_t
  return Prediction(push + 0.3 * cond[:, :, None, None], "velocity")


def conditions(method, seed=0, rows=SHAPE[0]):
  draw = lambda i: normal(100 + 10 * seed + i, (rows, 1))
  return Guided(draw(0), jnp.zeros((rows, 1)), tuple(draw(1 + i) for i in range(method.others)))


def once(method, scale, x, time, cond, denoise=toy):
  """One guided call, from the method's first memory."""
  memory = None if method.starts is None else method.starts(x)
  return guide(denoise, method, scale)(x, time, cond._replace(memory=memory))
