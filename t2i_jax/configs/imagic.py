"""Imagic [2210.09276], its first stage: the encoding of a text that an image is drawn from.

  t2i personalise --method=imagic --workdir=runs/scenes_dit_flow --image=mine.png \
    --prompt="a blue circle" --to=runs/edit

trains --config=configs/imagic.py with the model after the colon, in runs/edit/embedding, and then
configs/imagic_weights.py or imagic_lora.py in runs/edit. Here all weights stay as they are.

Result: docs/personalisation_more.md: alone it does 88% of edits and keeps nothing in its place.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import sections
from t2i_jax.systems.base import WHAT, base_config

VARIANT = WHAT


def get_config(variant: str = "") -> ConfigDict:
  c = base_config(variant, "imagic")
  c.name = f"imagic_{c.name}"
  c.parts.embedding = ConfigDict({})
  c.train.update(steps=100, batch=8, **sections.adamw(1e-2, "constant"))
  sections.subject(c)
  c.data.train_split = "instance"
  c.train.objective = "imagic()"
  c.train.caption_dropout = dict.fromkeys(c.train.caption_dropout, 0.0)
  return c
