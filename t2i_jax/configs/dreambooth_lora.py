"""DreamBooth [2208.12242] by adapters: configs/lora.py on images of a subject and of its class.

  t2i personalise --workdir=runs/scenes_dit_flow --images=images --class-word=circle \
    --to=runs/subject

which draws the images of the class, builds the data and trains
--config=configs/dreambooth_lora.py with the model after the colon, as configs/dreambooth.py.

Result: docs/personalisation.md: a subject of the planted world right in 60% of drawings.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import lora as parent
from t2i_jax.configs import sections

VARIANT = parent.VARIANT


def get_config(variant: str = "") -> ConfigDict:
  c = parent.get_config(variant)
  c.name = c.name.replace("lora", "dreambooth_lora", 1)
  c.train.update(steps=200, lr=2e-3, vector_lr=2e-3)
  sections.subject(c)
  return c
