"""FLUX.2 [github.com/black-forest-labs/flux2]: one modulation for all blocks, no biases, SwiGLU.

Latents [64, 64, 128] (2 x 2 of the autoencoder's, normed) are encoded beforehand, as for
configs/latents_dit_xl2_flow.py. The text encoder is a small one of the published width, trained
with the backbone; the published models have Mistral-Small-3 or Qwen3, frozen.

  t2i train --config=configs/flux2.py:dev --workdir=/mnt/runs/flux2_dev

Result: not yet run; compiled for v5p: docs/tpu_programs.md. The backbone is that of the published
folders, to the parameter: docs/parity_models.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import latents_dit_xl2_flow as parent
from t2i_jax.configs import sections

# double and single blocks, heads, width of the text, guidance
SIZES = {
  "dev": (8, 48, 48, 15360, 4.0),
  "klein-4b": (5, 20, 24, 7680, 0.0),
  "klein-9b": (8, 24, 32, 12288, 0.0),
}
VARIANTS = tuple(SIZES)


def get_config(variant: str = "dev") -> ConfigDict:
  double_blocks, single_blocks, heads, text_width, guidance = SIZES[variant]
  c = parent.get_config()
  c.name = f"flux2_{variant.replace('-', '_')}"
  c.data.image_size = (64, 64)
  c.text.length = 512
  c.text.towers.text = f"transformer(width=768, depth=12, heads=12, tokens={text_width})"
  c.model = sections.latent_model(
    "flux2",
    channels=128,
    patch=1,
    width=128 * heads,
    heads=heads,
    rope_axes=(32, 32, 32, 32),
    double_blocks=double_blocks,
    single_blocks=single_blocks,
    remat="full",
  )
  if guidance:
    c.model.guidance = guidance
  c.process.shift = "dynamic"
  c.train.batch = 1024
  c.sampling.update(steps=50, cfg=1.0 if guidance else 4.0)
  return c
