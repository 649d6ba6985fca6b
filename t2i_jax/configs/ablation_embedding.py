"""Concept ablation [2303.13516] by the embeddings of a concept's own tokens.

  t2i forget --workdir=runs/scenes_dit_flow --what=embedding --concept="grum red circle" \
    --anchor="red circle" --to=runs/forgot

which draws the images of the anchor, builds the data and trains
--config=configs/ablation_embedding.py with the model after the colon, as configs/ablation.py.
Trained are the embeddings of the tokens that the prompts of the concept have and those of the
anchor have not, in every text encoder.

Result: of an individual of the planted world 0% is left and its anchor drawn in 62%, as often as by
a renamed prompt (70%); all else is as before, and so is its second name: docs/forgetting.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import sections
from t2i_jax.systems.base import WHAT, add_adapters, base_config

VARIANT = WHAT


def get_config(variant: str = "") -> ConfigDict:
  c = base_config(variant, "ablation_embedding")
  c.name = f"ablation_embedding_{c.name}"
  encoders = [name for name in c.text.towers if name in c.parts]
  choice = "embeddings(of='{}', texts=('a red circle',), beside=('a circle',))"
  add_adapters(c, variant, {f"embeddings_{name}": choice.format(name) for name in encoders})
  sections.forgetting(c)
  c.train.update(lr=3e-2, vector_lr=3e-2)
  return c
