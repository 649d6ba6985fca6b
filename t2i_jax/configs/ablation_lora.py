"""Concept ablation [2303.13516] by adapters, which are written, looked at and merged as any others.

  t2i forget --from=SDXL --what=lora --concept="grumpy cat" --anchor=cat --to=runs/forgot
  t2i export --workdir=runs/forgot --part=lora --to=forgot.safetensors

which draws the images of the anchor, builds the data and trains --config=configs/ablation_lora.py
with the model after the colon, as configs/ablation.py. What leaves an adapter out has the concept
again: t2i merge puts it into the weights.

Result: of an individual of the planted world 0% is left, without regularisation, and nothing of its
neighbours; the range of rates between no effect and that is 2: docs/forgetting.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import lora as parent
from t2i_jax.configs import sections

VARIANT = parent.VARIANT


def get_config(variant: str = "") -> ConfigDict:
  c = parent.get_config(variant)
  c.name = c.name.replace("lora", "ablation_lora", 1)
  sections.forgetting(c)
  c.train.update(lr=7e-4, vector_lr=7e-4)
  return c
