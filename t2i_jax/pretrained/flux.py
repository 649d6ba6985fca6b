"""FLUX.1 and FLUX.2 as diffusers' FluxTransformer2DModel and Flux2Transformer2DModel.

FLUX.1's pipelines pack 2 x 2 latents into channels, ordered (channel, row, column).
"""

from functools import partial
from typing import Any

from t2i_jax.models.flux import Flux, Flux2Config, FluxConfig
from t2i_jax.models.layers import TIME_EMBEDDING
from t2i_jax.pretrained.names import (
  Chunks,
  Columns,
  Entry,
  Rows,
  adaln,
  dense,
  embedder,
  gated_mlp,
  heads,
  heads_out,
  mlp,
  packed_in,
  packed_out,
)
from t2i_jax.pretrained.spec import Spec, must_be, whole

DOUBLE, SINGLE = "transformer_blocks.{i}", "single_transformer_blocks.{i}"
PATCH = 2  # of FLUX.1
GUIDANCE = 3.5  # the scale of FLUX.1's pipeline, for a model with a guidance embedding
GUIDANCE_2 = 4.0


def _embedders(c: FluxConfig, inner: str) -> list[Entry]:
  named = {"time_in": "timestep"} | ({"pooled_in": "text"} if c.pooled else {})
  named |= {"guidance_in": "guidance"} if c.guidance else {}
  found: list[Entry] = []
  for path, name in named.items():
    prefix = f"{inner}.{name}_embedder"
    found += embedder(path, f"{prefix}.linear_1", f"{prefix}.linear_2", bias=c.bias)
  return found


def _double(c: FluxConfig) -> list[Entry]:
  """The double-stream blocks, whose feed-forward matrices have other names in FLUX.2."""
  attn = f"{DOUBLE}.attn"
  found: list[Entry] = []
  names = {
    "image": ("to_{}", "norm_{}", "to_out.0", "ff"),
    "text": ("add_{}_proj", "norm_added_{}", "to_add_out", "ff_context"),
  }
  for stream, (projection, norm, out, mlp_name) in names.items():
    q, k, v = (f"{attn}.{projection.format(x)}" for x in "qkv")
    norms = (f"{attn}.{norm.format('q')}.weight", f"{attn}.{norm.format('k')}.weight")
    found += heads(f"double/{stream}/heads", q, k, v, norms, rope=True, bias=c.bias)
    found += heads_out(f"double/{stream}/out", f"{attn}.{out}", bias=c.bias)
    at, ff = f"double/{stream}/mlp", f"{DOUBLE}.{mlp_name}"
    if c.mlp == "swiglu":
      found += gated_mlp(at, f"{ff}.linear_in", f"{ff}.linear_out")
    else:
      found += mlp(at, f"{ff}.net.0.proj", f"{ff}.net.2")
  return found


def _single(c: FluxConfig) -> list[Entry]:
  """The single-stream blocks. In FLUX.2 q, k, v, gate and up are one matrix."""
  d, attn, hidden = c.width, f"{SINGLE}.attn", int(c.width * c.mlp_ratio)
  norms = (f"{attn}.norm_q.weight", f"{attn}.norm_k.weight")
  if c.mlp == "swiglu":
    fused, out = f"{attn}.to_qkv_mlp_proj", f"{attn}.to_out"
    q, k, v = (Rows(fused, i * d, (i + 1) * d) for i in range(3))
    up = Rows(fused, 3 * d, 3 * d + 2 * hidden)
    return [
      *heads("single/heads", q, k, v, norms, rope=True, bias=False),
      *heads_out("single/out", Columns(out, 0, d), bias=False),
      *gated_mlp("single/mlp", up, Columns(out, d, d + hidden)),
    ]
  down = Columns(f"{SINGLE}.proj_out", d, d + hidden)
  return [
    *heads("single/heads", f"{attn}.to_q", f"{attn}.to_k", f"{attn}.to_v", norms, rope=True),
    *heads_out("single/out", Columns(f"{SINGLE}.proj_out", 0, d)),
    *mlp("single/mlp", f"{SINGLE}.proj_mlp", down, down_bias=False),
  ]


def stem(c: FluxConfig) -> list[Entry]:
  """models.flux.FluxStem of FLUX.1."""
  found = [
    *packed_in("patch_in", "x_embedder", c.patch),
    *dense("text_in", "context_embedder"),
    *_embedders(c, "time_text_embed"),
  ]
  if c.double_blocks:
    found += adaln("image_adaln", Chunks(f"{DOUBLE}.norm1.linear", 6))
    found += adaln("text_adaln", Chunks(f"{DOUBLE}.norm1_context.linear", 6))
    found += _double(c)
  if c.single_blocks:
    found += adaln("single_adaln", Chunks(f"{SINGLE}.norm.linear", 3))
    found += _single(c)
  return found


def entries(c: FluxConfig) -> list[Entry]:
  """FLUX.1."""
  return [
    *stem(c),
    *adaln("final_adaln", Chunks("norm_out.linear", 2, swapped=c.width)),
    *packed_out("head", "proj_out", c.patch),
  ]


def entries_2(c: FluxConfig) -> list[Entry]:
  """FLUX.2."""
  found = [
    *dense("patch_in", "x_embedder", bias=False),
    *dense("text_in", "context_embedder", bias=False),
    *_embedders(c, "time_guidance_embed"),
  ]
  for path, name, vectors in (
    ("image_adaln", "double_stream_modulation_img", 6),
    ("text_adaln", "double_stream_modulation_txt", 6),
    ("single_adaln", "single_stream_modulation", 3),
  ):
    found += adaln(path, Chunks(f"{name}.linear", vectors), bias=False)
  return [
    *found,
    *_double(c),
    *_single(c),
    *adaln("final_adaln", Chunks("norm_out.linear", 2, swapped=c.width), bias=False),
    *dense("head", "proj_out", bias=False),
  ]


def read(config: type[FluxConfig], patch: int, guidance: float, k: dict[str, Any]) -> FluxConfig:
  """patch: of the latents that are packed into channels;   guidance: for models that embed it"""
  own = {"pooled_width": k["pooled_projection_dim"]} if "pooled_projection_dim" in k else {}
  own |= {"mlp_ratio": k["mlp_ratio"]} if "mlp_ratio" in k else {}
  return config(
    width=k["num_attention_heads"] * k["attention_head_dim"],
    double_blocks=k["num_layers"],
    single_blocks=k["num_single_layers"],
    heads=k["num_attention_heads"],
    patch=patch,
    channels=whole("in_channels", k["in_channels"], patch**2),
    out=whole("out_channels", k.get("out_channels") or k["in_channels"], patch**2),
    text_width=k["joint_attention_dim"],
    rope_axes=k["axes_dims_rope"],
    guidance=guidance if k["guidance_embeds"] else 0.0,
    **own,
  )


def write(patch: int, fixed: tuple[str, ...], c: FluxConfig) -> dict[str, Any]:
  """fixed: fields that have the same value in every published model of the class"""
  must_be("patch", c.patch, patch)
  for name in ("attend_padding", "rope_theta", "reference_step", "modulation", "mlp", *fixed):
    must_be(name, getattr(c, name), getattr(type(c), name))
  return {
    "in_channels": patch**2 * c.channels,
    "out_channels": patch**2 * c.out,
    "num_layers": c.double_blocks,
    "num_single_layers": c.single_blocks,
    "attention_head_dim": c.width // c.heads,
    "num_attention_heads": c.heads,
    "joint_attention_dim": c.text_width,
    "guidance_embeds": bool(c.guidance),
    "axes_dims_rope": list(c.rope_axes),
  }


def write_1(c: FluxConfig) -> dict[str, Any]:
  found = write(PATCH, ("mlp_ratio", "bias", "pooled"), c)
  return found | {"pooled_projection_dim": c.pooled_width}


def _write_2(c: FluxConfig) -> dict[str, Any]:
  return write(1, ("bias", "pooled"), c) | {"mlp_ratio": c.mlp_ratio}


KEYS: dict[str, Any] = {
  "in_channels": 64,
  "num_layers": 19,
  "num_single_layers": 38,
  "attention_head_dim": 128,
  "num_attention_heads": 24,
  "joint_attention_dim": 4096,
  "pooled_projection_dim": 768,
  "guidance_embeds": False,
  "axes_dims_rope": (16, 56, 56),
}
FLUX = Spec(
  hf_class="FluxTransformer2DModel",
  module=Flux,
  config=FluxConfig,
  keys=KEYS | {"out_channels": None},
  fixed={"patch_size": 1},
  ignored={},
  read=partial(read, FluxConfig, PATCH, GUIDANCE),
  write=write_1,
  entries=entries,
)

FLUX2 = Spec(
  hf_class="Flux2Transformer2DModel",
  module=Flux,
  config=Flux2Config,
  keys={
    "in_channels": 128,
    "out_channels": None,
    "num_layers": 8,
    "num_single_layers": 48,
    "attention_head_dim": 128,
    "num_attention_heads": 48,
    "joint_attention_dim": 15360,
    "mlp_ratio": 3.0,
    "axes_dims_rope": (32, 32, 32, 32),
    "guidance_embeds": True,
  },
  fixed={
    "patch_size": 1,
    "timestep_guidance_channels": TIME_EMBEDDING,
    "rope_theta": 2000,
    "eps": 1e-6,
  },
  ignored={},
  read=partial(read, Flux2Config, 1, GUIDANCE_2),
  write=_write_2,
  entries=entries_2,
)
