"""DiT [2212.09748 table 1]: class-conditional, noise and its variance, twelve sizes.

Latents are encoded beforehand, as for configs/latents_dit_xl2_flow.py; captions are the numbers of
the classes.

  t2i data build --from webdataset --path 'latents/*.tar' --to runs/data/imagenet
  t2i train --config=configs/dit.py:XL/2 --workdir=/mnt/runs/dit_xl_2

Result: not yet run. The backbone is that of the published folders, to the parameter:
docs/parity_models.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import latents_dit_xl2_flow as parent
from t2i_jax.configs import sections

# width, depth, heads
SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
VARIANTS = tuple(f"{size}/{patch}" for size in SIZES for patch in (2, 4, 8))


def get_config(variant: str = "XL/2") -> ConfigDict:
  size, patch = variant.split("/")
  width, depth, heads = SIZES[size]
  c = parent.get_config()
  c.name = f"dit_{size.lower()}_{patch}"
  c.data.dir = "runs/data/imagenet"
  c.text = sections.labels(1000)
  c.parts = sections.parts("backbone")
  sizes = {"width": width, "depth": depth, "heads": heads, "patch": int(patch)}
  c.model = sections.latent_model("class_dit", **sizes, side=32)
  # [2212.09748 sec. 4]
  c.process = sections.ddpm("ddpm_linear", "eps(learned_variance=True)")
  c.train.batch = 256
  c.train.caption_dropout = {"label": 0.1}
  c.sampling.update(solver="ddim", prompts=("207", "360", "387", "974"))
  return c
