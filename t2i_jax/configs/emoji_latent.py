"""Emoji by name on latents: configs/emoji_dit_flow.py on 8 x 8 latents of 64 x 64 pixels.

  pip install 't2i_jax[emoji]'
  t2i data build --from emoji --size 64 --to runs/data/emoji64
  t2i train --config=configs/emoji_vae.py --workdir=runs/emoji_vae
  t2i data encode --data=runs/data/emoji64 --autoencoder=runs/emoji_vae --to=runs/data/emoji_latents
  t2i train --config=configs/emoji_latent.py:runs/emoji_vae --workdir=runs/emoji_latent

What follows the colon is the run of the autoencoder.

Result: 27 minutes of CPU after 11 of the autoencoder: shapes are closed and colours even, styles,
faces, flags and clocks recognisable as such, objects not. docs/emoji_latent.md, beside pixels and
beside a pretrained text encoder.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import scenes_dit_flow as parent
from t2i_jax.configs import sections
from t2i_jax.errors import ConfigError

VARIANT = "the work directory of an autoencoder's run, as runs/emoji_vae"


def get_config(variant: str = "") -> ConfigDict:
  if not variant:
    raise ConfigError(f"--config=configs/emoji_latent.py needs {VARIANT}.")
  c = parent.get_config()
  c.name = "emoji_latent"
  sections.emoji(c)
  c.data.update(dir="runs/data/emoji_latents", image_size=(64, 64))
  c.autoencoder = f"run(path='{variant}')"
  c.parts.vae = {"start": f"run:{variant}", "train": "none"}
  c.model.update(channels=16, patch=2)
  c.train.steps = 1000  # with those of the autoencoder, as much time as on pixels
  return c
