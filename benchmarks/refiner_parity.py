"""SDXL and its refiner at tiny sizes, the refiner drawing the last steps: here and by diffusers.

`compare` is a row of docs/pipelines.md. Needs torch, diffusers and transformers.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.golden_pipelines import PROMPTS, SIDE, conditions
from benchmarks.model_cases import uniform
from benchmarks.tiny_pipelines import PIPELINES
from t2i_jax.inference import Model, open_pipeline
from t2i_jax.inference.refine import draw_refined
from t2i_jax.systems.tasks import ControlImages

BASE, REFINER = "sdxl", "sdxl_refiner"
CFG = 5.0


def saved(folder: Path, scheduler: Any = None, base: str = BASE) -> tuple[Any, Any]:
  """Both pipelines, saved as folder/sdxl and folder/sdxl_refiner.

  scheduler  of both;   base: of tiny_pipelines, that or one with ControlNets
  """
  pipes = []
  for kind, name in ((base, BASE), (REFINER, REFINER)):
    pipe = PIPELINES[kind].make(folder / f"tokenizers_{name}")
    if scheduler is not None:
      pipe.scheduler = scheduler
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder / name)
    pipes.append(pipe)
  return pipes[0], pipes[1]


def opened(folder: Path, steps: int) -> tuple[Model, Model]:
  """Both models, opened here."""
  settings = {"sampling.steps": str(steps), "sampling.batch": str(len(PROMPTS))}
  base, refiner = (open_pipeline(folder / name, settings, (SIDE, SIDE)) for name in (BASE, REFINER))
  return base, refiner


def compare(
  pipes: tuple[Any, Any],
  folder: Path,
  steps: int,
  end: float,
  control: tuple[float, float] | None = None,
) -> float:
  """The largest difference of the latents over the largest latent.

  control  of a base with a ControlNet: the fractions of the steps between which it is used
  """
  base, refiner = opened(folder, steps)
  noise = uniform("noise", (len(PROMPTS), *base.system.x_shape))
  controls, told = None, {}
  if control is not None:
    (image,), (first, last) = conditions(1), control
    controls = ControlImages([np.stack([image] * len(PROMPTS))], starts=[first], ends=[last])
    told = {"image": Image.fromarray(image), "control_guidance_start": first}
    told["control_guidance_end"] = last
  z = draw_refined(base, refiner, PROMPTS, [0] * len(PROMPTS), end, noise, False, controls)
  how = {"prompt": list(PROMPTS), "num_inference_steps": steps, "guidance_scale": CFG}
  how["output_type"] = "latent"
  begun = pipes[0](
    **how,
    **told,
    height=SIDE,
    width=SIDE,
    latents=torch.from_numpy(noise.transpose(0, 3, 1, 2).copy()),
    denoising_end=end,
  ).images
  second = pipes[1](**how, image=begun, denoising_start=end).images
  expected = np.moveaxis(second.numpy(), 1, -1)
  return float(np.abs(z - expected).max() / np.abs(expected).max())
