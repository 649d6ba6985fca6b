"""Five ways to put text into a transformer, and two text encoders, at equal FLOPs a picture.

  python benchmarks/text_conditioning.py
  t2i train --config=configs/compare/text_conditioning.py:cross --workdir=runs/cross

The quickstart's data, objective, optimiser and number of pictures; width 192 throughout, as many
blocks as the cross-attention's FLOPs allow, to 4%. bag_of_words is cross with a frozen tower that
does not know the order of words.

Result: docs/text_conditioning.md.
"""

from ml_collections import ConfigDict

from configs import scenes_dit_flow

DOUBLE_SINGLE = {"double": (3, 0), "double_single": (1, 2), "single": (0, 3)}
VARIANTS = ("cross", "pooled", *DOUBLE_SINGLE, "bag_of_words")


def get_config(variant: str = "cross") -> ConfigDict:
  c = scenes_dit_flow.get_config()
  c.name = f"text_conditioning_{variant}"
  if variant == "pooled":
    c.model.update(text="pooled", depth=5)
  if variant == "bag_of_words":
    c.text.tower = "bag_of_words(width=128)"
    c.train.freeze = ("text",)
  if variant in DOUBLE_SINGLE:
    double_blocks, single_blocks = DOUBLE_SINGLE[variant]
    for key in ("text", "depth", "attention"):
      del c.model[key]
    c.model.update(
      kind="flux",
      double_blocks=double_blocks,
      single_blocks=single_blocks,
      rope_axes=(16, 16, 16),
      attend_padding=False,
    )
  c.checkpoint.every, c.sampling.every = 0, 0
  return c
