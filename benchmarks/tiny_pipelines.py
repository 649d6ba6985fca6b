"""Whole pipelines of diffusers at tiny sizes and random weights, each saved as a folder.

save(name, folder) makes and saves one of PIPELINES. Every constant of a fresh network is made
random, so that a norm or a bias that is left out or swapped is seen.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers

VAE = {
  "block_out_channels": (16, 32),
  "down_block_types": ("DownEncoderBlock2D",) * 2,
  "up_block_types": ("UpDecoderBlock2D",) * 2,
  "norm_num_groups": 8,
  "sample_size": 32,
}
NO_QUANT = {"use_quant_conv": False, "use_post_quant_conv": False}
HEADS = {"attention_head_dim": 16, "num_attention_heads": 2}
WORDS = ("a", "cat", "red", "on", "of", "photo", "▁a", "▁cat", "▁red", "▁on", "▁photo", "▁of")


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


@functools.cache
def letters():
  """The 256 letters that byte-level BPE is written in."""
  from transformers.convert_slow_tokenizer import bytes_to_unicode

  return list(bytes_to_unicode().values())


def clip_tokenizer(folder, pad="<|endoftext|>"):
  """CLIP's tokenizer with four merges, read from its old files."""
  merges = [("c", "a"), ("ca", "t</w>"), ("r", "e"), ("re", "d</w>")]
  vocab = [*letters(), *(letter + "</w>" for letter in letters()), *("".join(m) for m in merges)]
  vocab += ["<|startoftext|>", "<|endoftext|>"]
  folder.mkdir(parents=True)
  (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocab)}))
  lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
  (folder / "merges.txt").write_text("\n".join(lines) + "\n")
  special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": pad}
  about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77} | special
  about["unk_token"] = "<|endoftext|>"
  if pad == "!":
    about["added_tokens_decoder"] = {"0": {"content": "!", "special": True}}
  (folder / "tokenizer_config.json").write_text(json.dumps(about))
  return transformers.CLIPTokenizer.from_pretrained(folder)


CLIP_WORDS = 256 * 2 + 4 + 2


def clip(projected=False, width=32, act="quick_gelu"):
  config = transformers.CLIPTextConfig(
    vocab_size=CLIP_WORDS,
    hidden_size=width,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=77,
    bos_token_id=CLIP_WORDS - 2,
    eos_token_id=CLIP_WORDS - 1,
    pad_token_id=CLIP_WORDS - 1,
    hidden_act=act,
    projection_dim=16,
  )
  cls = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
  return of_config(cls, config, seed=width)


def t5_tokenizer():
  pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
  pieces += [(word, -2.0) for word in WORDS]
  pieces += [(chr(c), -6.0) for c in range(ord("a"), ord("z") + 1) if chr(c) not in WORDS]
  return transformers.T5Tokenizer(vocab=pieces, extra_ids=0)


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
    tokenizer=clip_tokenizer(folder / "clip"),
    text_encoder_2=t5(),
    tokenizer_2=t5_tokenizer(),
    transformer=transformer,
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
    tokenizer=clip_tokenizer(folder / "clip"),
    text_encoder_2=clip(projected=True, act="gelu"),
    tokenizer_2=clip_tokenizer(folder / "clip_2", pad="!"),
    text_encoder_3=t5(64),
    tokenizer_3=t5_tokenizer(),
  )


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
    tokenizer=t5_tokenizer(),
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


class Tiny(NamedTuple):
  """One pipeline.

  make      (folder for tokenizer files that does not exist yet) -> the pipeline
  call      what its call takes besides prompts, sizes and steps
  settings  what our config has for the same
  labels    prompts are numbers of classes
  """

  make: Callable[[Path], Any]
  call: dict[str, Any]
  settings: dict[str, str] = {}  # noqa: RUF012  read only
  labels: bool = False


PLAIN = {"use_resolution_binning": False, "clean_caption": False}
PIPELINES: dict[str, Tiny] = {
  "dit": Tiny(dit, {"guidance_scale": 4.0}, labels=True),
  "pixart_alpha": Tiny(pixart, PLAIN),
  "pixart_sigma": Tiny(pixart_sigma, PLAIN),
  "sd3": Tiny(sd3, {"guidance_scale": 4.0}, {"sampling.cfg": "4.0"}),
  "flux": Tiny(flux, {"guidance_scale": 3.5}),
}
