"""Every published size: our config, that of its folder, and how many parameters it has.

The counts were taken from the classes of diffusers 0.42.1, built without memory (torch's device
"meta") at the published configs; tests/parity builds them again.
"""

from typing import Any, NamedTuple

import jax

from t2i_jax.models import BACKBONES
from t2i_jax.models.controlnet import ControlNet, ControlNetConfig
from t2i_jax.models.stream_controlnets import (
  FluxControlNet,
  FluxControlNetConfig,
  SD3ControlNet,
  SD3ControlNetConfig,
)
from t2i_jax.pretrained.spec import abstract_params

KINDS = BACKBONES | {
  "controlnet": (ControlNet, ControlNetConfig),
  "sd3_controlnet": (SD3ControlNet, SD3ControlNetConfig),
  "flux_controlnet": (FluxControlNet, FluxControlNetConfig),
}


class Size(NamedTuple):
  """One published model.

  kind    of KINDS;   config  its other keys
  theirs  what the folder's config has that differs from the defaults of its class
  stored  parameters of the folder
  unique  of them, those that are no copies of others; 0: all
  """

  kind: str
  config: dict[str, Any]
  theirs: dict[str, Any]
  stored: int
  unique: int = 0


def config_of(size: Size) -> Any:
  return KINDS[size.kind][1](**size.config)


def _count(tree: Any) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def count(size: Size) -> int:
  """The parameters of our model, without an array being made."""
  return _count(abstract_params(KINDS[size.kind][0], config_of(size)))


def count_stored(size: Size) -> int:
  """Those of its folder: DiT's has the embedders of time and label in every block."""
  params, copies = abstract_params(KINDS[size.kind][0], config_of(size)), 0
  if size.kind == "class_dit":
    copies = (size.config["depth"] - 1) * _count((params["time_in"], params["label_in"]))
  return _count(params) + copies


def _dit(width: int, depth: int, heads: int, patch: int, stored: int, unique: int = 0, side=32):
  config = {
    "width": width, "depth": depth, "heads": heads, "patch": patch, "channels": 4, "out": 8,
    "classes": 1000, "side": side,
  }  # fmt: skip
  theirs = {
    "num_attention_heads": heads, "attention_head_dim": width // heads, "num_layers": depth,
    "patch_size": patch, "sample_size": side, "out_channels": 8,
  }  # fmt: skip
  return Size("class_dit", config, theirs, stored, unique)


PIXART_TOLD: dict[str, Any] = {"sizes": True}  # of PixArtConfig: told size and aspect


def _pixart(side: int, told: bool, stored: int):
  config = {
    "width": 1152, "depth": 28, "heads": 16, "patch": 2, "channels": 4, "out": 8,
    "text_width": 4096, "side": side, "interpolation": float(side // 64),
  }  # fmt: skip
  theirs = {
    "caption_channels": 4096, "sample_size": side, "use_additional_conditions": told,
    "interpolation_scale": side // 64,
  }  # fmt: skip
  return Size("pixart", config | (PIXART_TOLD if told else {}), theirs, stored)


def _sd3(depth: int, max_side: int, stored: int, qk_norm: bool = True, dual: int = 0):
  width = 64 * depth
  config = {
    "width": width, "depth": depth, "heads": depth, "patch": 2, "channels": 16, "out": 16,
    "text_width": 4096, "pooled_width": 2048, "side": 128, "max_side": max_side,
    "dual_blocks": dual, "qk_norm": qk_norm,
  }  # fmt: skip
  theirs = {
    "num_layers": depth, "num_attention_heads": depth, "caption_projection_dim": width,
    "pos_embed_max_size": max_side, "qk_norm": "rms_norm" if qk_norm else None,
    "dual_attention_layers": tuple(range(dual)),
  }  # fmt: skip
  return Size("sd3", config, theirs, stored)


def _flux(guidance: float, stored: int):
  config = {
    "width": 3072, "double_blocks": 19, "single_blocks": 38, "heads": 24, "patch": 2,
    "channels": 16, "out": 16, "text_width": 4096, "pooled_width": 768,
    "rope_axes": (16, 56, 56), "guidance": guidance,
  }  # fmt: skip
  return Size("flux", config, {"guidance_embeds": bool(guidance)}, stored)


def _flux2(width: int, double: int, single: int, text: int, guidance: float, stored: int):
  config = {
    "width": width, "double_blocks": double, "single_blocks": single, "heads": width // 128,
    "patch": 1, "channels": 128, "out": 128, "text_width": text,
    "rope_axes": (32,) * 4, "guidance": guidance,
  }  # fmt: skip
  theirs = {
    "num_layers": double, "num_single_layers": single, "num_attention_heads": width // 128,
    "joint_attention_dim": text, "guidance_embeds": bool(guidance),
  }  # fmt: skip
  return Size("flux2", config, theirs, stored)


def _unet(text: int, stored: int, ours: dict[str, Any], theirs: dict[str, Any], beside: int = 0):
  config = {"channels": 4, "out": 4, "text_width": text, "beside": beside} | ours
  side = ours.get("side", 64)
  told = {"in_channels": 4 + beside, "cross_attention_dim": text, "sample_size": side}
  return Size("unet", config, told | theirs, stored)


_DOWN, _UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


def _sdxl(widths: tuple[int, ...], depths: tuple[int, ...], text: int, sizes: int, stored: int):
  """Heads of 64; the middle is as deep as the deepest level."""
  heads, middle = tuple(width // 64 for width in widths), max(depths)
  total = 1280 + 256 * sizes
  kinds = [depth > 0 for depth in depths]
  even = {depth for depth in depths if depth} == {middle}
  ours = {
    "widths": widths, "depths": depths, "heads": heads, "middle": middle, "linear": True,
    "side": 128, "pooled_width": 1280, "micro_conditions": sizes,
  }  # fmt: skip
  theirs = {
    "block_out_channels": widths, "attention_head_dim": heads, "use_linear_projection": True,
    "transformer_layers_per_block": middle if even else tuple(depth or 1 for depth in depths),
    "down_block_types": tuple(_DOWN[kind] for kind in kinds),
    "up_block_types": tuple(_UP[kind] for kind in reversed(kinds)),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": total,
  }  # fmt: skip
  return _unet(text, stored, ours, theirs)


def _controlnet(unet: Size, stored: int):
  """That of a U-Net."""
  of = lambda keys, config: {key: value for key, value in keys.items() if key not in config}
  ours = of(unet.config, ("out", "beside", "side"))
  theirs = of(unet.theirs, ("sample_size", "up_block_types"))
  return Size("controlnet", ours, theirs, stored)


_HEADS_2 = (5, 10, 20, 20)

SIZES = {
  "DiT-S/2": _dit(384, 12, 6, 2, 39_805_088, 32_865_056),
  "DiT-S/4": _dit(384, 12, 6, 4, 39_860_480),
  "DiT-S/8": _dit(384, 12, 6, 8, 40_082_048),
  "DiT-B/2": _dit(768, 12, 12, 2, 147_439_904, 130_315_808),
  "DiT-B/4": _dit(768, 12, 12, 4, 147_550_592),
  "DiT-B/8": _dit(768, 12, 12, 8, 147_993_344),
  "DiT-L/2": _dit(1024, 24, 16, 2, 511_609_888, 457_840_672),
  "DiT-L/4": _dit(1024, 24, 16, 4, 511_757_440),
  "DiT-L/8": _dit(1024, 24, 16, 8, 512_347_648),
  "DiT-XL/2": _dit(1152, 28, 16, 2, 749_826_464, 674_834_720),
  "DiT-XL/2, 512 px": _dit(1152, 28, 16, 2, 749_826_464, 674_834_720, side=64),
  "DiT-XL/4": _dit(1152, 28, 16, 4, 749_992_448),
  "DiT-XL/8": _dit(1152, 28, 16, 8, 750_656_384),
  "PixArt-alpha, 512 px": _pixart(64, False, 610_856_096),
  "PixArt-alpha, 1024 px": _pixart(128, True, 611_349_152),
  "PixArt-Sigma, 1024 px": _pixart(128, False, 610_856_096),
  "SD3-medium": _sd3(24, 192, 2_028_328_000, qk_norm=False),
  "SD3.5-medium": _sd3(24, 384, 2_243_171_520, dual=13),
  "SD3.5-large": _sd3(38, 192, 8_056_627_520),
  "FLUX.1-dev": _flux(3.5, 11_901_408_320),
  "FLUX.1-schnell": _flux(0.0, 11_891_178_560),
  "FLUX.2-dev": _flux2(6144, 8, 48, 15360, 4.0, 32_223_281_152),
  "FLUX.2-klein-4B": _flux2(3072, 5, 20, 7680, 0.0, 3_875_544_576),
  "FLUX.2-klein-9B": _flux2(4096, 8, 24, 12288, 0.0, 9_078_581_248),
  "Qwen-Image": Size(
    "qwen_image",
    {
      "width": 3072, "depth": 60, "heads": 24, "patch": 2, "channels": 16, "out": 16,
      "text_width": 3584, "rope_axes": (16, 56, 56),
    },
    {},
    20_430_401_088,
  ),
  "Z-Image": Size(
    "z_image",
    {
      "width": 3840, "depth": 30, "refiner_blocks": 2, "heads": 30, "patch": 2, "channels": 16,
      "out": 16, "text_width": 2560, "rope_axes": (32, 48, 48),
    },
    {},
    6_154_908_736,
  ),
  "Stable Diffusion 1.5": _unet(768, 859_520_964, {}, {}),
  "Stable Diffusion 1.5, inpainting": _unet(768, 859_535_364, {}, {}, 5),
  "InstructPix2Pix": _unet(768, 859_532_484, {}, {}, 4),
  "LCM of Stable Diffusion 1.5": _unet(
    768, 859_602_884, {"guidance_width": 256}, {"time_cond_proj_dim": 256}
  ),
  "Stable Diffusion 2.1": _unet(
    1024, 865_910_724, {"heads": _HEADS_2, "linear": True, "side": 96},
    {"attention_head_dim": _HEADS_2, "use_linear_projection": True},
  ),
  "SDXL": _sdxl((320, 640, 1280), (0, 2, 10), 2048, 6, 2_567_463_684),
  "SDXL refiner": _sdxl((384, 768, 1536, 1536), (0, 4, 4, 0), 1280, 5, 2_259_526_660),
}  # fmt: skip
SIZES |= {
  f"ControlNet of {name}": _controlnet(SIZES[name], stored)
  for name, stored in (
    ("Stable Diffusion 1.5", 361_279_120),
    ("Stable Diffusion 2.1", 364_228_240),
    ("SDXL", 1_251_014_160),
  )
}


def _sd3_controlnet(base: Size, depth: int, stored: int, extra: int = 0, zero_pooled: bool = True):
  """The first blocks of an SD3."""
  dual = min(depth, base.config["dual_blocks"])
  ours = {"depth": depth, "dual_blocks": dual, "extra": extra, "zero_pooled": zero_pooled}
  theirs = {
    "num_layers": depth, "extra_conditioning_channels": extra,
    "force_zeros_for_pooled_projection": zero_pooled,
  }  # fmt: skip
  return Size("sd3_controlnet", base.config | ours, base.theirs | theirs, stored)


def _flux_controlnet(double: int, single: int, stored: int):
  """The first blocks of FLUX.1-dev."""
  base = SIZES["FLUX.1-dev"]
  ours = {"double_blocks": double, "single_blocks": single}
  theirs = {"num_layers": double, "num_single_layers": single}
  return Size("flux_controlnet", base.config | ours, base.theirs | theirs, stored)


# Named by their blocks, of which there are as many as a training chose.
SIZES |= {
  "ControlNet of SD3-medium, 6": _sd3_controlnet(SIZES["SD3-medium"], 6, 538_805_760),
  "ControlNet of SD3-medium, 23, with a mask": _sd3_controlnet(
    SIZES["SD3-medium"], 23, 2_023_618_560, 1, zero_pooled=False
  ),
  "ControlNet of SD3.5-medium, 12": _sd3_controlnet(SIZES["SD3.5-medium"], 12, 1_261_169_664),
  "ControlNet of FLUX.1-dev, 5 + 10": _flux_controlnet(5, 10, 3_301_925_888),
  "ControlNet of FLUX.1-dev, 6 + 0": _flux_controlnet(6, 0, 2_140_876_800),
}
