"""Erased Stable Diffusion [2303.07345], with a frozen copy of the backbone beside the trained one.

  t2i forget --workdir=runs/scenes_dit_flow --method=esd --concept="red triangle" --to=runs/forgot

which draws images, builds the data and trains --config=configs/esd.py with the model after the
colon, as configs/ablation.py. The copy is the model before; with adapters, in
configs/ablation_lora.py, there is none. --method=ablation --frozen trains this config, too.

Of a published model: 200 steps at 5e-5, as its code has, and 8 rows in place of one.

Result: by all weights 0% is left of an individual of the planted world, near neighbours are right
in 22% (before 88%), own prompts lose 17 points: docs/forgetting.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import ablation as parent

VARIANT = parent.VARIANT


def get_config(variant: str = "") -> ConfigDict:
  c = parent.get_config(variant)
  c.name = c.name.replace("ablation", "esd", 1)
  c.parts.teacher = ConfigDict({"start": c.parts.backbone.start, "train": "none"})
  c.train.objective = "esd(eta=1.0, source='null')"
  c.train.update(steps=200)
  if not c.parts.backbone.start.startswith("run:"):
    c.train.update(lr=5e-5, vector_lr=5e-5)
  return c
