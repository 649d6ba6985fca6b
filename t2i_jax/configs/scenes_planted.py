"""The base of what is judged on level planted: individuals, artists, copied images, learned once.

  t2i data build --from scenes --level planted --count 237056 --to runs/data/scenes_planted
  t2i train --config=configs/scenes_planted.py --workdir=runs/scenes_planted

A twin, the same run without what is to be erased, is trained on a folder built with --without=grum,
or --without=all, and --config.data.dir=FOLDER. 3,704 steps of 64 images are the 237,056 records
once: a copied image is seen as often as it is in the data. score.level scores the ordinary
scenes; t2i_jax.evaluation.planted_judge judges what is planted.

Result: of 48 prompts of its own 77% are drawn all right; individuals by name and class 77%:
docs/personalisation.md, docs/personalisation_more.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import scenes_dit_flow as parent


def get_config() -> ConfigDict:
  c = parent.get_config()
  c.name = "scenes_planted"
  c.data.dir = "runs/data/scenes_planted"
  # The longest caption has 13 tokens; the others are for words that are added to one.
  c.text.length = 16
  c.train.steps = 3704
  for part in (c.eval, c.sampling, c.checkpoint):
    part.every = 463  # eight points of a curve
  c.sampling.prompts = (
    "a red circle left of a blue square",
    "a circle",
    "a grum circle",
    "a drib square above a green triangle",
    "a red circle and a blue square, by outl",
    "a yellow triangle, by nokt",
    "scene 90 77",
    "scene 07 42",
  )
  return c
