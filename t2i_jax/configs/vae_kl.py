"""An autoencoder with a Gaussian posterior [2112.10752 app. G]: scenes at a quarter of their side.

  t2i data build --from scenes --level easy --size 32 --to runs/data/scenes_easy
  t2i train --config=configs/vae_kl.py:kl4 --workdir=runs/vae_kl4

kl4 and kl16 have 4 and 16 channels. A model on the latents has the part vae, with
start="run:runs/vae_kl4", train="none", and autoencoder="run(path='runs/vae_kl4')". Scale and shift
by channel are weights of that part, measured while it was trained.

Result: 500 steps of 16 images: PSNR 25.3 dB with 4 channels, 25.6 with 16, on held-out scenes; on
the latents of 16 the quickstart's model learns faster than on pixels. docs/autoencoders.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import sections

VARIANTS = ("kl4", "kl16")


def get_config(variant: str = "kl4") -> ConfigDict:
  c = ConfigDict()
  c.name = f"vae_kl_{variant}"
  c.data = {"dir": "runs/data/scenes_easy", "image_size": (32, 32)}
  c.text = {"vocab": 512}  # of the data's tokenizer; captions are not read
  c.autoencoder = "kl(widths=(16, 32, 64), layers=1, groups=8, measured=True)"
  c.parts = sections.parts("vae", "discriminator")
  c.model = {
    "kind": "autoencoder",
    "channels": {"kl4": 4, "kl16": 16}[variant],
    "discriminator": "patch(width=16, layers=2)",  # or "none"
    "perceptual": "none",  # or "run(path='runs/scenes_classifier')", with a part classifier
    "dtype": "float32",  # of the discriminator's activations
  }
  c.train = {
    "objective": "reconstruction(kl=1e-6, adversarial=0.5, start=1000)",
    "steps": 4000,
    "batch": 32,
    **sections.adamw(1e-3, "cosine(warmup=100)"),
    "caption_dropout": {},
  }
  c.train.update(optimizer="adamw(b1=0.5, b2=0.9)", ema=0.995)  # the betas of [2012.09841]'s code
  c.mesh = {}
  c.log = {"every": 50}
  c.update(sections.periods(every=500, rows=256, keep=3))
  c.score = {"level": ""}
  return c
