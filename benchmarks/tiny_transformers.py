"""Tiny pipelines of diffusers whose backbone is a transformer.   folder: for files of tokenizers"""

from functools import partial
from unittest import mock

import diffusers
import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks.tiny_parts import (
  HEADS,
  NO_QUANT,
  VAE,
  clip,
  flow,
  kl,
  made,
  of_config,
  t5,
  tokenizer,
)

FLUX = {
  "in_channels": 16,
  "num_layers": 1,
  "num_single_layers": 1,
  "joint_attention_dim": 32,
  "pooled_projection_dim": 32,
  "axes_dims_rope": (4, 4, 8),
  "guidance_embeds": True,
  **HEADS,
}


def flux(folder):
  transformer = made(diffusers.FluxTransformer2DModel, **FLUX)
  return diffusers.FluxPipeline(
    scheduler=flow(shift=3.0, use_dynamic_shifting=True),
    vae=kl(scaling_factor=0.3611, shift_factor=0.1159, **NO_QUANT),
    text_encoder=clip(),
    tokenizer=tokenizer(folder, "clip"),
    text_encoder_2=t5(),
    tokenizer_2=tokenizer(folder, "t5"),
    transformer=transformer,
  )


def several(nets):
  """One ControlNet, or several as one, which is written as that of the U-Nets is."""
  if len(nets) == 1:
    return nets[0]
  found = SEVERAL[type(nets[0])](nets)
  found.save_pretrained = partial(diffusers.MultiControlNetModel.save_pretrained, found)
  return found


SEVERAL = {
  diffusers.SD3ControlNetModel: diffusers.SD3MultiControlNetModel,
  diffusers.FluxControlNetModel: diffusers.FluxMultiControlNetModel,
}


def flux_controlnet(folder, count=1):
  nets = [made(diffusers.FluxControlNetModel, seed=10 + i, **FLUX) for i in range(count)]
  parts = {k: v for k, v in flux(folder).components.items() if v is not None}
  return diffusers.FluxControlNetPipeline(**parts, controlnet=several(nets))


def flux_controlnet_two(folder):
  return flux_controlnet(folder, count=2)


SD3 = {
  "sample_size": 16,
  "in_channels": 4,
  "out_channels": 4,
  "num_layers": 3,
  "joint_attention_dim": 64,
  "caption_projection_dim": 32,
  "pooled_projection_dim": 32,
  "pos_embed_max_size": 16,
  "dual_attention_layers": (0,),
  "qk_norm": "rms_norm",
  **HEADS,
}


def sd3_controlnet(folder, count=1, zeros=False):
  """Of two blocks of three.   zeros: for the pooled text"""
  how = SD3 | {"num_layers": 2, "force_zeros_for_pooled_projection": zeros}
  nets = [made(diffusers.SD3ControlNetModel, seed=10 + i, **how) for i in range(count)]
  parts = {k: v for k, v in sd3(folder).components.items() if v is not None}
  return diffusers.StableDiffusion3ControlNetPipeline(**parts, controlnet=several(nets))


def sd3_controlnet_two(folder):
  return sd3_controlnet(folder, count=2, zeros=True)


def sd3(folder):
  transformer = made(diffusers.SD3Transformer2DModel, **SD3)
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
