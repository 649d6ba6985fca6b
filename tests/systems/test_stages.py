"""A grid divided between two networks."""

import jax
import numpy as np
import pytest

from t2i_jax.errors import ConfigError
from t2i_jax.process import PROCESSES
from t2i_jax.sampling import GRIDS, SOLVERS, make_plan
from t2i_jax.systems.stages import Stage, steps_until

SD = PROCESSES["ddpm_scaled_linear"](published=True)
FLOW = PROCESSES["flow"]()


@pytest.mark.parametrize(
  "process, grid, steps, share, before",
  [
    (SD, "leading", 5, 0.8, 4),  # 801, 601, 401, 201 | 1
    (SD, "trailing", 5, 0.8, 4),  # 999, 799, 599, 399 | 199: the cut is 200
    (SD, "leading", 50, 0.8, 40),
    (SD, "linspace", 4, 0.5, 2),  # 999, 666 | 333, 0
    (FLOW, "trailing", 4, 0.5, 3),  # 1000, 750, 500 | 250
  ],
)
def test_steps_of_the_first_stage(process, grid, steps, share, before):
  times = GRIDS[grid](process, steps)
  assert steps_until(process, times, share) == before


def test_each_stage_has_a_step():
  times = GRIDS["trailing"](SD, 5)
  with pytest.raises(ConfigError, match=r"steps are at 999 .. 199 of 1000, all .* side of 199"):
    steps_until(SD, times, 0.801)


@pytest.mark.parametrize("solver", ["euler", "ddpm", "heun"])
def test_two_stages_are_the_whole_plan(solver):
  """Of solvers without a memory: the steps, and which noise each of them has."""
  times, method = GRIDS["leading"](SD, 6), SOLVERS[solver]()
  whole = make_plan(method, SD, times)
  halves = [stage.plan(method, SD, times) for stage in (Stage(0, 4), Stage(4))]
  joined = jax.tree.map(lambda a, b: np.concatenate([a, b]), *halves)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), whole, joined)
