"""How data becomes noise: x_t = alpha(t) x0 + sigma(t) eps, t in [0, 1], 0 = data and 1 = noise.

Schedules, predictions and their conversions, the laws of t, and the losses. Knows no model.
"""

from t2i_jax.process.losses import denoising_loss
from t2i_jax.process.prediction import KINDS, Prediction, convert, to_velocity, to_x0_eps
from t2i_jax.process.schedules import PROCESSES, Process, make_process
from t2i_jax.process.time import Time, like
from t2i_jax.process.timesteps import TIMESTEP_LAWS, make_timestep_law

__all__ = [
  "KINDS",
  "PROCESSES",
  "TIMESTEP_LAWS",
  "Prediction",
  "Process",
  "Time",
  "convert",
  "denoising_loss",
  "like",
  "make_process",
  "make_timestep_law",
  "to_velocity",
  "to_x0_eps",
]
