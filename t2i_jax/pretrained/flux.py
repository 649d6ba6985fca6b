"""FLUX.1 as diffusers' FluxTransformer2DModel.

Its pipelines hand it patches of 2 x 2 latents as channels (channel, row, column).
"""

from typing import Any

from t2i_jax.models.flux import Flux, FluxConfig
from t2i_jax.pretrained.names import (
  Chunks,
  Columns,
  Entry,
  adaln,
  dense,
  embedder,
  heads,
  heads_out,
  mlp,
  packed_in,
  packed_out,
)
from t2i_jax.pretrained.spec import Spec, must_be, whole

DOUBLE, SINGLE = "transformer_blocks.{i}", "single_transformer_blocks.{i}"
PATCH = 2
GUIDANCE = 3.5  # what the published pipeline tells a model that is told a scale


def _double() -> list[Entry]:
  attn = f"{DOUBLE}.attn"
  return [
    *heads(
      "double/image/heads", f"{attn}.to_q", f"{attn}.to_k", f"{attn}.to_v",
      (f"{attn}.norm_q.weight", f"{attn}.norm_k.weight"), rope=True,
    ),
    *heads_out("double/image/out", f"{attn}.to_out.0"),
    *mlp("double/image/mlp", f"{DOUBLE}.ff.net.0.proj", f"{DOUBLE}.ff.net.2"),
    *heads(
      "double/text/heads", f"{attn}.add_q_proj", f"{attn}.add_k_proj", f"{attn}.add_v_proj",
      (f"{attn}.norm_added_q.weight", f"{attn}.norm_added_k.weight"), rope=True,
    ),
    *heads_out("double/text/out", f"{attn}.to_add_out"),
    *mlp("double/text/mlp", f"{DOUBLE}.ff_context.net.0.proj", f"{DOUBLE}.ff_context.net.2"),
  ]  # fmt: skip


def entries(c: FluxConfig) -> list[Entry]:
  d, inner, attn = c.width, "time_text_embed", f"{SINGLE}.attn"
  embedders = {"time_in": "timestep", "pooled_in": "text"}
  embedders |= {"guidance_in": "guidance"} if c.guidance else {}
  found = [*packed_in("patch_in", "x_embedder", c.patch), *dense("text_in", "context_embedder")]
  for ours, theirs in embedders.items():
    of = f"{inner}.{theirs}_embedder"
    found += embedder(ours, f"{of}.linear_1", f"{of}.linear_2")
  return [
    *found,
    *adaln("image_adaln", Chunks(f"{DOUBLE}.norm1.linear", 6)),
    *adaln("text_adaln", Chunks(f"{DOUBLE}.norm1_context.linear", 6)),
    *_double(),
    *adaln("single_adaln", Chunks(f"{SINGLE}.norm.linear", 3)),
    *heads(
      "single/heads", f"{attn}.to_q", f"{attn}.to_k", f"{attn}.to_v",
      (f"{attn}.norm_q.weight", f"{attn}.norm_k.weight"), rope=True,
    ),
    *heads_out("single/out", Columns(f"{SINGLE}.proj_out", 0, d)),
    *mlp(
      "single/mlp", f"{SINGLE}.proj_mlp", Columns(f"{SINGLE}.proj_out", d, 5 * d), down_bias=False
    ),
    *adaln("final_adaln", Chunks("norm_out.linear", 2, swapped=d)),
    *packed_out("head", "proj_out", c.patch),
  ]  # fmt: skip


def read(k: dict[str, Any]) -> FluxConfig:
  return FluxConfig(
    width=k["num_attention_heads"] * k["attention_head_dim"],
    double_blocks=k["num_layers"],
    single_blocks=k["num_single_layers"],
    heads=k["num_attention_heads"],
    patch=PATCH,
    channels=whole("in_channels", k["in_channels"], PATCH**2),
    out=whole("out_channels", k["out_channels"] or k["in_channels"], PATCH**2),
    text_width=k["joint_attention_dim"],
    pooled_width=k["pooled_projection_dim"],
    rope_axes=k["axes_dims_rope"],
    guidance=GUIDANCE if k["guidance_embeds"] else 0.0,
  )


def write(c: FluxConfig) -> dict[str, Any]:
  must_be("attend_padding", c.attend_padding, True)
  must_be("patch", c.patch, PATCH)
  return {
    "in_channels": PATCH**2 * c.channels,
    "out_channels": PATCH**2 * c.out,
    "num_layers": c.double_blocks,
    "num_single_layers": c.single_blocks,
    "attention_head_dim": c.width // c.heads,
    "num_attention_heads": c.heads,
    "joint_attention_dim": c.text_width,
    "pooled_projection_dim": c.pooled_width,
    "guidance_embeds": bool(c.guidance),
    "axes_dims_rope": list(c.rope_axes),
  }


FLUX = Spec(
  theirs="FluxTransformer2DModel",
  module=Flux,
  config=FluxConfig,
  keys={
    "in_channels": 64,
    "out_channels": None,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
  },
  fixed={"patch_size": 1},
  free={},
  read=read,
  write=write,
  entries=entries,
)
