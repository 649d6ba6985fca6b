"""The quickstart's task, recipe and FLOPs with a U-Net [2112.10752 sec. 3.3] in place of the DiT.

  t2i data build --from scenes --level easy --size 32 --to runs/data/scenes_easy
  t2i train --config=configs/scenes_unet_flow.py --workdir=runs/scenes_unet_flow

Result: at all its steps not yet run. After 500 steps of 64, two seeds: 16% of single objects right,
the DiT 33% at as many images and FLOPs; an image takes 1.6 times its CPU time. docs/backbones.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import scenes_dit_flow as parent
from t2i_jax.configs import sections


def get_config() -> ConfigDict:
  c = parent.get_config()
  c.name = "scenes_unet_flow"
  c.model = sections.small_unet((8, 16, 32, 56))
  return c
