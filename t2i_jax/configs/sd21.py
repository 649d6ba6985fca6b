"""Stable Diffusion 2.1's U-Net from random weights: v prediction, down to a signal of zero.

The schedule is rescaled to zero terminal SNR and sampled from its last step on [2305.08891], and
the loss weighted by Min-SNR [2303.09556]. Text encoder and autoencoder are those of a published
folder, frozen.

  t2i train --config=configs/sd21.py:SD21 --config.data.dir=runs/data/mine --workdir=/mnt/runs/sd21

What follows the colon is the folder, and after another colon the size.

Result: not yet run at full size; a tiny random model learns: tests/parity/test_unet_configs.py.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import finetune as parent
from t2i_jax.configs import sections

VARIANT = "the folder of a Stable Diffusion 2, whose text encoder and autoencoder are taken"


def get_config(variant: str = "") -> ConfigDict:
  c = parent.get_config(variant)
  c.name = "sd21"
  sections.from_scratch(c)
  c.process.update(
    kind="ddpm_scaled_linear(zero_terminal_snr=True, between='angle')",
    prediction="v",
    weighting="min_snr(gamma=5.0)",
  )
  c.sampling.update(solver="ddim", grid="trailing", steps=50)
  return c
