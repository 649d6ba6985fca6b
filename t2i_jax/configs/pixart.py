"""PixArt-alpha [2310.00426] and Sigma [2403.04692]: cross-attention, adaLN from one projection.

Latents are encoded beforehand, as for configs/latents_dit_xl2_flow.py. The text encoder is a
small one of the published width, trained with the backbone; the published models have T5-XXL,
frozen.

  t2i train --config=configs/pixart.py:alpha-512 --workdir=/mnt/runs/pixart_alpha_512

Result: not yet run. The backbone is that of the published folders, to the parameter:
docs/parity_models.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import latents_dit_xl2_flow as parent
from t2i_jax.configs import sections

# side of the latent, density of positions, conditioned on sizes, tokens of text
SIZES = {
  "alpha-512": (64, 1.0, False, 120),
  "alpha-1024": (128, 2.0, True, 120),
  "sigma-1024": (128, 2.0, False, 300),
}
VARIANTS = tuple(SIZES)


def get_config(variant: str = "sigma-1024") -> ConfigDict:
  side, interpolation, sizes, tokens = SIZES[variant]
  c = parent.get_config()
  c.name = f"pixart_{variant.replace('-', '_')}"
  c.data.image_size = (side, side)
  c.text.length = tokens
  c.text.towers.text = "transformer(width=768, depth=12, heads=12, tokens=4096)"
  c.model = sections.latent_model(
    "pixart",
    width=1152,
    depth=28,
    heads=16,
    side=side,
    interpolation=interpolation,
    sizes=sizes,
    remat="qkv",
  )
  c.process = sections.ddpm("ddpm_linear", "eps(learned_variance=True)")
  c.sampling.update(solver="dpmpp", steps=20, cfg=4.5)
  return c
