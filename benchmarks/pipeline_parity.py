"""Published pipelines at tiny sizes, drawn here and by diffusers from the same noise.

python -m benchmarks.pipeline_parity --to docs

Both are given the same folder, prompts and noise; compared are the latents that the decoder is
given and the images. Needs torch, diffusers and transformers, which the package itself does not.
"""

import argparse
import inspect
import itertools
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image

from benchmarks import refiner_parity
from benchmarks.golden_pipelines import HALF, LABELS, PROMPTS, SIDE, conditions, image_of, ours
from benchmarks.pages import made_by, table, write
from benchmarks.tiny_pipelines import PIPELINES, Tiny
from t2i_jax.pretrained.pipelines import read_index
from t2i_jax.sampling import row_noise

STEPS = (1, 4, 20)
REFINED = 4  # steps of a base and its refiner, at least
LATENTS, PIXELS = 1e-4, 0.999  # bounds of what is compared


class Compared(NamedTuple):
  """latents: largest difference over the largest latent;   pixels: share within 1 / 255"""

  latents: float
  pixels: float


def theirs(tiny: Tiny, pipe: Any, noise: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
  """What the decoder is given [B, c, h, w], and images [B, H, W, 3] in [0, 1], of a pipeline.

  noise  [B, h, w, C], which the pipeline draws
  """
  module: Any = sys.modules[type(pipe).__module__]
  solver: Any = sys.modules[type(pipe.scheduler).__module__]
  z = torch.from_numpy(noise.transpose(0, 3, 1, 2).copy())
  given: dict[str, Any] = tiny.call | {"num_inference_steps": steps}
  if tiny.labels:
    given["class_labels"] = [int(label) for label in LABELS]
  else:
    given |= {"prompt": list(PROMPTS[: tiny.prompts]), "height": SIDE, "width": SIDE}
  if tiny.images:
    given["image"] = [Image.fromarray(image_of(size)) for size in tiny.images]
  if len(tiny.images) == 1:  # QwenImageEditPipeline shows the text encoder lists unresized
    (given["image"],) = given["image"]
  if tiny.controls:
    shown = [Image.fromarray(one) for one in conditions(tiny.controls["count"])]
    call = inspect.signature(pipe.__call__).parameters
    key = "control_image" if "control_image" in call else "image"
    given[key] = shown if len(shown) > 1 else shown[0]
  if tiny.fills:
    given["mask_image"] = Image.fromarray(HALF)
  if tiny.strength:
    given["strength"] = tiny.strength
  if tiny.strength or read_channels(pipe) == 8:  # InstructPix2Pix has no sizes
    given = {key: value for key, value in given.items() if key not in ("height", "width")}
  latents: list[np.ndarray] = []
  drawn, decode = module.randn_tensor, pipe.vae.decode
  of_step, again = step_noise(noise.shape), getattr(solver, "randn_tensor", None)

  def caught(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    latents.append(x.detach().numpy())
    return decode(x, *args, **kwargs)

  module.randn_tensor = lambda shape, *_, **__: z.reshape(shape)
  pipe.vae.decode, solver.randn_tensor = caught, lambda *_, **__: next(of_step)
  mean = mock.patch.object(DiagonalGaussianDistribution, "sample", lambda self, _=None: self.mode())
  try:
    with mean, as_edited(pipe, module, tiny.area):
      images = pipe(**given, output_type="np").images
  finally:
    module.randn_tensor, pipe.vae.decode, solver.randn_tensor = drawn, decode, again
  (x,) = latents
  return x, np.asarray(images)


def step_noise(shape: tuple[int, ...]) -> Iterator[torch.Tensor]:
  """What stochastic solvers draw here at each step for rows of seed 0, [B, c, h, w]."""
  rows, *size = shape
  draw = row_noise(jax.vmap(jax.random.key)(np.zeros(rows, np.uint32)), tuple(size))
  for i in itertools.count():
    yield torch.from_numpy(np.moveaxis(np.asarray(draw(jnp.int32(i))), -1, 1).copy())


def read_channels(pipe: Any) -> int:
  """Of the input of a pipeline's U-Net; 0: it has none."""
  unet = getattr(pipe, "unet", None)
  return 0 if unet is None else unet.config.in_channels


@contextmanager
def as_edited(pipe: Any, module: Any, area: int) -> Iterator[None]:
  """A pipeline that resizes images to an area in place of 1024 x 1024 pixels; 0: as it is.

  Its text encoder is given the types of tokens, as its processor has them: diffusers 0.42.1 leaves
  them out, with which transformers 5 has no positions on three axes.
  """
  if not area:
    yield
    return
  sized, encode = module.calculate_dimensions, pipe.text_encoder.forward
  image = pipe.text_encoder.config.image_token_id

  def typed(input_ids: torch.Tensor, **how: Any) -> Any:
    return encode(input_ids, **how, mm_token_type_ids=(input_ids == image).int())

  smaller = lambda full, ratio: sized(area if full == 1024**2 else full, ratio)
  with (
    mock.patch.object(module, "calculate_dimensions", smaller),
    mock.patch.object(pipe.text_encoder, "forward", typed),
  ):
    yield


def saved(name: str, folder: Path) -> Any:
  """A tiny pipeline, saved as folder/model."""
  pipe = PIPELINES[name].make(folder / "tokenizers")
  pipe.set_progress_bar_config(disable=True)
  pipe.save_pretrained(folder / "model")
  return pipe


def compare(name: str, pipe: Any, folder: Path, steps: int) -> Compared:
  """A pipeline and its folder, both sampled."""
  tiny = PIPELINES[name]
  noise, x, images = ours(tiny, folder, steps)
  expected, theirs_images = theirs(tiny, pipe, noise, steps)
  expected = expected.reshape(x.shape)
  off = np.abs(x - expected).max() / np.abs(expected).max()
  near = np.abs(images.astype(np.float32) - 255 * theirs_images) <= 1
  if tiny.fills:  # the rest is the image itself here, and decoded there
    near = near[:, HALF]
  return Compared(float(off), float(near.mean()))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--to", type=Path, default=Path("docs"))
  args = parser.parse_args()
  rows = []
  for name in PIPELINES:
    rows.append(row(name))
    print(rows[-1], flush=True)
  rows.append(refined_row())
  print(rows[-1], flush=True)
  head = ["pipeline", "scheduler", *(f"{steps} steps" for steps in STEPS)]
  made = made_by("python -m benchmarks.pipeline_parity --to docs", "benchmarks/pipeline_parity.py")
  write(args.to / "pipelines.md", TEXT.format(table=table(head, rows)), made)


def row(name: str) -> list[str]:
  """Of one pipeline. AssertionError where a bound does not hold."""
  tiny = PIPELINES[name]
  with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    pipe = saved(name, folder)
    index = read_index(folder / "model")
    found = {
      steps: compare(name, pipe, folder / "model", steps) for steps in STEPS if steps >= tiny.least
    }
  for one in found.values():
    assert one.latents < LATENTS and one.pixels > PIXELS, (name, one)
  cells = [f"{found[s].latents:.1e}, {found[s].pixels:.2%}" if s in found else "-" for s in STEPS]
  shown = ", shown two images" if len(tiny.images) == 2 else ""
  shown += ", no T5" if name == "sd3 without T5" else ""
  shown += ", two" if tiny.controls.get("count") == 2 else ""
  shown += ", U-Net of 4 channels" if name.endswith(", plain") else ""
  shown += ", guess mode" if tiny.controls.get("guess") else ""
  scheduler = index.scheduler["_class_name"].removesuffix("Scheduler")
  return [f"{index.name}{shown}", scheduler, *cells]


def refined_row() -> list[str]:
  """Of SDXL and its refiner in turn."""
  cells = []
  for steps in STEPS:
    if steps < REFINED:
      cells.append("-")
      continue
    with tempfile.TemporaryDirectory() as temporary:
      pipes = refiner_parity.saved(Path(temporary))
      off = refiner_parity.compare(pipes, Path(temporary), steps, 0.75)
    assert off < LATENTS, off
    cells.append(f"{off:.1e}")
  return ["StableDiffusionXLPipeline, its refiner from 0.75", "EulerDiscrete", *cells]


TEXT = """\
# Whole pipelines beside diffusers

A tiny pipeline of each class at random weights, saved by diffusers, opened by `t2i sample --from`
and drawn by both from the same noise, two prompts at once, in float32 (diffusers 0.42.1,
transformers 5.24.0): tokenizers, text encoders, guidance, scheduler, backbone and autoencoder, each
as the folder and the pipeline's class have them. In a cell: the largest difference of the latents
that the decoder is given, over the largest latent, and the share of pixel values within 1/255. The
bounds are 1e-4 and 99.9%. Of SDXL with its refiner it is the latents alone.

{table}

PixArt-alpha's pipeline fails on one step of its own scheduler, in diffusers 0.42.1, and the grid of
Qwen-Image needs two. Edit and Edit-Plus are compared with diffusers given the positions of image
tokens on three axes, which 0.42.1 does not pass on to transformers 5. A pipeline reloaded by
diffusers differs from itself by up to 1.6e-6. Sizes of the real models: docs/parity_models.md,
docs/parity_towers.md, docs/parity_autoencoders.md. Schedulers: docs/parity.md.
"""

if __name__ == "__main__":
  main()
