"""Transfusion [2408.11039 table 1]: one decoder of text and images, five sizes.

Latents [32, 32, 8] of 256 pixels are encoded beforehand, as for configs/latents_dit_xl2_flow.py.
Rows of 4096 positions, two million a step.

  t2i data build --from webdataset --path 'latents/*.tar' --vocab 32000 --to runs/data/latents
  python -m benchmarks.joint_on_tpu
  t2i train --config=configs/transfusion.py:7B --workdir=/mnt/runs/transfusion_7b \
    --config.model.attention=splash --config.model.remat=attention

Result: not run. Compiled for 512 chips, 4.2 GiB each; on TPUs splash needs a fifth of the HBM
traffic (docs/joint_on_tpu.md).
"""

from ml_collections import ConfigDict

from t2i_jax.configs import latents_dit_xl2_flow as parent
from t2i_jax.configs import sections

# layers, width, heads
SIZES = {
  "0.16B": (16, 768, 12),
  "0.37B": (24, 1024, 16),
  "0.76B": (24, 1536, 24),
  "1.4B": (24, 2048, 16),
  "7B": (32, 4096, 32),
}
VARIANTS = tuple(SIZES)


def get_config(variant: str = "7B") -> ConfigDict:
  depth, width, heads = SIZES[variant]
  c = parent.get_config()
  c.name = f"transfusion_{variant.replace('.', '_').lower()}"
  c.data.image_size = (32, 32)
  # About fifteen images of 256 patches; captions come first in 80% of the documents.
  c.rows = {"length": 4096, "images": 15, "window": 15, "positions": "sequence"}
  c.text = {"vocab": 32768, "length": 512}
  c.parts = sections.parts("backbone")
  c.model = sections.latent_model(
    "transfusion",
    channels=8,
    width=width,
    depth=depth,
    heads=heads,
    unet=0,  # or the channels of U-Net blocks that make the patches
    attention="chunked",
    remat="full",
  )
  c.process = sections.ddpm("ddpm_cosine")
  c.train.update(batch=512, steps=250_000, **sections.adamw(3e-4, "cosine(warmup=4000)"))
  c.train.balance = 5.0  # weight of the images' loss
  c.train.caption_dropout = {}
  c.mesh.update(data=8, fsdp=64)
  c.sampling.update(solver="ddpm", steps=250, cfg=5.0)
  c.sampling.words = "sample(temperature=0.7, top_p=0.9, most=128)"
  return c
