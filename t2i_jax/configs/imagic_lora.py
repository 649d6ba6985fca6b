"""Imagic [2210.09276], its second stage with adapters in place of all weights of the backbone.

  t2i personalise --method=imagic --from=FLUX.1-dev --size=512x512 --image=mine.png \
    --prompt="a dog that sits" --to=runs/edit

trains --config=configs/imagic_lora.py after configs/imagic.py, as configs/imagic_weights.py.

Result: docs/personalisation_more.md: 48% of edits done with all else kept.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import imagic as parent
from t2i_jax.systems.base import add_adapters

VARIANT = parent.VARIANT


def get_config(variant: str = "") -> ConfigDict:
  c = parent.get_config(variant)
  c.name = c.name.replace("imagic", "imagic_lora", 1)
  c.parts.embedding.train = "none"
  add_adapters(c, variant, {"lora": "lora(of='backbone', rank=4)"})
  c.train.update(steps=200, lr=2e-3, vector_lr=2e-3)
  return c
