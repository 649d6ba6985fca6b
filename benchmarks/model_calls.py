"""How the transformers of diffusers are called on the cases of published_cases. Needs torch."""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from einops import rearrange

from benchmarks.model_cases import Given


def pack(x: torch.Tensor, patch: int) -> torch.Tensor:
  return rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


def unpack(tokens: torch.Tensor, patch: int, like: torch.Tensor) -> torch.Tensor:
  """The first tokens, as many as `like` has, as an image."""
  rows, cols = like.shape[2] // patch, like.shape[3] // patch
  own, pattern = tokens[:, : rows * cols], "b (h w) (c p q) -> b c (h p) (w q)"
  return rearrange(own, pattern, h=rows, p=patch, q=patch)


def grid_ids(x: torch.Tensor, patch: int, axes: int, first: int = 0) -> torch.Tensor:
  """(first, row, column, 0 ...) of every patch of an image."""
  rows, cols = x.shape[2] // patch, x.shape[3] // patch
  ids = torch.zeros(rows, cols, axes)
  ids[..., 0] = first
  ids[..., 1], ids[..., 2] = torch.arange(rows)[:, None], torch.arange(cols)
  return ids.reshape(-1, axes)


def class_dit(model: Any, g: Given) -> torch.Tensor:
  return model(g.x, timestep=g.times, class_labels=g.label).sample


def pixart(model: Any, g: Given) -> torch.Tensor:
  told = model.config.use_additional_conditions
  sizes = {"resolution": g.size if told else None, "aspect_ratio": g.aspect if told else None}
  return model(
    g.x, encoder_hidden_states=g.text, timestep=g.times, added_cond_kwargs=sizes,
    encoder_attention_mask=g.mask.to(g.x.dtype),
  ).sample  # fmt: skip


def sd3(model: Any, g: Given) -> torch.Tensor:
  return model(g.x, g.text, g.pooled, g.times).sample


def flux(model: Any, g: Given) -> torch.Tensor:
  guidance = g.guidance if model.config.guidance_embeds else None
  words = torch.zeros(g.text.shape[1], 3)
  ids = grid_ids(g.x, 2, 3)
  out = model(pack(g.x, 2), g.text, g.pooled, g.times / 1000, ids, words, guidance).sample
  return unpack(out, 2, g.x)


def flux2(model: Any, g: Given) -> torch.Tensor:
  """Reference i is 10 (i + 1) away on the first axis, as Flux2Pipeline has it."""
  words = torch.zeros(g.text.shape[1], 4)
  words[:, 3] = torch.arange(len(words))
  images = (g.x, *g.references)
  tokens = torch.cat([pack(image, 1) for image in images], dim=1)
  ids = torch.cat([grid_ids(image, 1, 4, 10 * i) for i, image in enumerate(images)])
  guidance = g.guidance if model.config.guidance_embeds else None
  return unpack(model(tokens, g.text, g.times / 1000, ids, words, guidance).sample, 1, g.x)


def qwen_image(model: Any, g: Given) -> torch.Tensor:
  images = (g.x, *g.references)
  tokens = torch.cat([pack(image, 2) for image in images], dim=1)
  shapes = [[(1, image.shape[2] // 2, image.shape[3] // 2) for image in images]] * len(g.x)
  return unpack(model(tokens, g.text, g.mask, g.times / 1000, shapes).sample, 2, g.x)


def z_image(model: Any, g: Given) -> torch.Tensor:
  words = [row[seen] for row, seen in zip(g.text, g.mask, strict=True)]
  out = model(list(g.x[:, :, None]), 1 - g.times / 1000, words).sample
  return -torch.stack(list(out))[:, :, 0]


def unet(model: Any, g: Given) -> torch.Tensor:
  width = model.config.time_cond_proj_dim
  scale = diffusers.StableDiffusionPipeline.get_guidance_scale_embedding
  told = None if width is None else scale(None, g.guidance - 1, width).to(g.x.dtype)
  added = {"text_embeds": g.pooled, "time_ids": g.micro_conditions}
  return model(
    g.x, g.times, g.text, timestep_cond=told, encoder_attention_mask=g.mask,
    added_cond_kwargs=added,
  ).sample  # fmt: skip


def controlnet(model: Any, g: Given) -> torch.Tensor:
  """All residuals in one row; its image is as in model_cases.answered."""
  added = {"text_embeds": g.pooled, "time_ids": g.micro_conditions}
  image = g.references[0][:, :3]
  skips, middle = model(
    g.x, g.times, g.text, image, added_cond_kwargs=added, return_dict=False
  )  # fmt: skip
  return torch.cat([r.flatten(1) for r in (*skips, middle)], dim=1)[:, None, None]


def sd3_controlnet(model: Any, g: Given) -> torch.Tensor:
  """As model_cases.answered."""
  x = g.x[:, : model.config.in_channels]
  zeros = model.config.force_zeros_for_pooled_projection  # in its pipeline
  pooled = torch.zeros_like(g.pooled) if zeros else g.pooled
  found = model(
    x, g.references[0], encoder_hidden_states=g.text, pooled_projections=pooled, timestep=g.times
  ).controlnet_block_samples  # fmt: skip
  return torch.cat([r.flatten(1) for r in found], dim=1)[:, None, None]


def flux_controlnet(model: Any, g: Given) -> torch.Tensor:
  guidance = g.guidance if model.config.guidance_embeds else None
  found = model(
    pack(g.x, 2), pack(g.references[0], 2), encoder_hidden_states=g.text,
    pooled_projections=g.pooled, timestep=g.times / 1000, img_ids=grid_ids(g.x, 2, 3),
    txt_ids=torch.zeros(g.text.shape[1], 3), guidance=guidance, return_dict=False,
  )  # fmt: skip
  return torch.cat([r.flatten(1) for kind in found for r in kind or ()], dim=1)[:, None, None]


CALLS: dict[str, Callable[[Any, Given], torch.Tensor]] = {
  "DiTTransformer2DModel": class_dit,
  "PixArtTransformer2DModel": pixart,
  "SD3Transformer2DModel": sd3,
  "FluxTransformer2DModel": flux,
  "Flux2Transformer2DModel": flux2,
  "QwenImageTransformer2DModel": qwen_image,
  "ZImageTransformer2DModel": z_image,
  "UNet2DConditionModel": unet,
  "ControlNetModel": controlnet,
  "SD3ControlNetModel": sd3_controlnet,
  "FluxControlNetModel": flux_controlnet,
}
