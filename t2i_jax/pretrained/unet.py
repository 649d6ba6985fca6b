"""The U-Net of Stable Diffusion and SDXL as diffusers' UNet2DConditionModel."""

from typing import Any

from t2i_jax.models.unet import RES_EPS, StemConfig, UNet, UNetConfig
from t2i_jax.pretrained.coder import Layout, conv, group_norm, pointwise, res
from t2i_jax.pretrained.names import (
  Entry,
  Rows,
  dense,
  embedder,
  heads,
  heads_out,
  layer_norm,
  matrix,
  vector,
)
from t2i_jax.pretrained.spec import Spec, check_counts, refuse, whole

DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


def geglu(path: str, up: str, down: str, hidden: int) -> list[Entry]:
  """models.layers.FeedForward "geglu_erf": of the published matrix the second half is the gate."""
  halves = enumerate((Rows(up, hidden, 2 * hidden), Rows(up, 0, hidden)))
  kernels, rows = [], []
  for slot, half in halves:
    kernels.append(matrix(half, "f d -> d 1 f", (1, slot, slot + 1)))
    rows.append(vector(half, "f -> 1 f", (0, slot, slot + 1)))
  return [
    Entry(f"{path}/up/kernel", tuple(kernels)),
    Entry(f"{path}/up/bias", tuple(rows)),
    *dense(f"{path}/down", down),
  ]


def res_block(path: str, name: str, widens: bool) -> list[Entry]:
  """models.convolution.ResBlock with a time."""
  return [*dense(f"{path}/time", f"{name}.time_emb_proj"), *res(Layout(), path, name, widens)]


def transformer(c: StemConfig, path: str, name: str, width: int) -> list[Entry]:
  """models.unet.SpatialTransformer."""
  project = dense if c.linear else pointwise
  found = group_norm(f"{path}/norm", f"{name}.norm")
  for which in ("proj_in", "proj_out"):
    found += project(f"{path}/{which}", f"{name}.{which}")
  block = f"{name}.transformer_blocks.{{i}}"
  for ours, norm, theirs in (("attn", "norm1", "attn1"), ("cross", "norm2", "attn2")):
    q, k, v = (f"{block}.{theirs}.to_{x}" for x in "qkv")
    found += layer_norm(f"{path}/blocks/{ours}_norm", f"{block}.{norm}")
    found += heads(f"{path}/blocks/{ours}", q, k, v, None, rope=False, bias=False)
    found += heads_out(f"{path}/blocks/{ours}/out", f"{block}.{theirs}.to_out.0")
  found += layer_norm(f"{path}/blocks/mlp_norm", f"{block}.norm3")
  up, down = f"{block}.ff.net.0.proj", f"{block}.ff.net.2"
  return found + geglu(f"{path}/blocks/mlp", up, down, 4 * width)


def level(c: StemConfig, path: str, name: str, i: int, inputs: list[int]) -> list[Entry]:
  """models.unet.Level.   i: of the level;   inputs: channels of each block's input"""
  found = []
  for k, width in enumerate(inputs):
    found += res_block(f"{path}/res{k}", f"{name}.resnets.{k}", width != c.widths[i])
    if c.depths[i]:
      found += transformer(c, f"{path}/attend{k}", f"{name}.attentions.{k}", c.widths[i])
  return found


def stem(c: StemConfig) -> list[Entry]:
  """models.unet.Stem."""
  found = embedder("time_in", "time_embedding.linear_1", "time_embedding.linear_2")
  if c.micro_conditions:
    found += embedder("vector_in", "add_embedding.linear_1", "add_embedding.linear_2")
  found += conv("conv_in", "conv_in")
  width = c.widths[0]
  for i, out in enumerate(c.widths):
    name = f"down_blocks.{i}"
    found += level(c, f"down{i}", name, i, [width] + [out] * (c.res_blocks - 1))
    if i < len(c.widths) - 1:
      found += conv(f"halve{i}", f"{name}.downsamplers.0.conv")
    width = out
  for k in (0, 1):
    found += res_block(f"middle/res{k}", f"mid_block.resnets.{k}", False)
  return found + (
    transformer(c, "middle/attend", "mid_block.attentions.0", width) if c.middle else []
  )


def entries(c: UNetConfig) -> list[Entry]:
  found, last = stem(c), len(c.widths) - 1
  if c.guidance_width:
    found += dense("guidance_in", "time_embedding.cond_proj", bias=False)
  for i in range(len(c.widths)):
    name = f"up_blocks.{last - i}"
    wider = [0] * (c.res_blocks + 1)  # each block reads a skip connection: none keeps its width
    found += level(c, f"up{i}", name, i, wider)
    if i:
      found += conv(f"double{i}", f"{name}.upsamplers.0.conv")
  found += group_norm("norm_out", "conv_norm_out")
  return found + conv("conv_out", "conv_out")


def read_stem(k: dict[str, Any]) -> dict[str, Any]:
  """Fields of StemConfig, but for channels. Raises RestoreError."""
  widths, kinds = k["block_out_channels"], k["down_block_types"]
  other = [kind for kind in kinds if kind not in DOWN]
  if other or len(kinds) != len(widths):
    raise refuse(
      f"down_block_types = {kinds!r}, which must be {' or '.join(DOWN)}, one for each of "
      f"block_out_channels = {widths!r}"
    )
  check_counts(k, ("layers_per_block", "cross_attention_dim", "in_channels", "norm_num_groups"))
  of_level = lambda value: value if isinstance(value, tuple) else (value,) * len(widths)
  counts = of_level(k["transformer_layers_per_block"])
  number = k["attention_head_dim"] if k["num_attention_heads"] is None else k["num_attention_heads"]
  sizes = {}
  if k["addition_embed_type"] is not None:
    sizes = _read_sizes(k)
  return {
    "text_width": k["cross_attention_dim"],
    "widths": widths,
    "res_blocks": k["layers_per_block"],
    "depths": tuple(n if kind == DOWN[1] else 0 for n, kind in zip(counts, kinds, strict=True)),
    "middle": 0 if k["mid_block_type"] == "UNetMidBlock2D" else counts[-1],
    "heads": of_level(number),
    "groups": k["norm_num_groups"],
    "linear": k["use_linear_projection"],
    **sizes,
  }


def _read_sizes(k: dict[str, Any]) -> dict[str, Any]:
  """Five numbers where the pooled text is as wide as the text, which is the refiner's own; else
  SDXL's six, whose text is that of two encoders side by side."""
  if k["addition_embed_type"] != "text_time":
    raise refuse(f"addition_embed_type = {k['addition_embed_type']!r}, not 'text_time'")
  check_counts(k, ("addition_time_embed_dim", "projection_class_embeddings_input_dim"))
  each, total = k["addition_time_embed_dim"], k["projection_class_embeddings_input_dim"]
  count = 5 if total - 5 * each == k["cross_attention_dim"] else 6
  return {"pooled_width": total - count * each, "micro_conditions": count, "size_width": each}


def write_stem(c: StemConfig) -> dict[str, Any]:
  """The inverse of `read_stem`."""
  last, counts = len(c.widths) - 1, list(c.depths)
  for i, depth in enumerate(counts):
    counts[i] = depth or (c.middle if i == last else 1)
  even = len(set(c.heads)) == 1
  same = {depth for depth in (*c.depths, c.middle) if depth} == {c.middle}
  return {
    "cross_attention_dim": c.text_width,
    "block_out_channels": list(c.widths),
    "layers_per_block": c.res_blocks,
    "down_block_types": [DOWN[depth > 0] for depth in c.depths],
    "transformer_layers_per_block": c.middle if same else counts,
    "mid_block_type": "UNetMidBlock2DCrossAttn" if c.middle else "UNetMidBlock2D",
    "attention_head_dim": c.heads[0] if even else list(c.heads),  # a number of heads in this class
    "num_attention_heads": None,
    "norm_num_groups": c.groups,
    "use_linear_projection": c.linear,
    "addition_embed_type": "text_time" if c.micro_conditions else None,
    "addition_time_embed_dim": c.size_width if c.micro_conditions else None,
    "projection_class_embeddings_input_dim": (
      c.pooled_width + c.micro_conditions * c.size_width if c.micro_conditions else None
    ),
  }


def read(k: dict[str, Any]) -> UNetConfig:
  fields = read_stem(k)
  up = [UP[depth > 0] for depth in reversed(fields["depths"])]
  if list(k["up_block_types"]) != up:
    raise refuse(f"up_block_types = {k['up_block_types']!r}, which must be {up!r}")
  out = k["out_channels"]
  if not isinstance(out, int) or not 0 < out <= k["in_channels"]:
    raise refuse(f"out_channels = {out!r} of in_channels = {k['in_channels']!r}")
  return UNetConfig(
    **fields,
    channels=out,
    out=out,
    beside=k["in_channels"] - out,
    guidance_width=k["time_cond_proj_dim"] or 0,
    side=whole("sample_size", k["sample_size"], 1),
  )


def write(c: UNetConfig) -> dict[str, Any]:
  return write_stem(c) | {
    "in_channels": c.channels + c.beside,
    "out_channels": c.out,
    "up_block_types": [UP[depth > 0] for depth in reversed(c.depths)],
    "time_cond_proj_dim": c.guidance_width or None,
    "sample_size": c.side,
  }


STEM_KEYS: dict[str, Any] = {
  "in_channels": 4,
  "cross_attention_dim": 1280,
  "block_out_channels": (320, 640, 1280, 1280),
  "layers_per_block": 2,
  "down_block_types": (DOWN[1],) * 3 + (DOWN[0],),
  "transformer_layers_per_block": 1,
  "mid_block_type": "UNetMidBlock2DCrossAttn",
  "attention_head_dim": 8,
  "num_attention_heads": None,
  "norm_num_groups": 32,
  "use_linear_projection": False,
  "addition_embed_type": None,
  "addition_time_embed_dim": None,
  "projection_class_embeddings_input_dim": None,
}
STEM_FIXED: dict[str, Any] = {
  "flip_sin_to_cos": True,
  "freq_shift": 0,
  "only_cross_attention": False,
  "downsample_padding": 1,
  "mid_block_scale_factor": 1,
  "act_fn": "silu",
  "norm_eps": RES_EPS,
  "encoder_hid_dim": None,
  "encoder_hid_dim_type": None,
  "class_embed_type": None,
  "num_class_embeds": None,
  "resnet_time_scale_shift": "default",
  "addition_embed_type_num_heads": 64,
}

UNET = Spec(
  hf_class="UNet2DConditionModel",
  module=UNet,
  config=UNetConfig,
  keys=STEM_KEYS
  | {
    "out_channels": 4,
    "up_block_types": (UP[0],) + (UP[1],) * 3,
    "time_cond_proj_dim": None,
    "sample_size": None,
  },
  fixed=STEM_FIXED
  | {
    "center_input_sample": False,
    "dual_cross_attention": False,
    "dropout": 0.0,
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
    "reverse_transformer_layers_per_block": None,
  },
  ignored={"upcast_attention": False},  # of half precision: scores are float32 here
  entries=entries,
  read=read,
  write=write,
)
