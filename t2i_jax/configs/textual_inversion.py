"""Textual inversion [2208.01618]: a new word, whose embedding alone is learned from a few images.

  t2i personalise --workdir=runs/scenes_dit_flow --images=mine --class-word=circle \
    --method=textual_inversion --word="<ki>" --to=runs/word

trains --config=configs/textual_inversion.py with the model after the colon, a work directory or a
published folder. The word is a token of its own in every text encoder, and begins at the class
word's embedding. Its file: t2i export --workdir=runs/word --part=words_text --to=ki.safetensors.

Result: docs/personalisation_more.md: 42% right of what the base has a name for, else 0%.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import sections
from t2i_jax.systems.base import WHAT, add_adapters, base_config

VARIANT = WHAT


def get_config(variant: str = "") -> ConfigDict:
  c = base_config(variant, "textual_inversion")
  c.name = f"textual_inversion_{c.name}"
  encoders = [name for name in c.text.towers if name in c.parts]
  choice = "words(of='{}', tokens=('<new>',), start='a')"
  add_adapters(c, variant, {f"words_{name}": choice.format(name) for name in encoders})
  c.train.update(steps=500, batch=8, **sections.adamw(1e-2, "constant"))
  sections.subject(c)
  c.data.train_split = "instance"
  c.train.objective = "denoising"
  return c
