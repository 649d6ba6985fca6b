"""Stable Diffusion 3 and 3.5 as diffusers' SD3Transformer2DModel."""

from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from t2i_jax.models.sd3 import SD3, SD3Config
from t2i_jax.pretrained.dit_keys import read_sizes, write_sizes
from t2i_jax.pretrained.names import (
  Chunks,
  Entry,
  adaln,
  conv_patches,
  dense,
  embedder,
  heads,
  heads_out,
  mlp,
)
from t2i_jax.pretrained.positions import coordinates, scaled_rows, sincos_buffer
from t2i_jax.pretrained.spec import Buffer, Spec, must_be, refuse
from t2i_jax.pretrained.tensors import Tensors

BLOCK = "transformer_blocks.{i}"
TABLE = "pos_embed.pos_embed"


def stacks(c: SD3Config) -> list[tuple[str, int]]:
  """Our stacks of blocks but the last, each with the index of its first block in the model."""
  found = [("dual", 0)] if c.dual_blocks else []
  return [*found, ("joint", c.dual_blocks)] if c.joint_blocks else found


def _block(stack: str, first: int, c: SD3Config) -> list[Entry]:
  attn = f"{BLOCK}.attn"
  norms = lambda q, k: (f"{q}.weight", f"{k}.weight") if c.qk_norm else None
  text = Chunks(f"{BLOCK}.norm1_context.linear", 6)
  if stack == "last":  # context_pre_only: the text is only scaled and shifted
    text = Chunks(f"{BLOCK}.norm1_context.linear", 2, swapped=c.width)
  found = [
    *adaln(
      f"{stack}_adaln", Chunks(f"{BLOCK}.norm1.linear", 9 if stack == "dual" else 6), text,
      first=first,
    ),
    *heads(
      f"{stack}/image/heads", f"{attn}.to_q", f"{attn}.to_k", f"{attn}.to_v",
      norms(f"{attn}.norm_q", f"{attn}.norm_k"), rope=False, first=first,
    ),
    *heads_out(f"{stack}/image/out", f"{attn}.to_out.0", first=first),
    *mlp(f"{stack}/image/mlp", f"{BLOCK}.ff.net.0.proj", f"{BLOCK}.ff.net.2", first=first),
    *heads(
      f"{stack}/text/heads", f"{attn}.add_q_proj", f"{attn}.add_k_proj", f"{attn}.add_v_proj",
      norms(f"{attn}.norm_added_q", f"{attn}.norm_added_k"), rope=False, first=first,
    ),
  ]  # fmt: skip
  if stack != "last":
    found += heads_out(f"{stack}/text/out", f"{attn}.to_add_out", first=first)
    up, down = f"{BLOCK}.ff_context.net.0.proj", f"{BLOCK}.ff_context.net.2"
    found += mlp(f"{stack}/text/mlp", up, down, first=first)
  if stack == "dual":
    attn = f"{BLOCK}.attn2"
    found += heads(
      "dual/second", f"{attn}.to_q", f"{attn}.to_k", f"{attn}.to_v",
      norms(f"{attn}.norm_q", f"{attn}.norm_k"), rope=False, first=first,
    )  # fmt: skip
    found += heads_out("dual/second/out", f"{attn}.to_out.0", first=first)
  return found


def stem(c: SD3Config) -> list[Entry]:
  """models.sd3.SD3Stem."""
  inner = "time_text_embed"
  found = [
    *conv_patches("patch_in", "pos_embed.proj", c.patch),
    *dense("text_in", "context_embedder"),
    *embedder(
      "time_in", f"{inner}.timestep_embedder.linear_1", f"{inner}.timestep_embedder.linear_2"
    ),
    *embedder("pooled_in", f"{inner}.text_embedder.linear_1", f"{inner}.text_embedder.linear_2"),
  ]
  for stack, first in stacks(c):
    found += _block(stack, first, c)
  return found


def entries(c: SD3Config) -> list[Entry]:
  return [
    *stem(c),
    *_block("last", c.depth - 1, c),
    *adaln("final_adaln", Chunks("norm_out.linear", 2, swapped=c.width)),
    *dense("head", "proj_out"),
  ]


def positions(c: SD3Config) -> Buffer:
  """The stored table of positions."""
  if not c.step:
    return sincos_buffer(c.width, c.side, c.patch, max_side=c.max_side)
  rows = partial(scaled_rows, c.width, c.max_side, c.step, c.start)
  return Buffer((1, c.max_side**2, c.width), rows, saved=True)


def infer_positions(name: str, c: SD3Config, tensors: Tensors) -> SD3Config:
  """The config with step and start of the stored table `name`, which config.json does not give.

  Returns c unchanged where the stored positions are not equidistant or equal those of config.json.
  """
  stored = tensors.stored.get(name)
  if stored is None or stored.shape != (1, c.max_side**2, c.width):
    return c
  line = tensors.read(name, (slice(0, 1), slice(0, c.max_side), slice(0, c.width)))[0]
  found = coordinates(line.astype(np.float32))
  step, start = np.polyfit(np.arange(c.max_side), found, 1)
  plain = c.side / c.patch / c.max_side
  off = np.max(np.abs(start + step * np.arange(c.max_side) - found))
  if off > 1e-2 or (abs(step - plain) * c.max_side < 1e-2 and abs(start) < 1e-2):
    return c
  # Published step and start are small fractions; half precision stores three digits of them.
  exact = lambda value: float(Fraction(float(value)).limit_denominator(64))
  return replace(c, step=exact(step), start=exact(start))


def fields(k: dict[str, Any]) -> dict[str, Any]:
  """Of SD3Config."""
  width, dual = k["num_attention_heads"] * k["attention_head_dim"], k["dual_attention_layers"]
  if k["caption_projection_dim"] != width:
    raise refuse(
      f"caption_projection_dim = {k['caption_projection_dim']!r}, which must be the width {width}"
    )
  if tuple(dual) != tuple(range(len(dual))):
    raise refuse(f"dual_attention_layers = {dual!r}, which are not the first layers")
  if k["qk_norm"] not in (None, "rms_norm"):
    raise refuse(f"qk_norm = {k['qk_norm']!r}, of which None and 'rms_norm' are supported")
  if not k["pos_embed_max_size"]:
    raise refuse("pos_embed_max_size = None: a model without stored positions is not supported")
  return read_sizes(k) | {
    "text_width": k["joint_attention_dim"],
    "pooled_width": k["pooled_projection_dim"],
    "side": k["sample_size"],
    "max_side": k["pos_embed_max_size"],
    "dual_blocks": len(dual),
    "qk_norm": k["qk_norm"] is not None,
  }


def read(k: dict[str, Any]) -> SD3Config:
  return SD3Config(**fields(k))


def write(c: SD3Config) -> dict[str, Any]:
  must_be("attend_padding", c.attend_padding, True)
  return write_sizes(c) | {
    "sample_size": c.side,
    "joint_attention_dim": c.text_width,
    "caption_projection_dim": c.width,
    "pooled_projection_dim": c.pooled_width,
    "pos_embed_max_size": c.max_side,
    "dual_attention_layers": list(range(c.dual_blocks)),
    "qk_norm": "rms_norm" if c.qk_norm else None,
  }


KEYS: dict[str, Any] = {
  "sample_size": 128,
  "patch_size": 2,
  "in_channels": 16,
  "num_layers": 18,
  "attention_head_dim": 64,
  "num_attention_heads": 18,
  "joint_attention_dim": 4096,
  "caption_projection_dim": 1152,
  "pooled_projection_dim": 2048,
  "out_channels": 16,
  "pos_embed_max_size": 96,
  "dual_attention_layers": (),
  "qk_norm": None,
}
SD3_SPEC = Spec(
  hf_class="SD3Transformer2DModel",
  module=SD3,
  config=SD3Config,
  keys=KEYS,
  fixed={},
  ignored={},
  read=read,
  write=write,
  entries=entries,
  buffers=lambda c: {TABLE: positions(c)},
  infer_from_tensors=partial(infer_positions, TABLE),
)
