"""FLUX.1 [github.com/black-forest-labs/flux]: 19 double-stream and 38 single-stream blocks.

Latents [128, 128, 16] are encoded beforehand, as for configs/latents_dit_xl2_flow.py. The text
encoder is a small one of the published widths, trained with the backbone; the published models have
T5-XXL and CLIP-L, frozen.

  t2i train --config=configs/flux1.py:dev --workdir=/mnt/runs/flux1_dev

Result: not yet run; compiled for v5p: docs/tpu_programs.md. The backbone is that of the published
folders, to the parameter: docs/parity_models.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import latents_dit_xl2_flow as parent
from t2i_jax.configs import sections

VARIANTS = ("dev", "schnell")
ENCODER = "transformer(width=768, depth=12, heads=12, tokens=4096, pooled=768)"


def get_config(variant: str = "dev") -> ConfigDict:
  c = parent.get_config()
  c.name = f"flux1_{variant}"
  c.data.image_size = (128, 128)
  c.text.length = 512 if variant == "dev" else 256
  c.text.towers.text = ENCODER
  c.model = sections.latent_model(
    "flux",
    channels=16,
    width=3072,
    heads=24,
    rope_axes=(16, 56, 56),
    double_blocks=19,
    single_blocks=38,
    remat="qkv",
  )
  if variant == "dev":
    c.model.guidance = 3.5
  c.process.shift = "dynamic" if variant == "dev" else "static(factor=1.0)"
  c.train.batch = 512
  c.sampling.update(steps=28 if variant == "dev" else 4, cfg=1.0)
  return c
