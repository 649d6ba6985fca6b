"""Five ways to put text into a transformer, and two text encoders, at equal FLOPs an image.

  python -m benchmarks.text_conditioning
  t2i train --config=configs/compare/text_conditioning.py:cross --workdir=runs/cross

The quickstart's data, objective, optimiser and number of images; width 192 throughout, as many
blocks as the cross-attention's FLOPs allow, to 4%. bag_of_words is cross with a frozen encoder that
ignores the order of tokens.

Result: docs/text_conditioning.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import scenes_dit_flow as parent
from t2i_jax.configs import sections

DOUBLE_SINGLE = {"double": (3, 0), "double_single": (1, 2), "single": (0, 3)}
VARIANTS = ("cross", "pooled", *DOUBLE_SINGLE, "bag_of_words")


def get_config(variant: str = "cross") -> ConfigDict:
  c = parent.get_config()
  c.name = f"text_conditioning_{variant}"
  sections.first_recipe(c)
  c.train.steps = 1400
  c.process.timesteps = "logit_normal(mean=1.0, std=1.2)"
  if variant == "pooled":
    c.model.update(text="pooled", depth=5)
  if variant == "bag_of_words":
    c.text.towers.text = "bag_of_words(width=128)"
    c.parts.text.train = "none"
  if variant in DOUBLE_SINGLE:
    double_blocks, single_blocks = DOUBLE_SINGLE[variant]
    c.model = {
      "kind": "flux",
      **{key: c.model[key] for key in ("channels", "patch", "width", "heads", "dtype", "remat")},
      "double_blocks": double_blocks,
      "single_blocks": single_blocks,
      "rope_axes": (16, 16, 16),
      "attend_padding": False,
    }
  c.checkpoint.every, c.sampling.every = 0, 0
  return c
