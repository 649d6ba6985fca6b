"""An autoencoder of emoji, 64 x 64 pixels to 8 x 8 latents: for configs/emoji_latent.py.

  pip install 't2i_jax[emoji]'
  t2i data build --from emoji --size 64 --to runs/data/emoji64
  t2i train --config=configs/emoji_vae.py --workdir=runs/emoji_vae

Flat colours need no discriminator, and no perceptual features: those of
configs/emoji_contrastive.py score what is drawn, so that no loss has them.

Result: 12,800 images, 10 minutes of CPU: PSNR 21.2 dB and SSIM 0.75 on concepts of no training
image; shapes and colours come back, small letters and thin lines do not. docs/emoji_latent.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import vae_kl as parent


def get_config() -> ConfigDict:
  c = parent.get_config("kl16")
  c.name = "emoji_vae"
  c.data.update(dir="runs/data/emoji64", image_size=(64, 64), val_split="val_concept")
  c.text.vocab = 4096
  c.autoencoder = "kl(widths=(16, 32, 64, 64), layers=1, groups=8, measured=True)"
  c.parts = {"vae": {}}
  c.model.discriminator = "none"
  c.train.update(objective="reconstruction(kl=1e-6)", steps=1600, batch=8, lr=2e-3, vector_lr=2e-3)
  c.eval.every = 400
  c.checkpoint.every = 400
  return c
