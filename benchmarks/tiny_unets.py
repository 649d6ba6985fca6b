"""Tiny pipelines of diffusers whose backbone is a U-Net.   folder: for files of tokenizers"""

import diffusers

from benchmarks.tiny_parts import clip, kl, made, tokenizer

UNET = {
  "sample_size": 16,
  "block_out_channels": (32, 64),
  "layers_per_block": 1,
  "norm_num_groups": 8,
}
# Of SDXL, its refiner and its ControlNet; then of all but the refiner.
SDXL_STEM = {
  "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
  "attention_head_dim": (2, 4),
  "use_linear_projection": True,
  "addition_embed_type": "text_time",
  "addition_time_embed_dim": 8,
}
SDXL_BASE = SDXL_STEM | {
  "cross_attention_dim": 24 + 32,
  "transformer_layers_per_block": (1, 2),
  "projection_class_embeddings_input_dim": 16 + 6 * 8,
}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def sd1(folder, beside=0, **config):
  unet = made(
    diffusers.UNet2DConditionModel,
    in_channels=4 + beside,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=32,
    attention_head_dim=4,
    **UNET,
    **config,
  )
  return diffusers.StableDiffusionPipeline(
    vae=kl(scaling_factor=0.18215),
    text_encoder=clip(),
    tokenizer=tokenizer(folder, "clip"),
    unet=unet,
    scheduler=diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False),
    safety_checker=None,
    feature_extractor=None,
    requires_safety_checker=False,
  )


CONTROLNET = {
  "block_out_channels": UNET["block_out_channels"],
  "layers_per_block": 1,
  "norm_num_groups": 8,
  "conditioning_embedding_out_channels": (8, 16),  # of an autoencoder that halves once
}


def sd_controlnet(folder, count=1, scheduler=None):
  nets = [
    made(
      diffusers.ControlNetModel,
      seed=10 + i,
      down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
      cross_attention_dim=32,
      attention_head_dim=4,
      **CONTROLNET,
    )
    for i in range(count)
  ]
  parts = sd1(folder).components | {"controlnet": nets if count > 1 else nets[0]}
  parts |= {"scheduler": scheduler} if scheduler else {}
  return diffusers.StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)


def sd_controlnet_two(folder):
  return sd_controlnet(folder, count=2)


def sd_controlnet_heun(folder):
  heun = diffusers.HeunDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1)
  return sd_controlnet(folder, scheduler=heun)


def sd_controlnet_inpaint(folder):
  pipe = sd_controlnet(folder)
  parts = pipe.components | {"unet": sd1(folder, beside=5).unet}
  return diffusers.StableDiffusionControlNetInpaintPipeline(**parts, requires_safety_checker=False)


def sd_controlnet_inpaint_plain(folder):
  """With the U-Net that reads no mask: what is known is put back after every step."""
  table = BETAS | {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
  ddim = diffusers.DDIMScheduler(**table)
  pipe = sd_controlnet(folder, scheduler=ddim)
  return diffusers.StableDiffusionControlNetInpaintPipeline(
    **pipe.components, requires_safety_checker=False
  )


def sd2(folder):
  """The same classes; predicts v, by DDIM."""
  pipe = sd1(folder)
  table = BETAS | {"set_alpha_to_one": False, "prediction_type": "v_prediction"}
  return diffusers.StableDiffusionPipeline(
    **pipe.components | {"scheduler": diffusers.DDIMScheduler(**table)},
    requires_safety_checker=False,
  )


def lcm(folder):
  """Distilled with an embedding of the guidance scale."""
  parts = sd1(folder, time_cond_proj_dim=8).components | {"scheduler": diffusers.LCMScheduler()}
  return diffusers.LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)


def sd_turbo(folder):
  pipe = sd1(folder)
  pipe.scheduler = diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing")
  return pipe


def sdxl_refiner(folder):
  """One encoder, whose pooled text is as wide as its text, and an aesthetic score."""
  base = sdxl(folder)
  unet = made(
    diffusers.UNet2DConditionModel,
    seed=1,
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=32,
    transformer_layers_per_block=2,
    projection_class_embeddings_input_dim=32 + 5 * 8,
    **SDXL_STEM,
    **UNET,
  )
  return diffusers.StableDiffusionXLImg2ImgPipeline(
    vae=base.vae,
    text_encoder=None,
    tokenizer=None,
    text_encoder_2=clip(projected=True, act="gelu", projection=32),
    tokenizer_2=base.tokenizer_2,
    unet=unet,
    scheduler=base.scheduler,
    requires_aesthetics_score=True,
    force_zeros_for_empty_prompt=False,
    add_watermarker=False,
  )


def sdxl_turbo(folder):
  pipe = sdxl(folder)
  pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing")
  return pipe


def sdxl_lcm(folder):
  """As with an LCM-LoRA: guided a little, by two predictions."""
  pipe = sdxl(folder)
  pipe.scheduler = diffusers.LCMScheduler()
  return pipe


def sd_inpaint(folder):
  pipe = sd1(folder, beside=5)
  return diffusers.StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False)


def pix2pix(folder):
  pipe = sd1(folder, beside=4)
  table = BETAS | {"set_alpha_to_one": False, "clip_sample": False, "steps_offset": 1}
  pipe.scheduler = diffusers.DDIMScheduler(**table)
  return diffusers.StableDiffusionInstructPix2PixPipeline(
    **pipe.components, requires_safety_checker=False
  )


def sdxl(folder):
  unet = made(
    diffusers.UNet2DConditionModel,
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    **SDXL_BASE,
    **UNET,
  )
  return diffusers.StableDiffusionXLPipeline(
    vae=kl(scaling_factor=0.13025),
    text_encoder=clip(width=24),
    tokenizer=tokenizer(folder, "clip"),
    text_encoder_2=clip(projected=True, act="gelu"),
    tokenizer_2=tokenizer(folder, "clip", pad="!"),
    unet=unet,
    scheduler=diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
    add_watermarker=False,
  )


def sdxl_controlnet(folder):
  net = made(diffusers.ControlNetModel, seed=10, **SDXL_BASE, **CONTROLNET)
  parts = {k: v for k, v in sdxl(folder).components.items() if k != "image_encoder"}
  return diffusers.StableDiffusionXLControlNetPipeline(
    **parts, controlnet=net, add_watermarker=False
  )
