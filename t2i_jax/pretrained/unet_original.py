"""The U-Net of Stable Diffusion and SDXL in the layout of its authors [2112.10752, its code]."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from t2i_jax.models.unet import MICRO, UNetConfig
from t2i_jax.pretrained.names import Shape
from t2i_jax.pretrained.original import Original, renamed_entries
from t2i_jax.pretrained.unet import UNET, entries

RES = {
  "norm1": "in_layers.0",
  "conv1": "in_layers.2",
  "time_emb_proj": "emb_layers.1",
  "norm2": "out_layers.0",
  "conv2": "out_layers.3",
  "conv_shortcut": "skip_connection",
}
ENDS = {
  "time_embedding.linear_1": "time_embed.0",
  "time_embedding.linear_2": "time_embed.2",
  "time_embedding.cond_proj": "time_embedding.cond_proj",  # which this layout does not have
  "add_embedding.linear_1": "label_emb.0.0",
  "add_embedding.linear_2": "label_emb.0.2",
  "conv_in": "input_blocks.0.0",
  "conv_norm_out": "out.0",
  "conv_out": "out.2",
}
HEADS, HEAD_WIDTH = 8, 64  # of Stable Diffusion 1 in all levels; of the others, wherever linear
SIZE_WIDTH = 256
SIDE_1, SIDE_XL = 64, 128


def unet_name(c: UNetConfig, name: str) -> str:
  """The original name of a tensor of diffusers.

  The blocks of all levels are numbered on, with the convolutions that halve the size.
  """
  stem, kind = name.rsplit(".", 1)
  if stem in ENDS:
    return f"{ENDS[stem]}.{kind}"
  if name.startswith("mid_block."):
    _, what, k, rest = name.split(".", 3)
    at = 1 if what == "attentions" else (2 if c.middle else 1) * int(k)
    return f"middle_block.{at}.{_inside(what, rest)}"
  side, level, what, k, rest = name.split(".", 4)
  i, count = int(level), c.res_blocks + 1
  if what == "downsamplers":
    return f"input_blocks.{(i + 1) * count}.0.op.{kind}"
  if what == "upsamplers":
    after = 1 + (c.depths[len(c.widths) - 1 - i] > 0)
    return f"output_blocks.{(i + 1) * count - 1}.{after}.conv.{kind}"
  down = side == "down_blocks"
  at = i * count + int(k) + down
  where = f"{'input' if down else 'output'}_blocks.{at}.{int(what == 'attentions')}"
  return f"{where}.{_inside(what, rest)}"


def _inside(what: str, rest: str) -> str:
  """The rest of a name in a residual block; that of a transformer is the same."""
  if what == "attentions":
    return rest
  layer, kind = rest.rsplit(".", 1)
  return f"{RES[layer]}.{kind}"


def infer(shapes: Mapping[str, Shape]) -> dict[str, Any]:
  """Heads, the widths of sizes and the side are those of the published models."""
  numbered = (re.match(r"input_blocks\.(\d+)\.", name) for name in shapes)
  count = 1 + max(int(found[1]) for found in numbered if found)
  halves = [i for i in range(1, count) if f"input_blocks.{i}.0.op.weight" in shapes]
  res_blocks = (halves[0] if halves else count) - 1
  firsts = range(1, count, res_blocks + 1)
  widths = tuple(shapes[f"input_blocks.{i}.0.in_layers.2.weight"][0] for i in firsts)
  depths = tuple(_depth(shapes, f"input_blocks.{i}.1") for i in firsts)
  attends = next(name for name in shapes if name.endswith(".attn2.to_k.weight"))
  project = shapes[f"{attends.split('.transformer_blocks.')[0]}.proj_in.weight"]
  text_width, linear = shapes[attends][1], len(project) == 2
  out, read = shapes["out.2.weight"][0], shapes["input_blocks.0.0.weight"][1]
  found = {
    "channels": out,
    "out": out,
    "beside": read - out,
    "text_width": text_width,
    "widths": widths,
    "res_blocks": res_blocks,
    "depths": depths,
    "middle": _depth(shapes, "middle_block.1"),
    "heads": tuple(width // HEAD_WIDTH if linear else HEADS for width in widths),
    "linear": linear,
    "groups": UNetConfig.groups,
  }
  if not linear:
    found["side"] = SIDE_1
  if "label_emb.0.0.weight" in shapes:
    total = shapes["label_emb.0.0.weight"][1]
    n = MICRO[1] if total - MICRO[1] * SIZE_WIDTH == text_width else MICRO[0]
    sizes = {
      "pooled_width": total - n * SIZE_WIDTH,
      "micro_conditions": n,
      "size_width": SIZE_WIDTH,
    }
    found |= sizes | {"side": SIDE_XL}
  return found


def _depth(shapes: Mapping[str, Shape], transformer: str) -> int:
  """The number of blocks of a transformer, 0 where there is none."""
  start = f"{transformer}.transformer_blocks."
  return len({name.removeprefix(start).split(".")[0] for name in shapes if name.startswith(start)})


UNET_ORIGINAL = Original(
  spec=dataclasses.replace(
    UNET, entries=lambda c: renamed_entries(entries(c), lambda name: unet_name(c, name))
  ),
  mark=("time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.0.in_layers.0.weight"),
  infer=infer,
  arguments=("heads", "groups", "pooled_width", "micro_conditions", "size_width", "side"),
)
