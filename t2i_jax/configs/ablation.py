"""Concept ablation [2303.13516]: keys and values of the text, trained to draw an anchor instead.

  t2i forget --workdir=runs/scenes_dit_flow --concept="red triangle" --anchor="red square" \
    --to=runs/forgot

which draws the images of the anchor, builds the data and trains --config=configs/ablation.py with
the model after the colon: a work directory, or a published folder with or without a size. All
weights: --what=all, which sets --config.parts.backbone.train=all.

Of a published model: 100 steps of 8 pairs at 1.6e-5, as the code has for styles and objects (2e-6
for each image of 2 x 4). For memorised images it has all weights, 400 steps, and 5e-7 for each of
2 x 2; it draws 1,000 images of 200 prompts.

Result: of an individual of the planted world 3% is left by keys and values with regularisation 1,
near neighbours right in 30% (before 88%); by all weights 0% and 12%; without regularisation all
weights are lost in 100 steps: docs/forgetting.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import sections
from t2i_jax.systems.ablation import trained_kv
from t2i_jax.systems.base import WHAT, base_config

VARIANT = WHAT


def get_config(variant: str = "") -> ConfigDict:
  c = base_config(variant, "ablation")
  c.name = f"ablation_{c.name}"
  c.parts.backbone.train = trained_kv(c.model)
  sections.forgetting(c)
  return c
