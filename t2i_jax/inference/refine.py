"""Images of two models: a base that ends before the last steps, and a refiner that takes them.

SDXL's refinement stage [2307.01952 sec. 2.5], as diffusers samples it with denoising_end and
denoising_start.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.inference.open import Model
from t2i_jax.pretrained.folder import open_folder
from t2i_jax.pretrained.pipelines import read_index
from t2i_jax.process import Time
from t2i_jax.sampling import GUIDANCE_OF_PROMPTS
from t2i_jax.systems.sampler import make_sampler
from t2i_jax.systems.stages import Stage, steps_until
from t2i_jax.systems.tasks import ControlImages

LATENTS = ("channels", "widths", "scale", "shift", "latents_mean", "latents_std")


def draw_refined(
  base: Model,
  refiner: Model,
  prompts: Sequence[str],
  seeds: Sequence[int],
  end: float = 0.8,
  noise: np.ndarray | None = None,
  decode: bool = True,
  controls: ControlImages | None = None,
) -> np.ndarray:
  """uint8 [n, H, W, 3], or float32 latents [n, h, w, C], of a base and its refiner.

  end    the share of the denoising that is the base's, in (0, 1)
  noise, decode  as for Model.draw
  controls  condition images of the base's ControlNets
  The autoencoder is the refiner's. Raises ConfigError for models of different latents or grids,
  PromptError.
  """
  check_latents(base.system.autoencoder, refiner.system.autoencoder, refiner.where)
  if base.system.x_shape != refiner.system.x_shape:
    raise ConfigError(
      f"{refiner.where} draws latents of {refiner.system.x_shape}, and the base of "
      f"{base.system.x_shape}: give both one size."
    )
  (start, last), (other, first) = (_cut(model, end) for model in (base, refiner))
  if not np.allclose(start[:3], other[:3], rtol=0, atol=1e-6):
    raise ConfigError(
      f"denoising_end = {end:g}: the base ends at t = {start.t:g}, sigma = {start.sigma:.4g}, and "
      f"{refiner.where} starts at t = {other.t:g}, sigma = {other.sigma:.4g}. Give both one grid "
      "and one number of steps, by sampling.grid and sampling.steps."
    )
  given: Any = {"noise": noise, "decode": False, "stage": Stage(0, last), "controls": controls}
  x_t = base.draw(prompts, seeds, **given)
  rest = x_t / refiner.system.process.prior_std
  return refiner.draw(prompts, seeds, noise=rest, decode=decode, stage=Stage(first))


def _cut(model: Model, end: float) -> tuple[Time, int]:
  """The time at which the second stage starts, and its place in the grid."""
  process = model.system.process
  times = make_sampler(model.config.sampling, process, GUIDANCE_OF_PROMPTS).times
  first = steps_until(process, times, end)
  return Time(*(np.asarray(field)[first] for field in times)), first


def check_latents(own: Any, other: Any, where: str) -> None:
  """Raises ConfigError for autoencoders of different latents.   own, other: their configs"""
  if type(own) is not type(other):
    raise ConfigError(
      f"{where} has latents of a {type(other).__name__}, and the base those of a "
      f"{type(own).__name__}."
    )
  wrong = [
    f"{key} = {getattr(other, key)!r}, and {getattr(own, key)!r} of the base"
    for key in LATENTS
    if hasattr(own, key) and getattr(own, key) != getattr(other, key)
  ]
  if wrong:
    raise ConfigError(
      f"{where} refines other latents than the base's: {'; '.join(wrong)}. Give the refiner of "
      "this base."
    )


def check_folders(base: str | Path, refiner: str | Path) -> None:
  """`check_latents` of two folders, before a weight is read. Raises ConfigError, RestoreError."""
  own, other = (open_folder(read_index(one).folder / "vae")[1] for one in (base, refiner))
  check_latents(own, other, f"--refiner={refiner}")


def check_from_image(folder: str | Path) -> None:
  """Raises ConfigError for a refiner that is to draw from noise."""
  index = read_index(folder)
  if index.published.refines:
    raise ConfigError(
      f"{folder} is a refiner, which was trained on little noise alone. Give it an image with "
      "--image and --strength, or give it as --refiner to its base."
    )
