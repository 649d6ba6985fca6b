"""Qwen-Image [2508.02324]: 60 double-stream blocks, rotary positions about the centre.

Latents [128, 128, 16] are encoded beforehand, as for configs/latents_dit_xl2_flow.py. The text
encoder is a small one of the published width, trained with the backbone; the published model has
Qwen2.5-VL-7B, frozen.

  t2i train --config=configs/qwen_image.py --workdir=/mnt/runs/qwen_image

Result: not yet run; compiled for v5p: docs/tpu_programs.md. The backbone is that of the published
folder, to the parameter: docs/parity_models.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import latents_dit_xl2_flow as parent
from t2i_jax.configs import sections


def get_config() -> ConfigDict:
  c = parent.get_config()
  c.name = "qwen_image"
  c.data.image_size = (128, 128)
  c.text.length = 1024
  c.text.towers.text = "transformer(width=768, depth=12, heads=12, tokens=3584)"
  c.model = sections.latent_model(
    "qwen_image",
    channels=16,
    width=3072,
    depth=60,
    heads=24,
    rope_axes=(16, 56, 56),
    remat="full",
  )
  c.process.shift = "dynamic(max_shift=0.9, max_tokens=8192)"
  c.train.batch = 512
  c.sampling.update(steps=50, cfg=4.0)
  return c
