"""SDXL's U-Net from random weights [2307.01952], with the size and the crop of each image.

Each image is scaled to cover the training size and cropped at random; the height and width that it
had, and where the crop begins, are conditions [2307.01952 sec. 2.2]. Both text encoders and the
autoencoder are those of a published folder, frozen. Offset noise of 0.05 [2307.01952 sec. 2.5].

  t2i train --config=configs/sdxl.py:SDXL --config.data.dir=runs/data/mine --workdir=/mnt/runs/sdxl

What follows the colon is the folder, and after another colon the size. Latents of `t2i data encode`
are of the centre, and keep those conditions: --config.data.crop=centre.

Result: not yet run at full size; a tiny random model learns: tests/parity/test_unet_configs.py.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import finetune as parent
from t2i_jax.configs import sections

VARIANT = "the folder of an SDXL, whose text encoders and autoencoder are taken"


def get_config(variant: str = "") -> ConfigDict:
  c = parent.get_config(variant)
  c.name = "sdxl"
  sections.from_scratch(c)
  c.data.crop = "random"
  c.process.update(
    kind="ddpm_scaled_linear", prediction="eps", weighting="eps", noise="gaussian(offset=0.05)"
  )
  return c
