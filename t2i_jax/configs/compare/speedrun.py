"""The quickstart's recipes, to be compared at equal time: docs/speedrun.md.

  t2i train --config=configs/compare/speedrun.py:positions --workdir=runs/speedrun/positions_0

`first` is the recipe before. `positions` makes smaller steps, and more of them: it spends half the
time on Muon's iteration, and its patches have absolute positions. `recipe`, that of
configs/scenes_dit_flow.py, trains at higher noise besides.

Result: docs/speedrun.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import scenes_dit_flow as parent
from t2i_jax.configs import sections

VARIANTS = ("first", "positions", "recipe")


def get_config(variant: str = "recipe") -> ConfigDict:
  c = parent.get_config()
  c.name = f"speedrun_{variant}"
  if variant != "recipe":
    c.process.timesteps = "logit_normal(mean=1.0, std=1.2)"
  if variant == "first":
    sections.first_recipe(c)
    c.train.steps = 1400
  c.sampling.every = 0
  return c
