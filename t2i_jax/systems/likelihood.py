"""Likelihood of images under a model that draws: the probability-flow ODE from data to noise."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.models.params import Params
from t2i_jax.process import Process, Time
from t2i_jax.sampling.likelihood import (
  bits_per_dimension,
  dequantised,
  hutchinson,
  log_likelihood,
)
from t2i_jax.systems.sampler import Batches
from t2i_jax.systems.tasks import Likelihood, Ode

LATENT_WIDTH = 1.0  # the units in which the density of latents is given


def rising_times(process: Process, steps: int, smallest: float) -> Time:
  """From tau = smallest to noise alone, log tau evenly spaced, tau = sigma / (alpha + sigma).

  The slope of an imperfect network's ODE grows as 1 / tau at the data: equal ratios keep it in the
  reach of a Runge-Kutta step. [2011.13456 app. C] starts at a small t, too.   float64 [steps + 1]
  """
  end = process.at(np.float64(1))
  top = float(end.sigma / (end.alpha + end.sigma))
  tau = np.geomspace(smallest, top, steps + 1)
  with np.errstate(divide="ignore"):
    t = np.asarray(process.time_of(tau / (1 - tau)), np.float64)
  t[-1] = 1
  return Time(*(np.asarray(field, np.float64) for field in process.at(t)))


def of_pixels(system: Any) -> bool:
  """Whether x is 8-bit pixels, so that a likelihood is in bits of them; else it is of latents."""
  return system.x_shape == system.image_shape and system.image_shape[-1] == 3


def make_likelihood(system: Any, c: ConfigDict, mesh: Mesh) -> Likelihood:
  """tasks.Likelihood in batches of config.sampling.batch, the ODE unguided.

  8-bit pixels are filled evenly to a density [1511.01844 sec. 3.1], and the bits are those of a
  pixel's value: a mean over images is an upper bound of the discrete model's. Latents have a
  density alone: -log2 p a dimension.
  """
  batches = Batches(mesh, c.batch)
  dims = int(np.prod(system.x_shape))
  eight_bit = of_pixels(system)

  @cache
  def compiled(ode: Ode):
    times = rising_times(system.process, ode.steps, ode.smallest)

    def run(params: Params, images: jax.Array, text: Any, seeds: jax.Array) -> jax.Array:
      keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(seeds)  # [B, 2]
      x0 = system.encode(params, images)
      if eight_bit:
        x0 = dequantised(x0, keys[:, 0])
      cond = system.encode_text(params, text)
      denoise = lambda x_t, time, cond: system.denoise(params, x_t, time, cond)
      probes = hutchinson(keys[:, 1], ode.probes)
      log_p = log_likelihood(denoise, system.process, times, x0, cond, probes)
      return bits_per_dimension(log_p, dims, *([] if eight_bit else [LATENT_WIDTH]))

    return jax.jit(run, out_shardings=jax.NamedSharding(mesh, jax.P()))

  def likelihood(
    params: Params, images: np.ndarray, captions: Sequence[str], seeds: Sequence[int], ode: Ode
  ) -> np.ndarray:
    text = {name: encoder.encode(captions) for name, encoder in system.text.items()}
    found = []
    for part in batches((np.asarray(images), text, np.asarray(seeds, np.uint32))):
      with jax.set_mesh(mesh):
        found.append(np.asarray(compiled(ode)(params, *part)))
    return np.concatenate(found)[: len(images)]

  return likelihood
