"""Stable Diffusion 1, 2, SDXL and its refiner as their authors publish them: one file of all parts.

Its networks have other names than in diffusers' folders, and OpenCLIP's text encoder fused matrices
[2112.10752, its code; open_clip]. The file holds no configs, tokenizers and scheduler: a part of a
system, which has its config, reads its weights from there by `parts.<name>.start = "file:PATH"`.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from t2i_jax.autoencoders.kl import KLConfig
from t2i_jax.errors import RestoreError
from t2i_jax.models.params import Params
from t2i_jax.pretrained.folder import named, read_params
from t2i_jax.pretrained.known import spec_for
from t2i_jax.pretrained.names import (
  Entry,
  Part,
  Rows,
  heads,
  heads_out,
  layer_norm,
  mlp,
)
from t2i_jax.pretrained.original import renamed_entries
from t2i_jax.pretrained.single_file import ORIGINALS, PREFIX, check_file
from t2i_jax.pretrained.spec import Spec
from t2i_jax.pretrained.tensors import Found, Tensors, some
from t2i_jax.towers import ClipConfig

# Part of a system -> prefixes of its tensors, of which a file has one. Those of OpenCLIP's layout
# end in OPEN. A refiner's only encoder is the second one of its pipeline.
OPEN = ".model."
PREFIXES = {
  "backbone": (PREFIX,),
  "vae": ("first_stage_model.", "vae."),
  "text_encoder": (
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
    "conditioner.embedders.0.transformer.",
  ),
  "text_encoder_2": ("conditioner.embedders.1.model.", "conditioner.embedders.0.model."),
}
CODER = {
  "conv_shortcut": "nin_shortcut",
  "conv_norm_out": "norm_out",
  "group_norm": "norm",
  "to_q": "q",
  "to_k": "k",
  "to_v": "v",
  "to_out.0": "proj_out",
  "downsamplers.0": "downsample",
  "upsamplers.0": "upsample",
}


def parts_of(path: str | Path) -> tuple[str, ...]:
  """The parts that a file holds, of PREFIXES. Raises RestoreError where it holds none of them."""
  with Tensors() as tensors:
    tensors.add(check_file(path))
    names = tuple(tensors.stored)
  found = tuple(part for part in PREFIXES if _prefix(part, names) is not None)
  if any(all(mark in names for mark in one.mark) for one in ORIGINALS):
    found = ("backbone",)  # of a file without prefixes
  if not found:
    every = ", ".join(prefix for prefixes in PREFIXES.values() for prefix in prefixes)
    raise RestoreError(f"{path} has {some(names)}: no names that begin with {every}.")
  return found


def _prefix(part: str, names: Iterable[str]) -> str | None:
  """The prefix of a part's tensors among these names; None: there are none."""
  found = (one for one in PREFIXES[part] if any(name.startswith(one) for name in names))
  return next(found, None)


def read_file(
  path: str | Path, part: str, config: Any, shardings: Params, dtype: Any = jnp.float32
) -> Params:
  """The weights of one part of a file for a network of this config, placed by these shardings.

  part  its name in the system, one of PREFIXES
  Raises RestoreError for a file that is damaged, without that part, or of another model.
  """
  with Tensors() as tensors:
    tensors.add(check_file(path))
    prefix = _prefix(part, tensors.stored) if part in PREFIXES else None
    if prefix is not None:
      tensors.keep(prefix)
    elif part != "backbone":
      raise RestoreError(f"{path} has no {part}: it holds {', '.join(parts_of(path))}.")
    spec = _spec(config, (prefix or "").endswith(OPEN))
    found = named(spec, Found(tensors, [], set()))
    return read_params(spec, config, found, f"{path} ({part})", shardings, dtype)


def _spec(config: Any, open_clip: bool) -> Spec:
  """The spec of a network's config in this layout."""
  for original in ORIGINALS:
    if isinstance(config, original.spec.config):
      return original.spec
  spec = spec_for(config)
  if isinstance(config, KLConfig):
    of_names = lambda c: renamed_entries(spec.entries(c), lambda name: coder_name(c, name))
    return dataclasses.replace(
      spec, entries=of_names, renamed=lambda name: name, squeezed=lambda name: ".attn" in name
    )
  if isinstance(config, ClipConfig) and open_clip:
    return dataclasses.replace(
      spec, entries=open_clip_entries, renamed=_open_clip_name, unused=_open_clip_unused
    )
  return spec


def coder_name(c: KLConfig, name: str) -> str:
  """The original name of a tensor of diffusers' autoencoder. Levels of its decoder are counted
  from the largest size."""
  up = lambda found: f"up.{len(c.widths) - 1 - int(found[1])}."
  name = re.sub(r"\bup_blocks\.(\d+)\.", up, name)
  name = re.sub(r"\bdown_blocks\.(\d+)\.", r"down.\1.", name)
  name = re.sub(r"\bmid_block\.resnets\.(\d)", lambda k: f"mid.block_{int(k[1]) + 1}", name)
  name = name.replace("mid_block.attentions.0", "mid.attn_1")
  name = name.replace(".resnets.", ".block.").replace(".attentions.", ".attn.")
  for theirs, original in CODER.items():
    name = name.replace(f".{theirs}.", f".{original}.")
  return name


def open_clip_entries(c: ClipConfig) -> list[Entry]:
  """The text encoder of open_clip, q, k and v of a block in one matrix. `_open_clip_name` first."""
  block, d = "transformer.resblocks.{i}", c.width
  q, k, v = (Rows(f"{block}.attn.in_proj", i * d, (i + 1) * d) for i in range(3))
  found = [
    Entry("embedding", (Part("token_embedding.weight", "v d -> v d"),)),
    Entry("place", (Part("positional_embedding", "l d -> l d"),)),
    *layer_norm("blocks/attn_norm", f"{block}.ln_1"),
    *heads("blocks/attn", q, k, v, None, rope=False),
    *heads_out("blocks/attn/out", f"{block}.attn.out_proj"),
    *layer_norm("blocks/mlp_norm", f"{block}.ln_2"),
    *mlp("blocks/mlp", f"{block}.mlp.c_fc", f"{block}.mlp.c_proj"),
    *layer_norm("norm", "ln_final"),
  ]
  projection = Entry("projection/kernel", (Part("text_projection", "i o -> i o"),))
  return found + ([projection] if c.projection else [])


def _open_clip_name(name: str) -> str | None:
  if name in ("logit_scale", "attn_mask"):
    return None
  return re.sub(r"\.in_proj_(weight|bias)$", r".in_proj.\1", name)


def _open_clip_unused(c: ClipConfig) -> Callable[[str], bool]:
  """Stable Diffusion 2 takes the last hidden state but one, and its folder has no block after it
  and no projection."""
  last = f"transformer.resblocks.{c.depth}."
  return lambda name: not c.projection and (name == "text_projection" or name.startswith(last))
