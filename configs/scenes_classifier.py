"""A noisy classifier of scenes, to guide a model that draws them: reads captions off x_t.

  t2i data build --from scenes --level easy --size 32 --to runs/data/scenes_easy
  t2i train --config=configs/scenes_classifier.py --workdir=runs/scenes_classifier
  t2i sample --workdir=runs/scenes --guidance.classifier=runs/scenes_classifier --prompt=...

The process and the data are those of the model that it guides. Its loss is -log f_phi(y | x_t, t)
in nats, y the set of the caption's tokens.

Result: on the quickstart's model, weight 1 takes binding from 60 to 66% (intervals overlap) and the
rest stays; alone, on the null, weight 4 draws 37% of single objects right. The table and pictures:
docs/classifier_guidance.md.
"""

from ml_collections import ConfigDict

from configs import scenes_dit_flow


def get_config() -> ConfigDict:
  c = scenes_dit_flow.get_config()
  c.name = "scenes_classifier"
  c.model.update(kind="classifier", width=128, depth=3)
  c.process.update(timesteps="uniform")
  c.train.steps = 1000
  # It has no text tower and draws nothing.
  for part, keys in {
    "text": ("tower",),
    "model": ("text", "remat", "attention"),
    "process": ("prediction", "weighting", "penalty"),
  }.items():
    for key in keys:
      del c[part][key]
  del c.train.caption_dropout["text"]
  del c["sampling"]
  c.score.level = ""
  return c
