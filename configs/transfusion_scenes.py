"""Transfusion on scenes: one decoder that draws captions, captions drawings, and edits them.

  t2i data build --from edits --level easy --size 32 --to runs/data/edits_easy
  t2i train --config=configs/transfusion_scenes.py --workdir=runs/transfusion_scenes
  t2i chat --workdir=runs/transfusion_scenes --say="a red circle" --say="make the red circle blue"

Result: after 41 minutes of 2 cores, single / binding / relation: draws 98 / 76 / 85% right on seen
compositions and 93 / 54 / 78% on held-out ones, reads 100 / 100 / 99% and 79 / 73 / 80%; of edits
64 to 95% by kind, 48 to 95% held out. docs/native.md has the intervals.
"""

from ml_collections import ConfigDict

from configs import scenes_dit_flow


def get_config() -> ConfigDict:
  c = scenes_dit_flow.get_config()
  c.name = "transfusion_scenes"
  c.data.dir = "runs/data/edits_easy"
  # Captions with their pictures, pictures with their captions, pictures with their edits. After
  # 2000 steps of 32 rows (seed 0, 50 prompts each, one run each): what is shown without noise is
  # edited better than with the paper's, of t up to 0.5 (removed 84 for 56%, added 32 for 16%), and
  # hidden words make captions of unseen pairs be read off the picture (single 54 for 24%). Of
  # captions alone, 50,000 pictures: not to write them draws unseen pairs better (single 32 for
  # 18%). It draws as well as it has drawn often: image_first=0.2 and edited=0.4 left a caption
  # alone to 27% of the pictures, and after 1400 steps of 24 rows drew 88 / 17 / 26%.
  c.data.rows = (
    "packed(length=192, pictures=9, window=6, absolute=True, image_first=0.12, edited=0.33, "
    "most=0.0, prompt_loss=False, word_dropout=0.4)"
  )
  c.text.vocab = 514  # the tokenizer's 512, BOI and EOI
  del c.text["tower"], c.model["text"]
  c.model.update(kind="transfusion", qk_norm=True, time="adaln")
  c.train.update(steps=3100, batch=16)
  c.train.balance = 10.0  # weight of the pictures' loss; 5 in [2408.11039 sec. 3.2]
  del c.train.caption_dropout["text"]
  c.sampling.words = "sample(temperature=0.0, most=24)"
  return c
