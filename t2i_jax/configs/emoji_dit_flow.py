"""Emoji by name in two artists' styles: `make quickstart DATA=emoji`, about half an hour.

  pip install 't2i_jax[emoji]'
  t2i data build --from emoji --size 32 --to runs/data/emoji
  t2i train --config=configs/emoji_dit_flow.py --workdir=runs/emoji_dit_flow

Validation is on concepts that are trained in neither style.
Result: 36 minutes of CPU on two cores (jax 0.10.2). The style follows the caption; faces, flags,
clocks and signs are recognisable as such, few objects are. docs/emoji.md shows samples beside the
originals, docs/emoji_latent.md how often a drawing is found by what it shows.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import scenes_dit_flow as parent
from t2i_jax.configs import sections


def get_config() -> ConfigDict:
  c = parent.get_config()
  c.name = "emoji_dit_flow"
  c.data.dir = "runs/data/emoji"
  sections.emoji(c)
  return c
