"""An autoencoder whose latents are rounded to 512 codes: scenes at a quarter of their side.

  t2i data build --from scenes --level easy --size 32 --to runs/data/scenes_easy
  t2i train --config=configs/vq.py:vq --workdir=runs/vq

vq has a codebook that follows its latents [1711.00937 app. A.1], fsq rounds each channel to a few
values [2309.15505 sec. 3.1], lfq to its sign [2310.05737 sec. 3.1]. A model on the latents is made
as configs/vae_kl.py says.

Result: 500 steps of 16 images: vq PSNR 25.0 dB on held-out scenes with 100% of its codes used, fsq
22.7 dB with 47%; lfq not yet run. docs/autoencoders.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import vae_kl as parent

VARIANTS = ("vq", "fsq", "lfq")
SIZES = "widths=(16, 32, 64), layers=1, groups=8, measured=True"
# The quantiser, its channels, and the terms that it needs.
KINDS = {
  "vq": (f"vq(codes=512, {SIZES})", 4, "commitment=0.25, "),
  "fsq": (f"fsq(levels=(8, 8, 8), {SIZES})", 3, "entropy=0.02, "),
  "lfq": (f"lfq({SIZES})", 9, "commitment=0.25, entropy=0.1, "),
}


def get_config(variant: str = "vq") -> ConfigDict:
  c = parent.get_config()
  c.name = f"vq_{variant}"
  c.autoencoder, c.model.channels, terms = KINDS[variant]
  c.train.objective = f"reconstruction({terms}adversarial=0.5, start=1000)"
  return c
