"""Z-Image [2511.22699]: one stream of image and caption, each refined on its own first.

Latents [128, 128, 16] are encoded beforehand, as for configs/latents_dit_xl2_flow.py. The text
encoder is a small one of the published width, trained with the backbone; the published model has
Qwen3-4B, frozen.

  t2i train --config=configs/z_image.py --workdir=/mnt/runs/z_image

Result: not yet run. The backbone is that of the published folder, to the parameter:
docs/parity_models.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import latents_dit_xl2_flow as parent
from t2i_jax.configs import sections


def get_config() -> ConfigDict:
  c = parent.get_config()
  c.name = "z_image"
  c.data.image_size = (128, 128)
  c.text.length = 512
  c.text.towers.text = "transformer(width=768, depth=12, heads=12, tokens=2560)"
  c.model = sections.latent_model(
    "z_image",
    channels=16,
    width=3840,
    depth=30,
    heads=30,
    refiner_blocks=2,
    rope_axes=(32, 48, 48),
    remat="full",
  )
  c.process.shift = "static(factor=3.0)"
  c.train.batch = 512
  c.sampling.update(steps=50, cfg=5.0)
  return c
