"""Denoising by two networks in turn: the first steps of a grid, and the rest of them."""

from typing import Any, NamedTuple

import jax
import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning
from t2i_jax.models.unet import MICRO, NEGATIVE_AESTHETIC
from t2i_jax.process import Process, Time
from t2i_jax.sampling import Solver, Step, make_plan


class Stage(NamedTuple):
  """The steps [first, last) of a grid, one stage of the sampler.   last = None: to its end

  It starts at the grid's time `first` from x_t = prior_std noise, and ends at the time `last`. A
  solver that keeps outputs of steps before begins anew.
  """

  first: int = 0
  last: int | None = None

  def plan(self, solver: Solver, process: Process, times: Time) -> Step:
    """Its part of the plan over a whole grid; noise of a step is that of its place in the grid."""
    plan = make_plan(solver, process, Time(*(np.asarray(field)[self.first :] for field in times)))
    plan = plan._replace(index=plan.index + self.first)
    count = None if self.last is None else self.last - self.first
    return jax.tree.map(lambda field: field[:count], plan)


def steps_until(process: Process, times: Time, share: float) -> int:
  """The number of a grid's steps that make up the first `share` of the denoising.

  They are those whose network is given a training step of N (1 - share), rounded, or above: as
  diffusers divides a grid by denoising_end and denoising_start. Raises ConfigError where there is
  no step before, or none after.
  """
  count = process.steps or 1000
  cut = round(count - share * count)
  given = np.asarray(times.model_time)[:-1]
  first = int(np.sum(given >= cut))
  if not 0 < first < len(given):
    raise ConfigError(
      f"denoising_end = {share:g} with sampling.steps = {len(given)}: the steps are at "
      f"{given[0]:g} .. {given[-1]:g} of {count}, all of them on one side of {cut}. Use more "
      "steps, or another share."
    )
  return first


def negative(cond: Conditioning) -> Conditioning:
  """The condition of a null: of the refiner, with a low aesthetic score, as in diffusers."""
  sizes: Any = cond.extras.get("micro_conditions")
  if sizes is None or sizes.shape[-1] != MICRO[1]:
    return cond
  sizes = sizes.at[:, -1].set(NEGATIVE_AESTHETIC)
  return cond._replace(extras=cond.extras | {"micro_conditions": sizes})
