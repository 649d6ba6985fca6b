"""Whole published models: the folders of diffusers' pipelines, by their model_index.json.

A pipeline class decides what its files do not say: which text goes into which encoder, the times it
gives its scheduler, and the settings it samples with. PIPELINES has that, by class.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.pretrained.scheduler import SCHEDULERS

INDEX = "model_index.json"
CONTROLNET = "controlnet"  # the part; of several the others are controlnet_1, controlnet_2, ...
NETS = ("ControlNetModel", "SD3ControlNetModel", "FluxControlNetModel")
# Of several: diffusers writes the first of these classes alone, the others are read as that is.
SEVERAL_NETS = {
  "MultiControlNetModel": NETS[0],
  "SD3MultiControlNetModel": NETS[1],
  "FluxMultiControlNetModel": NETS[2],
}


class Published(NamedTuple):
  """One class of pipeline.

  text      its name in towers.published, "label" for classes
  latents   of a side by default, where the backbone was not made for one size
  even, by_steps  as in scheduler.How
  steps, guidance, cfg  of sampling by default. cfg = 1: none. A U-Net with an embedding of the
            guidance scale is given cfg as that, and is not guided
  embedded  that scale by default, of a FLUX.1 that embeds it; 0: as pretrained.flux has it
  strength  from which it draws an image again by default, that of its class that takes images
  backbone  its subfolder
  scheduler what the class puts in place of keys of the scheduler's file
  refines   made for the last steps alone
  """

  text: str
  latents: int = 128
  even: bool = True
  by_steps: bool = False
  steps: int = 50
  guidance: str = "cfg"
  cfg: float = 1.0
  embedded: float = 0.0
  strength: float = 0.6
  backbone: str = "transformer"
  scheduler: Mapping[str, Any] = {}
  refines: bool = False


# Sources: the __call__ of each class in diffusers 0.42.1.
QWEN = Published("qwen_image", guidance="cfg_norm(patch=2)", cfg=4.0)
FLUX = Published("flux", steps=28)
SD3 = Published("sd3", even=False, steps=28, cfg=7.0)
SD = Published(
  "sd1",
  even=False,
  cfg=7.5,
  strength=0.8,
  backbone="unet",
  scheduler={"steps_offset": 1, "clip_sample": False},
)
SDXL = Published("sdxl", even=False, cfg=5.0, strength=0.3, backbone="unet")
REFINER = "StableDiffusionXLImg2ImgPipeline"
PIPELINES: dict[str, Published] = {
  "StableDiffusionPipeline": SD,
  "StableDiffusionInpaintPipeline": SD._replace(
    scheduler={"steps_offset": 1, "skip_prk_steps": True}
  ),
  "StableDiffusionInstructPix2PixPipeline": SD._replace(
    steps=100, guidance="dual(image_scale=1.5)", scheduler={}
  ),
  "LatentConsistencyModelPipeline": SD._replace(steps=4, cfg=8.5, scheduler={}),
  "StableDiffusionControlNetPipeline": SD._replace(scheduler={}),
  "StableDiffusionControlNetInpaintPipeline": SD._replace(scheduler={}),
  "StableDiffusionXLPipeline": SDXL,
  "StableDiffusionXLControlNetPipeline": SDXL._replace(strength=0.8),
  # With "requires_aesthetics_score": the refiner. Else it is of the files of SDXL.
  REFINER: SDXL._replace(text="sdxl_refiner", refines=True),
  "DiTPipeline": Published("label", even=False, cfg=4.0),
  "PixArtAlphaPipeline": Published("pixart_alpha", even=False, steps=20, cfg=4.5),
  "PixArtSigmaPipeline": Published("pixart_sigma", even=False, steps=20, cfg=4.5),
  "StableDiffusion3Pipeline": SD3,
  "StableDiffusion3ControlNetPipeline": SD3,
  "FluxPipeline": FLUX,
  "FluxControlNetPipeline": FLUX._replace(embedded=7.0),
  "Flux2Pipeline": Published("flux2", latents=64, by_steps=True),
  "Flux2KleinPipeline": Published("flux2_klein", latents=64, by_steps=True, cfg=4.0),
  "QwenImagePipeline": QWEN,
  "QwenImageEditPipeline": QWEN._replace(text="qwen_image_edit"),
  "QwenImageEditPlusPipeline": QWEN._replace(text="qwen_image_edit_plus"),
  # It guides by pos + g (pos - neg), which is cfg at 1 + g; g = 5.
  "ZImagePipeline": Published("z_image", cfg=6.0),
}
# Classes of the same files, that take images besides.
SAME = {
  "StableDiffusionImg2ImgPipeline": "StableDiffusionPipeline",
  "LatentConsistencyModelImg2ImgPipeline": "LatentConsistencyModelPipeline",
  "StableDiffusionControlNetImg2ImgPipeline": "StableDiffusionControlNetPipeline",
  REFINER: "StableDiffusionXLPipeline",
  "StableDiffusionXLControlNetImg2ImgPipeline": "StableDiffusionXLControlNetPipeline",
  "FluxImg2ImgPipeline": "FluxPipeline",
  "FluxInpaintPipeline": "FluxPipeline",
  "FluxControlNetImg2ImgPipeline": "FluxControlNetPipeline",
  "FluxControlNetInpaintPipeline": "FluxControlNetPipeline",
  "StableDiffusion3Img2ImgPipeline": "StableDiffusion3Pipeline",
  "StableDiffusion3InpaintPipeline": "StableDiffusion3Pipeline",
  "QwenImageImg2ImgPipeline": "QwenImagePipeline",
  "ZImageImg2ImgPipeline": "ZImagePipeline",
}


# By the class of a model that was trained to edit the image that it is given: the class it is then.
EDITORS = {
  "StableDiffusionPipeline": "StableDiffusionInstructPix2PixPipeline",
  "StableDiffusionInstructPix2PixPipeline": "StableDiffusionInstructPix2PixPipeline",
}


def editor_of(name: str) -> str:
  """The class of a pipeline whose backbone reads an image beside x_t. Raises ConfigError."""
  if name not in EDITORS:
    raise ConfigError(
      f"a {name} that edits an image has no published class; of {', '.join(EDITORS)} there is one. "
      "Draw with --workdir."
    )
  return EDITORS[name]


class Index(NamedTuple):
  """What model_index.json says.

  name       of the class;   published: what the class does
  parts      subfolder -> the class of what lies in it
  scheduler  the content of its config
  content    the whole of it
  """

  folder: Path
  name: str
  published: Published
  parts: dict[str, str]
  scheduler: dict[str, Any]
  content: dict[str, Any]

  @property
  def controlnets(self) -> tuple[str, ...]:
    """Their subfolders, in order."""
    return tuple(name for name, kind in self.parts.items() if kind in NETS)

  @property
  def scheduler_file(self) -> str:
    return str(self.folder / "scheduler" / "scheduler_config.json")


def read_json(path: Path) -> dict[str, Any]:
  """The object in a file. Raises RestoreError where it is missing or cannot be read."""
  try:
    content = json.loads(path.read_text("utf-8"))
  except FileNotFoundError as error:
    raise RestoreError(f"{path} is missing. Copy the whole folder of the model again.") from error
  except (OSError, ValueError) as error:
    raise RestoreError(f"{path} cannot be read: {error}. Copy it again.") from error
  if not isinstance(content, dict):
    raise RestoreError(f"{path} is not a JSON object. Copy it again.")
  return content


def read_index(folder: str | Path) -> Index:
  """The pipeline of a folder, its parts found. Raises RestoreError naming what is missing."""
  folder = Path(folder)
  if not folder.is_dir():
    raise RestoreError(f"{folder} is not a folder.")
  if not (folder / INDEX).is_file():
    raise RestoreError(
      f"{folder} has no {INDEX}. Give the folder of a whole model, as FLUX.1-dev, not that of one "
      "of its parts."
    )
  content = read_json(folder / INDEX)
  name = content.get("_class_name")
  if not (name == REFINER and content.get("requires_aesthetics_score")):
    name = SAME.get(str(name), name)
  if name not in PIPELINES:
    raise RestoreError(
      f"{folder / INDEX}: _class_name = {name!r} is not one of {', '.join(PIPELINES)}."
      f"{_nearest(str(name))}"
    )
  parts = _parts(content, folder)
  path = folder / "scheduler" / "scheduler_config.json"
  scheduler = read_json(path) if "scheduler" in parts else {}
  if not scheduler:
    raise RestoreError(
      f"{folder / INDEX} names no scheduler. One of {', '.join(SCHEDULERS)} is needed."
    )
  own = {key: value for key, value in PIPELINES[name].scheduler.items() if key in scheduler}
  return Index(folder, str(name), PIPELINES[name], parts, scheduler | own, content)


def _parts(content: Mapping[str, Any], folder: Path) -> dict[str, str]:
  """Subfolder -> class, of the parts that the index names. Raises RestoreError."""
  found = {}
  for key, value in content.items():
    if not isinstance(value, list) or len(value) != 2 or key.startswith("_"):
      continue
    if value[1] is not None:
      found[key] = str(value[1])
  missing = [name for name in found if not (folder / name).is_dir()]
  if missing:
    raise RestoreError(
      f"{folder / INDEX} names {', '.join(missing)}, and there is no such folder. Copy the whole "
      "folder of the model again."
    )
  one = SEVERAL_NETS.get(found.get(CONTROLNET, ""))
  if one is not None:  # the index has no line for the others
    found[CONTROLNET], i = one, 0
    while (folder / f"{CONTROLNET}_{(i := i + 1)}").is_dir():
      found[f"{CONTROLNET}_{i}"] = one
  return found


def _nearest(name: str) -> str:
  """The class that we have with the longest common beginning, for a message."""
  common = lambda other: next(
    (i for i, (a, b) in enumerate(zip(name, other, strict=False)) if a != b),
    min(len(name), len(other)),
  )
  best = max(PIPELINES, key=common)
  return f" The nearest is {best}." if common(best) >= 4 else ""
