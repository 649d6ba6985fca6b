"""FLUX.1 as Black Forest Labs published it: one file, q, k and v in one matrix, no config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from t2i_jax.models.flux import FluxConfig
from t2i_jax.pretrained.flux import FLUX, GUIDANCE, PATCH
from t2i_jax.pretrained.names import (
  Chunks,
  Columns,
  Entry,
  Rows,
  Shape,
  adaln,
  dense,
  embedder,
  heads,
  heads_out,
  mlp,
  packed_in,
  packed_out,
)
from t2i_jax.pretrained.original import Original, blocks
from t2i_jax.pretrained.spec import whole

SINGLE = "single_blocks.{i}"


def _stream(stream: str, name: str, d: int) -> list[Entry]:
  block = f"double_blocks.{{i}}.{name}"
  norm = f"{block}_attn.norm"
  q, k, v = (Rows(f"{block}_attn.qkv", i * d, (i + 1) * d) for i in range(3))
  norms = (f"{norm}.query_norm.scale", f"{norm}.key_norm.scale")
  return [
    *adaln(f"{stream}_adaln", Chunks(f"{block}_mod.lin", 6)),
    *heads(f"double/{stream}/heads", q, k, v, norms, rope=True),
    *heads_out(f"double/{stream}/out", f"{block}_attn.proj"),
    *mlp(f"double/{stream}/mlp", f"{block}_mlp.0", f"{block}_mlp.2"),
  ]


def _single(d: int) -> list[Entry]:
  """q, k, v and the MLP's first matrix are fused; so are the two output projections."""
  fused, out = f"{SINGLE}.linear1", f"{SINGLE}.linear2"
  q, k, v = (Rows(fused, i * d, (i + 1) * d) for i in range(3))
  norms = (f"{SINGLE}.norm.query_norm.scale", f"{SINGLE}.norm.key_norm.scale")
  return [
    *adaln("single_adaln", Chunks(f"{SINGLE}.modulation.lin", 3)),
    *heads("single/heads", q, k, v, norms, rope=True),
    *heads_out("single/out", Columns(out, 0, d)),
    *mlp("single/mlp", Rows(fused, 3 * d, 7 * d), Columns(out, d, 5 * d), down_bias=False),
  ]


def entries(c: FluxConfig) -> list[Entry]:
  embedders = {"time_in": "time_in", "pooled_in": "vector_in"}
  embedders |= {"guidance_in": "guidance_in"} if c.guidance else {}
  found = [*packed_in("patch_in", "img_in", c.patch), *dense("text_in", "txt_in")]
  for path, name in embedders.items():
    found += embedder(path, f"{name}.in_layer", f"{name}.out_layer")
  return [
    *found,
    *_stream("image", "img", c.width),
    *_stream("text", "txt", c.width),
    *_single(c.width),
    *adaln("final_adaln", Chunks("final_layer.adaLN_modulation.1", 2)),
    *packed_out("head", "final_layer.linear", c.patch),
  ]


def infer(shapes: Mapping[str, Shape]) -> dict[str, Any]:
  width, packed = shapes["img_in.weight"]
  head = shapes["double_blocks.0.img_attn.norm.query_norm.scale"][0]
  found = {
    "width": width,
    "double_blocks": blocks(shapes, "double_blocks"),
    "single_blocks": blocks(shapes, "single_blocks"),
    "heads": width // head,
    "patch": PATCH,
    "channels": whole("columns of img_in.weight", packed, PATCH**2),
    "out": whole("rows of final_layer.linear", shapes["final_layer.linear.weight"][0], PATCH**2),
    "text_width": shapes["txt_in.weight"][1],
    "pooled_width": shapes["vector_in.in_layer.weight"][1],
    "guidance": GUIDANCE if "guidance_in.in_layer.weight" in shapes else 0.0,
  }
  return found | ({"rope_axes": (16, 56, 56)} if head == 128 else {})


FLUX_ORIGINAL = Original(
  spec=dataclasses.replace(FLUX, hf_class="FLUX.1 in its original layout", entries=entries),
  mark=("img_in.weight", "vector_in.in_layer.weight", "single_blocks.0.linear1.weight"),
  infer=infer,
  arguments=("rope_axes",),
)
