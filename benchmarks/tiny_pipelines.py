"""Whole pipelines of diffusers at tiny sizes and random weights, each saved as a folder.

save(name, folder) makes and saves one of PIPELINES. Every constant of a fresh network is made
random, so that a norm or a bias that is left out or swapped is seen.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import diffusers
import torch
import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks import tiny_tokenizers

VAE = {
  "block_out_channels": (16, 32),
  "down_block_types": ("DownEncoderBlock2D",) * 2,
  "up_block_types": ("UpDecoderBlock2D",) * 2,
  "norm_num_groups": 8,
  "sample_size": 32,
}
NO_QUANT = {"use_quant_conv": False, "use_post_quant_conv": False}
HEADS = {"attention_head_dim": 16, "num_attention_heads": 2}


def randomised(module, seed):
  """The module in eval mode, each of its constants random."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for tensor in (*module.parameters(), *module.buffers()):
      if tensor.is_floating_point() and tensor.numel() > 1 and tensor.std() == 0:
        tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    for name, tensor in module.named_buffers():
      if name.endswith("running_var"):
        tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
  return module.eval()


def made(cls, seed=0, **config):
  torch.manual_seed(seed)
  return randomised(cls(**config), seed)


def of_config(cls, config, seed=0):
  torch.manual_seed(seed)
  return randomised(cls(config), seed)


def tokenizer(folder, kind, **how):
  """One of tiny_tokenizers.KINDS, written to a new folder."""
  path = folder / str(len(list(folder.iterdir())) if folder.is_dir() else 0)
  tiny_tokenizers.KINDS[kind](path, **how)
  return transformers.AutoTokenizer.from_pretrained(path)


def clip(projected=False, width=32, act="quick_gelu", projection=16):
  config = transformers.CLIPTextConfig(
    vocab_size=tiny_tokenizers.CLIP_VOCAB,
    hidden_size=width,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=77,
    bos_token_id=tiny_tokenizers.CLIP_VOCAB - 2,
    eos_token_id=tiny_tokenizers.CLIP_VOCAB - 1,
    pad_token_id=tiny_tokenizers.CLIP_VOCAB - 1,
    hidden_act=act,
    projection_dim=projection,
  )
  cls = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
  return of_config(cls, config, seed=width)


def t5(width=32):
  config = transformers.T5Config(
    vocab_size=64,
    d_model=width,
    d_kv=8,
    d_ff=64,
    num_layers=2,
    num_heads=4,
    feed_forward_proj="gated-gelu",
    is_encoder_decoder=False,
  )
  return of_config(transformers.T5EncoderModel, config, seed=3)


def kl(channels=4, **config):
  return made(diffusers.AutoencoderKL, latent_channels=channels, **VAE, **config)


def flow(**config):
  return diffusers.FlowMatchEulerDiscreteScheduler(**config)


def flux(folder):
  transformer = made(
    diffusers.FluxTransformer2DModel,
    in_channels=16,
    num_layers=1,
    num_single_layers=1,
    joint_attention_dim=32,
    pooled_projection_dim=32,
    axes_dims_rope=(4, 4, 8),
    guidance_embeds=True,
    **HEADS,
  )
  return diffusers.FluxPipeline(
    scheduler=flow(shift=3.0, use_dynamic_shifting=True),
    vae=kl(scaling_factor=0.3611, shift_factor=0.1159, **NO_QUANT),
    text_encoder=clip(),
    tokenizer=tokenizer(folder, "clip"),
    text_encoder_2=t5(),
    tokenizer_2=tokenizer(folder, "t5"),
    transformer=transformer,
  )


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


def sd3(folder):
  transformer = made(
    diffusers.SD3Transformer2DModel,
    sample_size=16,
    in_channels=4,
    out_channels=4,
    num_layers=3,
    joint_attention_dim=64,
    caption_projection_dim=32,
    pooled_projection_dim=32,
    pos_embed_max_size=16,
    dual_attention_layers=(0,),
    qk_norm="rms_norm",
    **HEADS,
  )
  return diffusers.StableDiffusion3Pipeline(
    transformer=transformer,
    scheduler=flow(shift=3.0),
    vae=kl(scaling_factor=1.5305, shift_factor=0.0609, **NO_QUANT),
    text_encoder=clip(projected=True, width=24),
    tokenizer=tokenizer(folder, "clip"),
    text_encoder_2=clip(projected=True, act="gelu"),
    tokenizer_2=tokenizer(folder, "clip", pad="!"),
    text_encoder_3=t5(64),
    tokenizer_3=tokenizer(folder, "t5"),
  )


def sd3_without_t5(folder):
  pipe = sd3(folder)
  pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
  return pipe


def pixart(folder, cls=None):
  transformer = made(
    diffusers.PixArtTransformer2DModel,
    num_layers=2,
    cross_attention_dim=32,
    caption_channels=32,
    in_channels=4,
    out_channels=8,
    sample_size=16,
    use_additional_conditions=False,
    **HEADS,
  )
  return (cls or diffusers.PixArtAlphaPipeline)(
    tokenizer=tokenizer(folder, "t5"),
    text_encoder=t5(),
    vae=kl(),
    transformer=transformer,
    scheduler=diffusers.DPMSolverMultistepScheduler(),
  )


def pixart_sigma(folder):
  return pixart(folder, diffusers.PixArtSigmaPipeline)


def dit(folder):
  transformer = made(
    diffusers.DiTTransformer2DModel,
    in_channels=4,
    out_channels=8,
    num_layers=2,
    sample_size=16,
    num_embeds_ada_norm=1000,
    **HEADS,
  )
  first, *others = (block.norm1.emb for block in transformer.transformer_blocks)
  for emb in others:  # published folders hold the same embedder in each block
    emb.load_state_dict(first.state_dict())
  labels = {i: f"class {i}, kind {i}" for i in range(1000)}
  scheduler = diffusers.DDIMScheduler(clip_sample=False)
  return diffusers.DiTPipeline(transformer, kl(), scheduler, id2label=labels)


LANGUAGE = {
  "vocab_size": 272,
  "hidden_size": 32,
  "intermediate_size": 64,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
}


def z_image(folder):
  transformer = made(
    diffusers.ZImageTransformer2DModel,
    in_channels=16,
    dim=48,
    n_layers=2,
    n_refiner_layers=1,
    n_heads=4,
    n_kv_heads=4,
    cap_feat_dim=32,
    axes_dims=(4, 4, 4),
    axes_lens=(512, 32, 32),
  )
  config = transformers.Qwen3Config(head_dim=16, max_position_embeddings=512, **LANGUAGE)
  return diffusers.ZImagePipeline(
    scheduler=flow(shift=3.0),
    vae=kl(16, scaling_factor=0.3611, shift_factor=0.1159, **NO_QUANT),
    text_encoder=of_config(transformers.Qwen3Model, config),
    tokenizer=tokenizer(folder, "qwen"),
    transformer=transformer,
  )


def processor(opened):
  """The processor of images and texts, without that of videos, which needs torchvision."""
  with mock.patch.object(transformers.Qwen2VLProcessor, "check_argument_for_proper_class"):
    made = transformers.Qwen2VLProcessor(Qwen2VLImageProcessorPil(), opened, None)
  made.save_pretrained = made.image_processor.save_pretrained
  return made


def qwen_image_edit(folder, cls=diffusers.QwenImageEditPipeline):
  plain = qwen_image(folder)
  return cls(**plain.components, processor=processor(plain.tokenizer))


def qwen_image_edit_plus(folder):
  return qwen_image_edit(folder, diffusers.QwenImageEditPlusPipeline)


def qwen_image(folder):
  opened = tokenizer(folder, "qwen")
  transformer = made(
    diffusers.QwenImageTransformer2DModel,
    in_channels=16,
    out_channels=4,
    num_layers=2,
    joint_attention_dim=32,
    axes_dims_rope=(4, 4, 8),
    **HEADS,
  )
  rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
  vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2}
  vision |= {"out_hidden_size": 32, "fullatt_block_indexes": [0]}
  config = transformers.Qwen2_5_VLConfig(
    text_config=LANGUAGE | {"rope_parameters": rope},
    vision_config=vision,
    image_token_id=opened.convert_tokens_to_ids("<|image_pad|>"),
  )
  vae = made(
    diffusers.AutoencoderKLQwenImage,
    base_dim=12,
    z_dim=4,
    dim_mult=[1, 2],
    num_res_blocks=1,
    temperal_downsample=[False],
    latents_mean=[0.1, -0.2, 0.3, 0.0],
    latents_std=[1.1, 0.9, 1.3, 0.7],
  )
  dynamic = {"use_dynamic_shifting": True, "max_shift": 0.9, "max_image_seq_len": 8192}
  return diffusers.QwenImagePipeline(
    scheduler=flow(shift_terminal=0.02, **dynamic),
    vae=vae,
    text_encoder=of_config(transformers.Qwen2_5_VLForConditionalGeneration, config),
    tokenizer=opened,
    transformer=transformer,
  )


def flux2_parts(guidance):
  transformer = made(
    diffusers.Flux2Transformer2DModel,
    in_channels=32,
    num_layers=1,
    num_single_layers=2,
    joint_attention_dim=96,
    axes_dims_rope=(4, 4, 4, 4),
    guidance_embeds=guidance,
    **HEADS,
  )
  vae = made(diffusers.AutoencoderKLFlux2, latent_channels=8, **VAE)
  return {
    "scheduler": flow(shift=3.0, use_dynamic_shifting=True),
    "vae": vae,
    "transformer": transformer,
  }


def flux2(folder):
  config = transformers.Mistral3Config(
    text_config=LANGUAGE | {"model_type": "mistral", "num_hidden_layers": 4, "head_dim": 8},
    vision_config={
      "model_type": "pixtral",
      "hidden_size": 16,
      "intermediate_size": 32,
      "num_hidden_layers": 1,
      "num_attention_heads": 2,
      "head_dim": 8,
      "image_size": 28,
      "patch_size": 14,
    },
  )
  return diffusers.Flux2Pipeline(
    text_encoder=of_config(transformers.Mistral3ForConditionalGeneration, config),
    tokenizer=tokenizer(folder, "mistral"),
    **flux2_parts(guidance=True),
  )


def klein(folder):
  config = transformers.Qwen3Config(head_dim=16, max_position_embeddings=1024, **LANGUAGE)
  return diffusers.Flux2KleinPipeline(
    text_encoder=of_config(transformers.Qwen3ForCausalLM, config),
    tokenizer=tokenizer(folder, "qwen"),
    is_distilled=False,
    **flux2_parts(guidance=False),
  )


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
  "sd1": Tiny(sd1, {"guidance_scale": 7.5}),
  "sd2": Tiny(sd2, {"guidance_scale": 7.5}),
  "sd_inpaint": Tiny(sd_inpaint, {"guidance_scale": 7.5}, images=((32, 32),), fills=True),
  "pix2pix": Tiny(
    pix2pix, {"guidance_scale": 7.5, "image_guidance_scale": 1.5}, images=((32, 32),), prompts=1
  ),
  "sd_controlnet": Tiny(
    sd_controlnet,
    {"guidance_scale": 7.5, "controlnet_conditioning_scale": 0.7, "control_guidance_end": 0.5},
    controls={"count": 1, "scales": [0.7], "ends": [0.5]},
  ),
  "sd_controlnet, two": Tiny(
    sd_controlnet_two,
    {
      "guidance_scale": 7.5,
      "controlnet_conditioning_scale": [0.7, 1.3],
      "control_guidance_start": [0.0, 0.4],
      "control_guidance_end": [0.5, 1.0],
    },
    controls={"count": 2, "scales": [0.7, 1.3], "starts": [0.0, 0.4], "ends": [0.5, 1.0]},
  ),
  "sd_controlnet, guess": Tiny(
    sd_controlnet_heun,
    {"guidance_scale": 3.0, "guess_mode": True, "control_guidance_start": 0.3},
    {"sampling.cfg": "3.0"},
    controls={"count": 1, "starts": [0.3], "guess": True},
  ),
  "sd_controlnet_inpaint": Tiny(
    sd_controlnet_inpaint,
    {"guidance_scale": 7.5, "controlnet_conditioning_scale": 0.7, "strength": 1.0},
    images=((32, 32),),
    fills=True,
    controls={"count": 1, "scales": [0.7]},
  ),
  "sdxl": Tiny(sdxl, {"guidance_scale": 5.0}),
  "sdxl_refiner": Tiny(
    sdxl_refiner, {"guidance_scale": 5.0}, images=((32, 32),), strength=0.75, least=4
  ),
  "lcm": Tiny(lcm, {"guidance_scale": 8.5}),
  "sd_turbo": Tiny(sd_turbo, {"guidance_scale": 0.0}, {"sampling.cfg": "0.0"}),
  "sdxl_turbo": Tiny(sdxl_turbo, {"guidance_scale": 0.0}, {"sampling.cfg": "0.0"}),
  "sdxl_lcm": Tiny(sdxl_lcm, {"guidance_scale": 1.5}, {"sampling.cfg": "1.5"}),
  "sdxl_controlnet": Tiny(
    sdxl_controlnet,
    {"guidance_scale": 5.0, "controlnet_conditioning_scale": 0.7},
    controls={"count": 1, "scales": [0.7]},
  ),
  "dit": Tiny(dit, {"guidance_scale": 4.0}, labels=True),
  "pixart_alpha": Tiny(pixart, PLAIN, least=2),
  "pixart_sigma": Tiny(pixart_sigma, PLAIN),
  "sd3 without T5": Tiny(sd3_without_t5, {"guidance_scale": 4.0}, {"sampling.cfg": "4.0"}),
  "sd3": Tiny(sd3, {"guidance_scale": 4.0}, {"sampling.cfg": "4.0"}),
  "flux": Tiny(flux, {"guidance_scale": 3.5}),
  "flux2": Tiny(flux2, {"guidance_scale": 4.0, "text_encoder_out_layers": LAYERS}, layers=LAYERS),
  "flux2, shown two images": Tiny(
    flux2,
    {"guidance_scale": 4.0, "text_encoder_out_layers": LAYERS},
    layers=LAYERS,
    images=((64, 64), (64, 96)),
  ),
  "flux2_klein": Tiny(
    klein, {"guidance_scale": 4.0, "text_encoder_out_layers": LAYERS}, layers=LAYERS
  ),
  "qwen_image": Tiny(qwen_image, {"true_cfg_scale": 4.0, "negative_prompt": [" ", " "]}, least=2),
  "qwen_image_edit": Tiny(
    qwen_image_edit,
    {"true_cfg_scale": 4.0, "negative_prompt": " "},
    images=((60, 100),),
    area=AREA,
    prompts=1,
    least=2,
  ),
  "qwen_image_edit_plus": Tiny(
    qwen_image_edit_plus,
    {"true_cfg_scale": 4.0, "negative_prompt": " "},
    images=((64, 64), (60, 100)),
    area=AREA,
    prompts=1,
    least=2,
  ),
  "z_image": Tiny(z_image, {"guidance_scale": 5.0}),
}
