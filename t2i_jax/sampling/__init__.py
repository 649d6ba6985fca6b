"""Sampling: solvers over a time grid, guidance as wrappers of a denoiser, one scan.

A denoiser is any function (x_t, time, cond) -> Prediction: a network or a closed form.
"""

from t2i_jax.sampling.grids import GRIDS
from t2i_jax.sampling.guidance import (
  Combine,
  Guided,
  Labelled,
  autoguide,
  classify,
  guide,
  remember,
)
from t2i_jax.sampling.guidance_methods import GUIDANCE, GUIDANCE_OF_PROMPTS, compose, dual
from t2i_jax.sampling.loop import make_plan, row_noise, sample
from t2i_jax.sampling.solver import Denoiser, Solver, Step
from t2i_jax.sampling.solvers import SOLVERS

__all__ = [
  "GRIDS",
  "GUIDANCE",
  "GUIDANCE_OF_PROMPTS",
  "SOLVERS",
  "Combine",
  "Denoiser",
  "Guided",
  "Labelled",
  "Solver",
  "Step",
  "autoguide",
  "classify",
  "compose",
  "dual",
  "guide",
  "make_plan",
  "remember",
  "row_noise",
  "sample",
]
