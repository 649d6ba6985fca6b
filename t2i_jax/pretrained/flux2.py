"""FLUX.2 as diffusers' Flux2Transformer2DModel."""

from typing import Any

from t2i_jax.models.flux2 import MLP_RATIO, Flux2, Flux2Config
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
)
from t2i_jax.pretrained.spec import Spec, must_be

DOUBLE, SINGLE = "transformer_blocks.{i}", "single_transformer_blocks.{i}"
GUIDANCE = 4.0  # what the published pipeline tells a model that is told a scale


def _double() -> list[Entry]:
  attn = f"{DOUBLE}.attn"
  return [
    *heads(
      "double/image/heads", f"{attn}.to_q", f"{attn}.to_k", f"{attn}.to_v",
      (f"{attn}.norm_q.weight", f"{attn}.norm_k.weight"), rope=True, bias=False,
    ),
    *heads_out("double/image/out", f"{attn}.to_out.0", bias=False),
    *gated_mlp("double/image/mlp", f"{DOUBLE}.ff.linear_in", f"{DOUBLE}.ff.linear_out"),
    *heads(
      "double/text/heads", f"{attn}.add_q_proj", f"{attn}.add_k_proj", f"{attn}.add_v_proj",
      (f"{attn}.norm_added_q.weight", f"{attn}.norm_added_k.weight"), rope=True, bias=False,
    ),
    *heads_out("double/text/out", f"{attn}.to_add_out", bias=False),
    *gated_mlp(
      "double/text/mlp", f"{DOUBLE}.ff_context.linear_in", f"{DOUBLE}.ff_context.linear_out"
    ),
  ]  # fmt: skip


def hidden_of(c: Flux2Config) -> int:
  return c.hidden or MLP_RATIO * c.width


def _single(d: int, hidden: int) -> list[Entry]:
  """q, k, v, gate and up are one matrix; so are the two that lead out."""
  attn = f"{SINGLE}.attn"
  fused, out = f"{attn}.to_qkv_mlp_proj", f"{attn}.to_out"
  q, k, v = (Rows(fused, i * d, (i + 1) * d) for i in range(3))
  norms = (f"{attn}.norm_q.weight", f"{attn}.norm_k.weight")
  return [
    *heads("single/heads", q, k, v, norms, rope=True, bias=False),
    *heads_out("single/out", Columns(out, 0, d), bias=False),
    *gated_mlp("single/mlp", Rows(fused, 3 * d, 3 * d + 2 * hidden), Columns(out, d, d + hidden)),
  ]


def entries(c: Flux2Config) -> list[Entry]:
  inner = "time_guidance_embed"
  found = [
    *dense("patch_in", "x_embedder", bias=False),
    *dense("text_in", "context_embedder", bias=False),
  ]
  embedders = {"time_in": "timestep"} | ({"guidance_in": "guidance"} if c.guidance else {})
  for ours, theirs in embedders.items():
    of = f"{inner}.{theirs}_embedder"
    found += embedder(ours, f"{of}.linear_1", f"{of}.linear_2", bias=False)
  return [
    *found,
    *adaln("image_adaln", Chunks("double_stream_modulation_img.linear", 6), bias=False),
    *adaln("text_adaln", Chunks("double_stream_modulation_txt.linear", 6), bias=False),
    *_double(),
    *adaln("single_adaln", Chunks("single_stream_modulation.linear", 3), bias=False),
    *_single(c.width, hidden_of(c)),
    *adaln("final_adaln", Chunks("norm_out.linear", 2, swapped=c.width), bias=False),
    *dense("head", "proj_out", bias=False),
  ]


def read(k: dict[str, Any]) -> Flux2Config:
  width = k["num_attention_heads"] * k["attention_head_dim"]
  return Flux2Config(
    width=width,
    double_blocks=k["num_layers"],
    single_blocks=k["num_single_layers"],
    heads=k["num_attention_heads"],
    hidden=0 if k["mlp_ratio"] == MLP_RATIO else int(width * k["mlp_ratio"]),
    patch=1,
    channels=k["in_channels"],
    out=k["out_channels"] or k["in_channels"],
    text_width=k["joint_attention_dim"],
    rope_axes=k["axes_dims_rope"],
    guidance=GUIDANCE if k["guidance_embeds"] else 0.0,
  )


def write(c: Flux2Config) -> dict[str, Any]:
  must_be("attend_padding", c.attend_padding, True)
  must_be("patch", c.patch, 1)
  ratio = hidden_of(c) / c.width
  must_be("hidden", hidden_of(c), int(c.width * ratio))
  return {
    "in_channels": c.channels,
    "out_channels": c.out,
    "num_layers": c.double_blocks,
    "num_single_layers": c.single_blocks,
    "attention_head_dim": c.width // c.heads,
    "num_attention_heads": c.heads,
    "joint_attention_dim": c.text_width,
    "mlp_ratio": ratio,
    "axes_dims_rope": list(c.rope_axes),
    "guidance_embeds": bool(c.guidance),
  }


FLUX2 = Spec(
  theirs="Flux2Transformer2DModel",
  module=Flux2,
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
  free={},
  read=read,
  write=write,
  entries=entries,
)
