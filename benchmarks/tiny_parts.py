"""Parts of tiny pipelines of diffusers: text encoders, autoencoder, tokenizers, schedulers.

Every constant of a fresh network is made random, so that a norm or a bias that is left out or
swapped is seen.
"""

import diffusers
import torch
import transformers

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
