"""A folder of a Stable Diffusion pipeline as one file of its authors' layout. Needs no torch.

The names are those that pretrained.latent_diffusion reads, the other way; tests/parity holds them
to the converters of diffusers.
"""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from t2i_jax.models.unet import UNetConfig
from t2i_jax.pretrained.folder import open_folder
from t2i_jax.pretrained.latent_diffusion import coder_name
from t2i_jax.pretrained.unet_original import unet_name

Arrays = dict[str, np.ndarray]
OPEN_CLIP = {
  "self_attn.out_proj": "attn.out_proj",
  "layer_norm1": "ln_1",
  "layer_norm2": "ln_2",
  "mlp.fc1": "mlp.c_fc",
  "mlp.fc2": "mlp.c_proj",
}
ENDS = {
  "embeddings.token_embedding.weight": "token_embedding.weight",
  "embeddings.position_embedding.weight": "positional_embedding",
  "final_layer_norm.weight": "ln_final.weight",
  "final_layer_norm.bias": "ln_final.bias",
}


def open_clip(tensors: Arrays) -> Arrays:
  """transformers' text encoder in the layout of open_clip."""
  found: Arrays = {"logit_scale": np.full((), 4.6, np.float32)}
  for name, value in tensors.items():
    name = name.removeprefix("text_model.")
    if name == "text_projection.weight":
      found["text_projection"] = np.ascontiguousarray(value.T)
    elif name in ENDS:
      found[ENDS[name]] = value
    elif ".self_attn.q_proj." in name:
      rows = [tensors[key] for key in _qkv(tensors, name)]
      block = name.split(".")[2]
      kind = name.rsplit(".", 1)[1]
      found[f"transformer.resblocks.{block}.attn.in_proj_{kind}"] = np.concatenate(rows)
    elif "_proj." not in name or "out_proj" in name:
      _, _, block, rest = name.split(".", 3)
      layer, kind = rest.rsplit(".", 1)
      found[f"transformer.resblocks.{block}.{OPEN_CLIP[layer]}.{kind}"] = value
  return found


def _qkv(tensors: Arrays, name: str) -> list[str]:
  """The names of q, k and v, as stored.   name: that of q without its prefix"""
  stored = name if name in tensors else f"text_model.{name}"
  return [stored.replace(".q_proj.", f".{one}_proj.") for one in "qkv"]


def renamed(folder: Path) -> Arrays:
  """The U-Net or the autoencoder of a folder."""
  (path,) = folder.glob("*.safetensors")
  config = open_folder(folder)[1]
  name_of: Any = unet_name if isinstance(config, UNetConfig) else coder_name
  tensors = {name_of(config, name): value for name, value in load_file(path).items()}
  for name, value in tensors.items():  # its attention is 1 x 1 convolutions
    if ".attn_1." in name and value.ndim == 2:
      tensors[name] = value[..., None, None]
  return tensors


def of_folder(root: Path, encoders: dict[str, str]) -> Arrays:
  """All tensors of a pipeline's folder.

  encoders  subfolder -> prefix; one that ends in ".model." has open_clip's layout
  """
  found: Arrays = {"alphas_cumprod": np.zeros(3, np.float32)}
  for part, prefix in (("unet", "model.diffusion_model."), ("vae", "first_stage_model.")):
    found |= {f"{prefix}{name}": value for name, value in renamed(root / part).items()}
  for part, prefix in encoders.items():
    tensors = load_file(root / part / "model.safetensors")
    if prefix.endswith(".model."):
      tensors = open_clip(tensors)
    else:
      with_model = lambda name: name if name.startswith("text_model.") else f"text_model.{name}"
      tensors = {with_model(name): value for name, value in tensors.items()}
    found |= {f"{prefix}{name}": value for name, value in tensors.items()}
  return found


def save(root: Path, encoders: dict[str, str], path: Path) -> Path:
  """Writes the file of a folder."""
  save_file(of_folder(root, encoders), path)
  return path
