"""The quickstart's model as a DDPM: noise prediction on Stable Diffusion's schedule, and DDIM.

  t2i data build --from scenes --level easy --size 32 --to runs/data/scenes_easy
  t2i train --config=configs/scenes_dit_ddpm.py --workdir=runs/scenes_dit_ddpm

Result: 5 to 7% of single objects right after 800 steps, where v on the same schedule has 72% and x0
on the flow 100%: colours come, shapes do not. docs/objectives.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import scenes_dit_flow as parent
from t2i_jax.configs import sections


def get_config() -> ConfigDict:
  c = parent.get_config()
  c.name = "scenes_dit_ddpm"
  sections.first_recipe(c)
  c.process = sections.ddpm("ddpm_scaled_linear")  # [2112.10752, its code]
  # A patch of side 8 has as many values as a token is wide, too narrow for noise:
  # docs/objectives.md.
  c.model.patch = 4
  c.train.steps = 800
  c.sampling.solver = "ddim"
  return c
