"""The forward process x_t = alpha(t) x0 + sigma(t) eps, t in [0, 1], 0 = data and 1 = noise.

Schedules, predictions and their conversions, timestep distributions, and losses. It does not depend
on any model.
"""

from t2i_jax.process.losses import PENALTIES, denoising_loss
from t2i_jax.process.prediction import KINDS, Prediction, convert, from_x0_eps, to_x0_eps
from t2i_jax.process.schedules import PROCESSES, Process
from t2i_jax.process.time import Time, like, mix
from t2i_jax.process.timesteps import SHIFTS, TIMESTEP_DISTRIBUTIONS
from t2i_jax.process.weightings import WEIGHTINGS

__all__ = [
  "KINDS",
  "PENALTIES",
  "PROCESSES",
  "SHIFTS",
  "TIMESTEP_DISTRIBUTIONS",
  "WEIGHTINGS",
  "Prediction",
  "Process",
  "Time",
  "convert",
  "denoising_loss",
  "from_x0_eps",
  "like",
  "mix",
  "to_x0_eps",
]
