"""Low-rank adapters of a model of yours or of a published one, trained on your images.

  t2i train --config=configs/lora.py:runs/scenes_dit_flow --workdir=runs/scenes_lora \
    --config.data.dir=runs/data/mine

What follows the colon is a work directory, or a published folder, and after another colon a size.
The model stays as it is; its adapters alone have gradients and moments [2106.09685]. Others than
those of attention: --config.adapters.lora="lora(rank=8, targets=('*/q', '*/mlp/*=16'))".

Result: not yet run at full size; of a tiny model: tests/training/test_lora.py.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import sections
from t2i_jax.systems.base import WHAT, add_adapters, base_config

VARIANT = WHAT


def get_config(variant: str = "") -> ConfigDict:
  c = base_config(variant, "lora")
  c.name = f"lora_{c.name}"
  add_adapters(c, variant, {"lora": "lora(of='backbone', rank=4)"})
  c.train.update(steps=500, batch=8, **sections.adamw(1e-3, "constant"))
  c.train.ema = 0.99
  return c
