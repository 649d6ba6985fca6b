"""configs/scenes_unet_flow.py as a DDPM, at the FLOPs of configs/scenes_dit_ddpm.py.

  t2i data build --from scenes --level easy --size 32 --to runs/data/scenes_easy
  t2i train --config=configs/scenes_unet_ddpm.py --workdir=runs/scenes_unet_ddpm

Result: at all its steps not yet run. After 250 steps of 64, two seeds: nothing right, as the DiT's
DDPM at as many images and FLOPs; an image takes 1.2 times its CPU time. docs/backbones.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import scenes_dit_flow as parent
from t2i_jax.configs import sections


def get_config() -> ConfigDict:
  c = parent.get_config()
  c.name = "scenes_unet_ddpm"
  sections.first_recipe(c)
  c.process = sections.ddpm("ddpm_scaled_linear")
  c.model = sections.small_unet((16, 32, 64, 112))
  c.train.steps = 800
  c.sampling.solver = "ddim"
  return c
