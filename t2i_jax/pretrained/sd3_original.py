"""Stable Diffusion 3 and 3.5 as Stability AI published them: one file, no config."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from t2i_jax.models.sd3 import SD3Config
from t2i_jax.pretrained.names import (
  Chunks,
  Entry,
  Rows,
  Shape,
  adaln,
  conv_patches,
  dense,
  embedder,
  heads,
  heads_out,
  mlp,
)
from t2i_jax.pretrained.original import Original, blocks
from t2i_jax.pretrained.sd3 import SD3_SPEC, infer_positions, positions, stacks
from t2i_jax.pretrained.spec import refuse

IMAGE, TEXT = "joint_blocks.{i}.x_block", "joint_blocks.{i}.context_block"
SIDE = 128  # of the latent whose patches are 1 apart; not stored in the file


def _heads(path: str, attn: str, c: SD3Config, first: int) -> list[Entry]:
  q, k, v = (Rows(f"{attn}.qkv", i * c.width, (i + 1) * c.width) for i in range(3))
  norms = (f"{attn}.ln_q.weight", f"{attn}.ln_k.weight") if c.qk_norm else None
  return heads(path, q, k, v, norms, rope=False, first=first)


def _block(stack: str, first: int, c: SD3Config) -> list[Entry]:
  of_image, of_text = 9 if stack == "dual" else 6, 2 if stack == "last" else 6
  modulations = (
    Chunks(f"{IMAGE}.adaLN_modulation.1", of_image),
    Chunks(f"{TEXT}.adaLN_modulation.1", of_text),
  )
  found = adaln(f"{stack}_adaln", *modulations, first=first)
  for stream, name in (("image", IMAGE), ("text", TEXT)):
    found += _heads(f"{stack}/{stream}/heads", f"{name}.attn", c, first)
    if (stream, stack) != ("text", "last"):
      found += heads_out(f"{stack}/{stream}/out", f"{name}.attn.proj", first=first)
      found += mlp(f"{stack}/{stream}/mlp", f"{name}.mlp.fc1", f"{name}.mlp.fc2", first=first)
  if stack == "dual":
    found += _heads("dual/second", f"{IMAGE}.attn2", c, first)
    found += heads_out("dual/second/out", f"{IMAGE}.attn2.proj", first=first)
  return found


def entries(c: SD3Config) -> list[Entry]:
  found = [
    *conv_patches("patch_in", "x_embedder.proj", c.patch),
    *dense("text_in", "context_embedder"),
    *embedder("time_in", "t_embedder.mlp.0", "t_embedder.mlp.2"),
    *embedder("pooled_in", "y_embedder.mlp.0", "y_embedder.mlp.2"),
  ]
  for stack, first in [*stacks(c), ("last", c.depth - 1)]:
    found += _block(stack, first, c)
  return [
    *found,
    *adaln("final_adaln", Chunks("final_layer.adaLN_modulation.1", 2)),
    *dense("head", "final_layer.linear"),
  ]


def infer(shapes: Mapping[str, Shape]) -> dict[str, Any]:
  width, channels, patch, _ = shapes["x_embedder.proj.weight"]
  depth = blocks(shapes, "joint_blocks")
  norm = "joint_blocks.0.x_block.attn.ln_q.weight"
  dual = {name.split(".")[1] for name in shapes if ".x_block.attn2." in name}
  if dual != {str(i) for i in range(len(dual))}:
    raise refuse(f"dual joint_blocks {', '.join(sorted(dual))}, which are not the first blocks")
  positions = shapes["pos_embed"][1]
  return {
    "width": width,
    "depth": depth,
    "heads": width // shapes[norm][0] if norm in shapes else depth,  # as in the original code
    "patch": patch,
    "channels": channels,
    "out": shapes["final_layer.linear.weight"][0] // patch**2,
    "text_width": shapes["context_embedder.weight"][1],
    "pooled_width": shapes["y_embedder.mlp.0.weight"][1],
    "side": SIDE,
    "max_side": round(positions**0.5),
    "dual_blocks": len(dual),
    "qk_norm": norm in shapes,
  }


SD3_ORIGINAL = Original(
  spec=dataclasses.replace(
    SD3_SPEC,
    hf_class="Stable Diffusion 3 in its original layout",
    entries=entries,
    buffers=lambda c: {"pos_embed": positions(c)},
    infer_from_tensors=partial(infer_positions, "pos_embed"),
  ),
  mark=("x_embedder.proj.weight", "joint_blocks.0.x_block.attn.qkv.weight", "pos_embed"),
  infer=infer,
  arguments=("side", "heads"),
)
