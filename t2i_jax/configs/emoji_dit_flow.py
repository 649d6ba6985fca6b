"""Emoji by name in two artists' styles: `make quickstart DATA=emoji`, about half an hour.

  pip install 't2i_jax[emoji]'
  t2i data build --from emoji --size 32 --to runs/data/emoji
  t2i train --config=configs/emoji_dit_flow.py --workdir=runs/emoji_dit_flow

Validation is on concepts that are trained in neither style.
Result: 25 minutes on 2 cores (jax 0.10.2). The style follows the caption; faces, flags, signs and
people are recognisable as such, few objects are. docs/emoji.md shows samples beside the originals.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import scenes_dit_flow as parent
from t2i_jax.configs import sections


def get_config() -> ConfigDict:
  c = parent.get_config()
  c.name = "emoji_dit_flow"
  c.data.update(dir="runs/data/emoji", val_split="val_concept")
  c.text.update(vocab=4096, length=40)  # the longest caption has 36 tokens
  c.model.width = 256
  sections.first_recipe(c)
  c.train.update(steps=2600, lr=1.5e-2, ema=0.998)
  c.process.timesteps = "logit_normal(mean=0.3, std=1.2)"
  c.sampling.prompts = sections.EMOJI_PROMPTS
  c.score.level = ""
  return c
