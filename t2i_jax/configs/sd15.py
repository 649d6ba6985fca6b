"""Stable Diffusion 1.5's U-Net from random weights [2112.10752], as a DDPM that predicts the noise.

Text encoder and autoencoder are those of a published folder, frozen; images are encoded in the
step, or beforehand:

  t2i data encode --data=runs/data/mine --autoencoder=SD15 --size=512x512 \\
    --to=runs/data/mine_latents
  t2i train --config=configs/sd15.py:SD15 --config.data.dir=runs/data/mine_latents \\
    --workdir=/mnt/runs/sd15

What follows the colon is the folder, and after another colon the size. From the folder's weights:
configs/finetune.py. `--config.process.noise="gaussian(offset=0.1)"` is offset noise,
`--config.process.weighting="min_snr(gamma=5.0)"` Min-SNR [2303.09556].

Result: not yet run at full size; a tiny random model learns: tests/parity/test_unet_configs.py.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import finetune as parent
from t2i_jax.configs import sections

VARIANT = "the folder of a Stable Diffusion, whose text encoder and autoencoder are taken"


def get_config(variant: str = "") -> ConfigDict:
  c = parent.get_config(variant)
  c.name = "sd15"
  sections.from_scratch(c)
  c.process.update(kind="ddpm_scaled_linear", prediction="eps", weighting="eps")
  return c
