"""Transfusion on emoji: one decoder that draws real images in two styles, and captions them.

  t2i data build --from emoji --size 32 --to runs/data/emoji
  t2i train --config=configs/transfusion_emoji.py --workdir=runs/transfusion_emoji

Result: after 24 minutes of 2 cores shared with another run (60,000 images, a quarter of
emoji_dit_flow's) the style of a sample follows the caption, colours often, its kind seldom. In its
captions the style is right, the kind often (faces, people, flags), the name hardly ever.
docs/emoji_joint.md shows both.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import sections
from t2i_jax.configs import transfusion_scenes as parent


def get_config() -> ConfigDict:
  c = parent.get_config()
  c.name = "transfusion_emoji"
  c.data.update(dir="runs/data/emoji", val_split="val_concept")
  # An image of 16 patches and its caption: a document of 28 positions on average, up to 56.
  c.rows = {
    "length": 160,
    "images": 6,
    "window": 6,
    "image_first": 0.2,
    "max_t": 0.0,
    "prompt_loss": False,
    "word_dropout": 0.4,
  }
  c.text.update(vocab=4098, length=40)  # the tokenizer's 4096, BOI and EOI
  c.model.width = 256
  c.process.timesteps = "logit_normal(mean=0.3, std=1.2)"
  c.train.update(steps=700, lr=1.5e-2, ema=0.998)
  c.sampling.prompts = sections.EMOJI_PROMPTS
  c.score.level = ""
  return c
