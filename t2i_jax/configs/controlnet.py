"""A ControlNet of Stable Diffusion 1, 2, SDXL, 3 or FLUX.1, trained on your images [2302.05543
sec. 3.3].

The model of the folder stays as it is. The ControlNet starts as a copy of its U-Net's way down, or
of the first half of its blocks, with zero convolutions, and reads the edges of each image. Half of
the captions become the null.

  t2i train --config=configs/controlnet.py:stable-diffusion-v1-5 --workdir=runs/edges \
    --config.data.dir=runs/data/mine
  t2i export --workdir=runs/edges --part=controlnet --to=controlnet-edges
  t2i sample --from=stable-diffusion-v1-5 --controlnet=controlnet-edges --control=edges.png \
    --prompt="a lighthouse"

What follows the colon is the folder, and after another colon the size. Other condition images:
--config.controlnets.controlnet="of_backbone(condition='grey')", or 'blurred(factor=8)'. It needs
images, not latents.

Result: not yet run on published weights; of a tiny random model: tests/training/test_controlnet.py.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import finetune as parent

VARIANT = "the folder of a published model, as stable-diffusion-v1-5 or FLUX.1-dev:512x512"


def get_config(variant: str = "") -> ConfigDict:
  c = parent.get_config(variant)
  c.name = c.name.replace("finetune", "controlnet", 1)
  for name in c.parts:
    c.parts[name].train = "none"
  c.controlnets = {"controlnet": "of_backbone(condition='edges')"}
  c.parts.controlnet = {"start": "base", "train": "all"}
  c.train.caption_dropout = dict.fromkeys(c.text.towers, 0.5)
  return c
