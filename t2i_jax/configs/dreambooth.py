"""DreamBooth [2208.12242]: all weights of a backbone, taught a subject from a few images.

  t2i personalise --workdir=runs/scenes_dit_flow --images=images --class-word=circle \
    --method=dreambooth --to=runs/subject

which draws the images of the class, builds the data and trains --config=configs/dreambooth.py
with the model after the colon: a work directory, or a published folder with or without a size. Text
encoders stay as they are; to train one, --config.parts.text.train=all.

Result: docs/personalisation.md: a subject of the planted world right in 78% of drawings.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import sections
from t2i_jax.systems.base import WHAT, base_config

VARIANT = WHAT


def get_config(variant: str = "") -> ConfigDict:
  c = base_config(variant, "dreambooth")
  c.name = f"dreambooth_{c.name}"
  c.parts.backbone.train = "all"
  c.train.update(steps=200, batch=8, **sections.adamw(2e-4, "constant"))
  sections.subject(c)
  return c
