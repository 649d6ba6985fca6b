"""Imagic [2210.09276], its second stage: all weights of the backbone, at a fixed encoding.

  t2i personalise --method=imagic --weights=all --workdir=runs/scenes_dit_flow --image=mine.png \
    --prompt="a blue circle" --to=runs/edit

trains --config=configs/imagic_weights.py after configs/imagic.py, from whose run the embedding is:
--config.parts.embedding.start=run:runs/edit/embedding.

Result: not yet measured; of a tiny model: tests/adapt/test_imagic.py.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import imagic as parent

VARIANT = parent.VARIANT


def get_config(variant: str = "") -> ConfigDict:
  c = parent.get_config(variant)
  c.name = c.name.replace("imagic", "imagic_weights", 1)
  c.parts.embedding.train = "none"
  c.parts.backbone.train = "all"
  c.train.update(steps=200, lr=2e-4, vector_lr=2e-4)
  return c
