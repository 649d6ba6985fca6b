"""InstructPix2Pix from a run of yours or a published model, on pairs of images and instructions.

  t2i data edits --from=Llama-3.2-1B --captions=captions.txt --to=edits.jsonl
  t2i data pairs --from=stable-diffusion-v1-5 --edits=edits.jsonl --kind=p2p --to=runs/data/pairs
  t2i train --config=configs/instruct.py:stable-diffusion-v1-5:256x256 --workdir=runs/instruct \
    --config.data.dir=runs/data/pairs

What follows the colon is the folder, and after another colon the size, or the work directory of a
run. Its first convolution or projection gets zeros for the channels of the image [2211.09800
sec. 3.2]; the image's latent is the posterior's mean, for a U-Net without the scale of latents, as
the published model reads it. The settings are those of the authors' code but for the batch, which
is 1,024 there.

Result: not yet run on published weights; tiny random models: tests/training/test_instruct.py.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import sections
from t2i_jax.errors import ConfigError
from t2i_jax.systems.base import WHAT, base_config

VARIANT = WHAT


def get_config(variant: str = "") -> ConfigDict:
  c = base_config(variant, "instruct")
  c.name = f"instruct_{c.name}"
  c.data.dir = "runs/data/pairs"
  c.parts.backbone.train = "all"
  channels, beside = c.model.channels, c.model.get("beside", 0)
  if beside not in (0, channels):
    raise ConfigError(
      f"{variant} fills in a part of an image (model.beside = {beside}): start from a model that "
      "draws, as stable-diffusion-v1-5, or from one that edits."
    )
  c.model.beside = channels
  c.train.update(
    objective="instruct",
    steps=10_000,
    batch=32,
    **sections.adamw(1e-4, "constant"),
  )
  c.train.caption_dropout = ConfigDict()  # the objective drops both
  c.sampling.update(guidance="dual(image_scale=1.5)", cfg=7.5 if c.process.kind != "flow" else 3.0)
  return c
