"""Stable Diffusion 3 and 3.5 [2403.03206]: MM-DiT of double-stream blocks.

Latents [128, 128, 16] are encoded beforehand, as for configs/latents_dit_xl2_flow.py. The text
encoder is a small one of the published widths, trained with the backbone; the published models have
CLIP-L, OpenCLIP-bigG and T5-XXL, frozen.

  t2i train --config=configs/sd3.py:3.5-large --workdir=/mnt/runs/sd3_5_large

Result: not yet run. The backbone is that of the published folders, to the parameter:
docs/parity_models.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import latents_dit_xl2_flow as parent
from t2i_jax.configs import sections

# width, depth (and heads), side of the table of positions, dual blocks, qk_norm
SIZES = {
  "3-medium": (1536, 24, 192, 0, False),
  "3.5-medium": (1536, 24, 384, 13, True),
  "3.5-large": (2432, 38, 192, 0, True),
}
VARIANTS = tuple(SIZES)
ENCODER = "transformer(width=768, depth=12, heads=12, tokens=4096, pooled=2048)"


def get_config(variant: str = "3.5-large") -> ConfigDict:
  width, depth, max_side, dual_blocks, qk_norm = SIZES[variant]
  c = parent.get_config()
  c.name = f"sd3_{variant.replace('-', '_').replace('.', '_')}"
  c.data.image_size = (128, 128)
  c.text.length = 333
  c.text.towers.text = ENCODER
  c.model = sections.latent_model(
    "sd3",
    channels=16,
    width=width,
    depth=depth,
    heads=depth,
    side=128,
    max_side=max_side,
    remat="qkv",
  )
  if dual_blocks:
    c.model.dual_blocks = dual_blocks
  if not qk_norm:
    c.model.qk_norm = False
  c.process.shift = "static(factor=3.0)"
  c.train.batch = 1024
  c.sampling.update(steps=28, cfg=7.0)
  return c
