"""From noise to data: solvers over a time grid, guidance as wrappers of a denoiser, one scan.

A denoiser is any function (x_t, time, cond) -> Prediction; a closed form serves as well as a net.
"""

from t2i_jax.sampling.guidance import Guided, cfg
from t2i_jax.sampling.loop import sample
from t2i_jax.sampling.solvers import SOLVERS, Denoiser, Solver

__all__ = ["SOLVERS", "Denoiser", "Guided", "Solver", "cfg", "sample"]
