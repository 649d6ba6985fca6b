"""A published model of any of the nine families, trained further on your images.

The config is that of the folder: its sizes, process and shift of times, the null of each text
encoder, the scheduler that it is sampled with. Text encoders and autoencoder stay as they are; the
backbone is trained. With data.dir a folder of `t2i data encode` the autoencoder only decodes.

  t2i data encode --data=runs/data/mine --autoencoder=FLUX.1-dev --to=runs/data/mine_latents
  t2i train --config=configs/finetune.py:FLUX.1-dev --config.data.dir=runs/data/mine_latents \
    --workdir=runs/flux_mine
  t2i export --workdir=runs/flux_mine --to=FLUX.1-mine

What follows the colon is the folder, and after another colon the size: FLUX.1-dev:512x768.

Result: not yet run on published weights; tiny random models of all nine: docs/latents.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import sections
from t2i_jax.errors import ConfigError

VARIANT = "the folder of a published model, as FLUX.1-dev, or with a size FLUX.1-dev:512x512"


def get_config(variant: str = "") -> ConfigDict:
  from t2i_jax.systems.folder import folder_config  # it needs jax, and reads the folder

  folder, size = _split(variant)
  c = folder_config(folder, size, controlnets=None)
  c.unlock()
  c.name = f"finetune_{c.name}"
  for name in c.parts:
    c.parts[name].train = "all" if name == "backbone" else "none"
  c.data.dir = "runs/data/mine"
  c.model.update(dtype="bfloat16", remat="full")
  guided = c.sampling.cfg > 1  # others are distilled, and have no null
  c.train.update(
    steps=2000,
    batch=8,
    **sections.adamw(1e-5, "constant"),
    caption_dropout=dict.fromkeys(c.text.towers, 0.1 if guided else 0.0),
  )
  c.mesh = {"data": 1, "fsdp": -1}
  c.log = {"every": 10}
  c.update(sections.periods(every=500, rows=64, keep=1))
  labels = c.text.tokenizer.startswith("labels")
  prompts = ("207", "360") if labels else ("a photo of a cat", "a red bicycle against a wall")
  c.sampling.update(every=500, batch=2, prompts=prompts)
  c.score = {"level": ""}
  return c


def _split(variant: str) -> tuple[str, tuple[int, int] | None]:
  """The folder, and height and width or None."""
  folder, _, size = variant.rpartition(":")
  height, x, width = size.partition("x")
  if folder and x and height.isdecimal() and width.isdecimal():
    return folder, (int(height), int(width))
  if not variant:
    raise ConfigError(f"--config=configs/finetune.py needs {VARIANT}.")
  return variant, None
