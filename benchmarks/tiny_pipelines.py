"""Whole pipelines of diffusers at tiny sizes and random weights, and how each is called.

pipeline_parity.saved(name, folder) makes and saves one of PIPELINES.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import tiny_transformers as transformer
from benchmarks import tiny_unets as unet

LAYERS = (1, 2, 3)  # of text that are taken, in place of those of the full models


class Tiny(NamedTuple):
  """One pipeline.

  make      (folder for tokenizer files that does not exist yet) -> the pipeline
  call      what its call takes besides prompts, sizes and steps
  settings  what our config has for the same
  labels    prompts are numbers of classes
  images    (height, width) of the images that it is shown
  area      in pixels, to which it resizes them, in place of that of the full model; 0: it does not
  prompts   that it takes at once
  least     steps: with one, PixArt-alpha's pipeline fails on its own scheduler, and Qwen-Image's
            grid would both begin at 1 and end at 0.02
  layers    of the text encoder that are taken, in place of those of the full model
  fills     the left half of its one image, which is hidden from it
  strength  the noise level from which it draws its one image again; 0: it does not
  controls  "count" of its ControlNets, and fields of systems.tasks.ControlImages
  """

  make: Callable[[Path], Any]
  call: dict[str, Any]
  settings: dict[str, str] = {}  # noqa: RUF012  read only
  labels: bool = False
  layers: tuple[int, ...] = ()
  images: tuple[tuple[int, int], ...] = ()
  least: int = 1
  area: int = 0
  prompts: int = 2
  fills: bool = False
  strength: float = 0.0
  controls: dict[str, Any] = {}  # noqa: RUF012  read only


AREA = 64 * 96  # of images to edit, in pixels
PLAIN = {"use_resolution_binning": False, "clean_caption": False}
PIPELINES: dict[str, Tiny] = {
  "sd1": Tiny(unet.sd1, {"guidance_scale": 7.5}),
  "sd2": Tiny(unet.sd2, {"guidance_scale": 7.5}),
  "sd_inpaint": Tiny(unet.sd_inpaint, {"guidance_scale": 7.5}, images=((32, 32),), fills=True),
  "pix2pix": Tiny(
    unet.pix2pix,
    {"guidance_scale": 7.5, "image_guidance_scale": 1.5},
    images=((32, 32),),
    prompts=1,
  ),
  "sd_controlnet": Tiny(
    unet.sd_controlnet,
    {"guidance_scale": 7.5, "controlnet_conditioning_scale": 0.7, "control_guidance_end": 0.5},
    controls={"count": 1, "scales": [0.7], "ends": [0.5]},
  ),
  "sd_controlnet, two": Tiny(
    unet.sd_controlnet_two,
    {
      "guidance_scale": 7.5,
      "controlnet_conditioning_scale": [0.7, 1.3],
      "control_guidance_start": [0.0, 0.4],
      "control_guidance_end": [0.5, 1.0],
    },
    controls={"count": 2, "scales": [0.7, 1.3], "starts": [0.0, 0.4], "ends": [0.5, 1.0]},
  ),
  "sd_controlnet, guess": Tiny(
    unet.sd_controlnet_heun,
    {"guidance_scale": 3.0, "guess_mode": True, "control_guidance_start": 0.3},
    {"sampling.cfg": "3.0"},
    controls={"count": 1, "starts": [0.3], "guess": True},
  ),
  "sd_controlnet_inpaint": Tiny(
    unet.sd_controlnet_inpaint,
    {"guidance_scale": 7.5, "controlnet_conditioning_scale": 0.7, "strength": 1.0},
    images=((32, 32),),
    fills=True,
    controls={"count": 1, "scales": [0.7]},
  ),
  "sd_controlnet_inpaint, plain": Tiny(
    unet.sd_controlnet_inpaint_plain,
    {"guidance_scale": 7.5, "controlnet_conditioning_scale": 0.7, "strength": 1.0},
    images=((32, 32),),
    fills=True,
    controls={"count": 1, "scales": [0.7]},
  ),
  "sdxl": Tiny(unet.sdxl, {"guidance_scale": 5.0}),
  "sdxl_refiner": Tiny(
    unet.sdxl_refiner, {"guidance_scale": 5.0}, images=((32, 32),), strength=0.75, least=4
  ),
  "lcm": Tiny(unet.lcm, {"guidance_scale": 8.5}),
  "sd_turbo": Tiny(unet.sd_turbo, {"guidance_scale": 0.0}, {"sampling.cfg": "0.0"}),
  "sdxl_turbo": Tiny(unet.sdxl_turbo, {"guidance_scale": 0.0}, {"sampling.cfg": "0.0"}),
  "sdxl_lcm": Tiny(unet.sdxl_lcm, {"guidance_scale": 1.5}, {"sampling.cfg": "1.5"}),
  "sdxl_controlnet": Tiny(
    unet.sdxl_controlnet,
    {"guidance_scale": 5.0, "controlnet_conditioning_scale": 0.7},
    controls={"count": 1, "scales": [0.7]},
  ),
  "dit": Tiny(transformer.dit, {"guidance_scale": 4.0}, labels=True),
  "pixart_alpha": Tiny(transformer.pixart, PLAIN, least=2),
  "pixart_sigma": Tiny(transformer.pixart_sigma, PLAIN),
  "sd3 without T5": Tiny(
    transformer.sd3_without_t5, {"guidance_scale": 4.0}, {"sampling.cfg": "4.0"}
  ),
  "sd3": Tiny(transformer.sd3, {"guidance_scale": 4.0}, {"sampling.cfg": "4.0"}),
  "flux": Tiny(transformer.flux, {"guidance_scale": 3.5}),
  "sd3_controlnet": Tiny(
    transformer.sd3_controlnet,
    {"guidance_scale": 4.0, "controlnet_conditioning_scale": 0.7, "control_guidance_end": 0.8},
    {"sampling.cfg": "4.0"},
    controls={"count": 1, "scales": [0.7], "ends": [0.8]},
  ),
  "sd3_controlnet, two": Tiny(
    transformer.sd3_controlnet_two,
    {
      "guidance_scale": 4.0,
      "controlnet_conditioning_scale": [0.7, 1.3],
      "control_guidance_start": [0.0, 0.4],
      "control_guidance_end": [0.5, 1.0],
    },
    {"sampling.cfg": "4.0"},
    controls={"count": 2, "scales": [0.7, 1.3], "starts": [0.0, 0.4], "ends": [0.5, 1.0]},
  ),
  "flux_controlnet": Tiny(
    transformer.flux_controlnet,
    {"controlnet_conditioning_scale": 0.7, "control_guidance_end": 0.8},
    controls={"count": 1, "scales": [0.7], "ends": [0.8]},
  ),
  "flux_controlnet, two": Tiny(
    transformer.flux_controlnet_two,
    {"guidance_scale": 3.5, "controlnet_conditioning_scale": [0.7, 1.3]},
    {"model.guidance": "3.5"},
    controls={"count": 2, "scales": [0.7, 1.3]},
  ),
  "flux2": Tiny(
    transformer.flux2, {"guidance_scale": 4.0, "text_encoder_out_layers": LAYERS}, layers=LAYERS
  ),
  "flux2, shown two images": Tiny(
    transformer.flux2,
    {"guidance_scale": 4.0, "text_encoder_out_layers": LAYERS},
    layers=LAYERS,
    images=((64, 64), (64, 96)),
  ),
  "flux2_klein": Tiny(
    transformer.klein, {"guidance_scale": 4.0, "text_encoder_out_layers": LAYERS}, layers=LAYERS
  ),
  "qwen_image": Tiny(
    transformer.qwen_image, {"true_cfg_scale": 4.0, "negative_prompt": [" ", " "]}, least=2
  ),
  "qwen_image_edit": Tiny(
    transformer.qwen_image_edit,
    {"true_cfg_scale": 4.0, "negative_prompt": " "},
    images=((60, 100),),
    area=AREA,
    prompts=1,
    least=2,
  ),
  "qwen_image_edit_plus": Tiny(
    transformer.qwen_image_edit_plus,
    {"true_cfg_scale": 4.0, "negative_prompt": " "},
    images=((64, 64), (60, 100)),
    area=AREA,
    prompts=1,
    least=2,
  ),
  "z_image": Tiny(transformer.z_image, {"guidance_scale": 5.0}),
}
