"""Transfusion on emoji: one decoder that draws real pictures in two styles, and names them.

  t2i data build --from emoji --size 32 --to runs/data/emoji
  t2i train --config=configs/transfusion_emoji.py --workdir=runs/transfusion_emoji

Result: after 24 minutes of 2 cores that had another run beside it (60,000 pictures, a quarter of
emoji_dit_flow's) the style of a drawing follows the caption, colours often, its kind seldom. Of
what it says of pictures the style is right, the kind often (faces, people, flags), the name hardly
ever. docs/emoji_joint.md shows both.
"""

from ml_collections import ConfigDict

from configs import emoji_dit_flow, transfusion_scenes


def get_config() -> ConfigDict:
  c = emoji_dit_flow.get_config()
  joint = transfusion_scenes.get_config()
  c.name = "transfusion_emoji"
  # A picture of 16 patches and its caption a document of 28 positions, of up to 56.
  c.rows = {
    "length": 160,
    "images": 6,
    "window": 6,
    "image_first": 0.2,
    "max_t": 0.0,
    "prompt_loss": False,
    "word_dropout": 0.4,
  }
  c.model.absolute = True
  c.text.vocab += 2  # BOI and EOI
  del c.text["towers"], c.parts["text"], c.model["text"]
  for key in ("kind", "qk_norm", "time"):
    c.model[key] = joint.model[key]
  c.train.update(steps=700, batch=16)
  c.train.balance = joint.train.balance
  del c.train.caption_dropout["text"], c.train["objective"]
  c.sampling.words = joint.sampling.words
  return c
