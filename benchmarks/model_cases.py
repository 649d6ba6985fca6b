"""Published transformers at tiny sizes, what each case has that is odd, and how ours is called.

Nothing of it needs torch: model_parity has the other side. docs/parity_models.md, tests/parity and
the golden files run these same cases.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.models import Conditioning, Tower, with_params
from t2i_jax.models.controlnet import COLOURS, ControlNet
from t2i_jax.pretrained import SPECS
from t2i_jax.pretrained.names import stored_shapes, tensors_of
from t2i_jax.pretrained.spec import abstract_params, make_of, read_config, shapes_of

B = 2  # rows
# Compile time: a gradient takes 2.3 s of CPU with these and 23 s without (FLUX, November 2026, one
# x86-64 core). They are of XLA for CPUs, where all of it runs.
QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0}
if jax.__version__.startswith("0.10."):  # newer compilers do not have it
  QUICK["xla_cpu_use_fusion_emitters"] = False
TEXT, POOLED = 24, 20  # widths


class Case(NamedTuple):
  """One model.

  theirs      its class in diffusers;   config  what differs from that class's defaults
  shape       channels, height and width of the latent
  said        what is odd about it
  words       of each row, filled up to the longest
  pooled      width of the pooled text;   micro: how many micro-conditions
  references  (height, width) of each image that is shown to the model
  """

  theirs: str
  config: dict[str, Any]
  shape: tuple[int, int, int]
  said: str
  words: tuple[int, int] = (5, 3)
  references: tuple[tuple[int, int], ...] = ()
  pooled: int = POOLED
  micro: int = 6

  @property
  def spec(self) -> Any:
    return SPECS[self.theirs]


HEADS = {"attention_head_dim": 16, "num_attention_heads": 2}
DIT = {
  "in_channels": 4,
  "out_channels": 8,
  "num_layers": 2,
  "sample_size": 8,
  "num_embeds_ada_norm": 10,
  **HEADS,
}
PIXART = {
  "num_attention_heads": 2,
  "attention_head_dim": 24,
  "num_layers": 2,
  "cross_attention_dim": 48,
  "caption_channels": TEXT,
  "sample_size": 8,
  "use_additional_conditions": False,
}
TOLD = {"use_additional_conditions": True}
JOINT = {"joint_attention_dim": TEXT, **HEADS}
SD3 = {
  "sample_size": 8,
  "in_channels": 4,
  "out_channels": 4,
  "num_layers": 3,
  "caption_projection_dim": 32,
  "pooled_projection_dim": POOLED,
  "pos_embed_max_size": 8,
  **JOINT,
}
FLUX = {
  "in_channels": 16, "pooled_projection_dim": POOLED, "axes_dims_rope": (4, 4, 8), **JOINT,
}  # fmt: skip
FLUX2 = {
  "in_channels": 16, "num_layers": 1, "num_single_layers": 2, "axes_dims_rope": (4, 4, 4, 4),
  **JOINT,
}  # fmt: skip
QWEN = {
  "in_channels": 16, "out_channels": 4, "num_layers": 2, "axes_dims_rope": (4, 4, 8), **JOINT,
}  # fmt: skip
Z_IMAGE = {
  "in_channels": 4,
  "dim": 32,
  "n_layers": 2,
  "n_refiner_layers": 1,
  "n_heads": 2,
  "n_kv_heads": 2,
  "cap_feat_dim": TEXT,
  "axes_dims": [4, 4, 8],
  "axes_lens": [256, 32, 32],
}

UNET = {
  "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8,
  "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "sample_size": 8,
  "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": TEXT,
  "attention_head_dim": 4,
}  # fmt: skip
SDXL = UNET | {
  "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
  "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": (2, 4),
  "transformer_layers_per_block": (1, 2), "use_linear_projection": True,
  "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
  "projection_class_embeddings_input_dim": POOLED + 6 * 8,
}  # fmt: skip


def _stem(unet: dict[str, Any], hint: tuple[int, ...]) -> dict[str, Any]:
  """The ControlNet of a U-Net;   hint: widths of what embeds its image"""
  own = {key: value for key, value in unet.items() if key not in ("up_block_types", "sample_size")}
  return own | {"conditioning_embedding_out_channels": hint}


CONTROLNET = _stem(UNET, (8, 16))

CASES = {
  "class_dit": Case(
    "DiTTransformer2DModel", DIT, (4, 8, 8), "a label and the null label"
  ),
  "class_dit_larger": Case(
    "DiTTransformer2DModel", DIT, (4, 12, 12), "larger than its positions were made for"
  ),
  "class_dit_patch4": Case(
    "DiTTransformer2DModel", DIT | {"patch_size": 4}, (4, 16, 16), "patch 4, twice its size"
  ),
  "pixart": Case(
    "PixArtTransformer2DModel", PIXART, (4, 8, 12), "not square; 5 and 3 words"
  ),
  "pixart_sizes": Case(
    "PixArtTransformer2DModel", PIXART | TOLD | {"interpolation_scale": 2}, (4, 8, 8),
    "told size and aspect; interpolation 2",
  ),
  "pixart_larger": Case(
    "PixArtTransformer2DModel", PIXART | TOLD, (4, 12, 20),
    "told size and aspect; not square, larger than its positions; 1 and 7 words", (1, 7),
  ),
  "sd3": Case("SD3Transformer2DModel", SD3, (4, 8, 12), "no norm of q and k; not square"),
  "sd3_dual": Case(
    "SD3Transformer2DModel",
    SD3 | {"qk_norm": "rms_norm", "dual_attention_layers": (0,), "pos_embed_max_size": 9},
    (4, 8, 12), "norm of q and k; 1 of 3 blocks dual; cut out of an odd table",
  ),
  "sd3_all_dual": Case(
    "SD3Transformer2DModel",
    SD3 | {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1), "pos_embed_max_size": 12},
    (4, 20, 4), "norm of q and k; all blocks but the last dual; a narrow image",
  ),
  "flux": Case(
    "FluxTransformer2DModel", FLUX | {"num_layers": 2, "num_single_layers": 3}, (4, 8, 12),
    "no guidance; not square",
  ),
  "flux_guided": Case(
    "FluxTransformer2DModel",
    FLUX | {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True}, (4, 4, 14),
    "told guidance; a wide image",
  ),
  "flux2": Case("Flux2Transformer2DModel", FLUX2, (16, 4, 6), "told guidance; not square"),
  "flux2_unguided": Case(
    "Flux2Transformer2DModel", FLUX2 | {"guidance_embeds": False}, (16, 5, 3),
    "no guidance; odd sides",
  ),
  "flux2_references": Case(
    "Flux2Transformer2DModel", FLUX2, (16, 4, 6), "two reference images of other sizes",
    references=((3, 5), (4, 2)),
  ),
  "qwen_image": Case(
    "QwenImageTransformer2DModel", QWEN, (4, 8, 12), "not square; 5 and 3 words"
  ),
  "qwen_image_odd": Case(
    "QwenImageTransformer2DModel", QWEN, (4, 6, 10), "3 x 5 patches about their centre; 1 and 7 "
    "words", (1, 7),
  ),
  "qwen_image_references": Case(
    "QwenImageTransformer2DModel", QWEN, (4, 8, 6), "two reference images, one of them larger",
    references=((4, 4), (6, 18)),
  ),
  "z_image": Case(
    "ZImageTransformer2DModel", Z_IMAGE, (4, 8, 12), "24 patches, 5 and 3 words: all filled to 32"
  ),
  "z_image_whole": Case(
    "ZImageTransformer2DModel", Z_IMAGE, (4, 8, 16), "32 patches and 32 words: nothing to fill",
    (32, 32),
  ),
  "z_image_uneven": Case(
    "ZImageTransformer2DModel", Z_IMAGE, (4, 10, 14), "35 patches, 33 and 7 words: filled to 64, "
    "64 and 32", (33, 7),
  ),
  "unet": Case("UNet2DConditionModel", UNET, (4, 8, 12), "as SD 1; 5 and 3 words, masked"),
  "unet_odd": Case(
    "UNet2DConditionModel",
    UNET | {
      "block_out_channels": (32, 32, 64), "layers_per_block": 2, "time_cond_proj_dim": 32,
      "down_block_types": ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",), "in_channels": 9,
      "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2,
    },
    (9, 7, 10), "for inpainting; three levels, an odd side; distilled guidance",
  ),
  "unet_sdxl": Case(
    "UNet2DConditionModel", SDXL, (4, 8, 8), "pooled text, sizes and crop; 0 and 2 blocks"
  ),
  "unet_refiner": Case(
    "UNet2DConditionModel",
    SDXL | {
      "transformer_layers_per_block": 2, "projection_class_embeddings_input_dim": TEXT + 5 * 8,
    },
    (4, 6, 8), "an aesthetic score", pooled=TEXT, micro=5,
  ),
  "controlnet": Case(
    "ControlNetModel", CONTROLNET, (4, 8, 12), "as SD 1; its image is not square",
    references=((16, 24),),
  ),
  "controlnet_odd": Case(
    "ControlNetModel",
    CONTROLNET | {
      "block_out_channels": (32, 32, 64), "layers_per_block": 2,
      "down_block_types": ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
      "controlnet_conditioning_channel_order": "bgr", "global_pool_conditions": True,
    },
    (4, 7, 10), "three levels, an odd side; blue first; means over the image",
    references=((14, 20),),
  ),
  "controlnet_sdxl": Case(
    "ControlNetModel", _stem(SDXL, (8, 8, 16)), (4, 4, 4),
    "pooled text, sizes and crop; 0 and 2 blocks", references=((16, 16),),
  ),
}  # fmt: skip


class Given(NamedTuple):
  """What a model is called on, as the published ones take it; some use a part of it."""

  x: Any  # [B, C, H, W]
  times: Any  # [B] of 1000
  text: Any  # [B, T, TEXT]
  mask: Any  # [B, T] bool
  pooled: Any  # [B, POOLED]
  label: Any  # [B] int
  size: Any  # [B, 2]
  micro_conditions: Any  # [B, case.micro]
  aspect: Any  # [B, 1]
  guidance: Any  # [B]
  references: tuple[Any, ...]  # [B, C, h, w] each


def given(case: Case, seed: int = 1) -> Given:
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.standard_normal(shape, np.float32)
  longest = max(case.words)
  seen = np.arange(longest) < np.array(case.words)[:, None]
  if case.theirs.startswith(("SD3", "Flux", "Control")):  # they know no mask
    seen[:] = True
  return Given(
    x=draw(B, *case.shape),
    times=np.float32([300.0, 750.5]),
    text=draw(B, longest, TEXT),
    mask=seen,
    pooled=draw(B, case.pooled),
    label=np.array([3, 10]),
    size=np.float32([[512, 640], [1024, 768]]),
    micro_conditions=np.float32([[512, 640, 8, 0, 5.5, 640], [1024, 768, 0, 32, 6, 768]])[
      :, : case.micro
    ],
    aspect=np.float32([[0.8], [1.33]]),
    guidance=np.float32([3.5, 1.5]),
    references=tuple(draw(B, case.shape[0], *side) for side in case.references),
  )


def channels_last(x: Any) -> jax.Array:
  return jnp.asarray(x).transpose(0, 2, 3, 1)


def channels_first(x: jax.Array) -> np.ndarray:
  return np.asarray(x).transpose(0, 3, 1, 2)


def condition(g: Given, channels: int = 0) -> Conditioning:
  """What our models are told.   channels: of x_t, where g.x has others besides"""
  towers = {
    "text": Tower(jnp.asarray(g.text), jnp.asarray(g.mask), jnp.asarray(g.pooled)),
    "label": Tower(jnp.asarray(g.label)[:, None, None], jnp.ones((B, 1), bool), None),
  }
  extras = {
    key: jnp.asarray(getattr(g, key)) for key in ("size", "aspect", "guidance", "micro_conditions")
  }
  extras["beside"] = channels_last(g.x)[..., channels:]
  extras["references"] = tuple(channels_last(r) for r in g.references)
  return Conditioning(towers, extras)


def answered(model: Any, x: jax.Array, times: Any, cond: Conditioning) -> jax.Array:
  """The answer [B, H, W, C]; of a ControlNet all residuals in one row [B, 1, N, 1].

  The first three channels of its reference are its image.
  """
  if not isinstance(model, ControlNet):
    return model(x, times, cond).value
  (image,) = cond.extras["references"]
  found = model(x, times, cond, model.embed(image[..., :COLOURS].astype(x.dtype)))
  residuals = [*found["skips"], found["after_middle"]]
  rows = [r.transpose(0, 3, 1, 2).reshape(len(r), -1) for r in residuals]
  return jnp.concatenate(rows, axis=1)[:, None, :, None]


@functools.cache
def compiled(module: Any, config: Any) -> Any:
  """(params, x_t, times, cond) -> the answer."""
  bind = with_params(make_of(module, config))
  run = lambda params, x, times, cond: answered(bind(params), x, times, cond)
  return jax.jit(run, compiler_options=QUICK)


def answer(module: Any, config: Any, params: Any, g: Given, dtype: Any = jnp.float32) -> np.ndarray:
  """What our model says.   dtype is that of its activations   # [B, C, H, W]"""
  x = channels_last(g.x)[..., : config.channels].astype(dtype)
  cond = condition(g, config.channels)
  return channels_first(compiled(module, config)(params, x, g.times, cond))


@functools.cache
def compiled_slopes(module: Any, config: Any) -> Any:
  """(params, x_t, times, cond, probe) -> the answer, and what sum(answer probe) changes with."""
  bind = with_params(make_of(module, config))

  def value(params, x, times, cond, probe):
    out = answered(bind(params), x, times, cond)
    return jnp.sum(out * probe), out

  of = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)
  return jax.jit(of, compiler_options=QUICK)


def distance(a: np.ndarray, b: np.ndarray) -> float:
  """max|a - b| / max|b|."""
  return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Numbers in [-1, 1) that follow from a name: the raw bits of PCG64 are numpy's promise."""
  raw = np.random.PCG64(np.random.SeedSequence(list(name.encode()))).random_raw(int(np.prod(shape)))
  return ((raw >> np.uint64(40)) * 2.0**-23 - 1).astype(np.float32).reshape(shape)


def formula_weights(case: Case) -> dict[str, np.ndarray]:
  """Weights by the published tensors' names, made of these names."""
  config = read_config(case.spec, case.config, case.theirs)
  shapes = shapes_of(abstract_params(case.spec.module, config))
  entries = case.spec.entries(config)
  pieces, found = tensors_of(entries, shapes), {}
  for name, shape in stored_shapes(entries, shapes).items():
    first = pieces[name][0]
    drawn = uniform(first.part.name.format(i=0) if first.entry.copies else name, shape)
    if len(shape) > 1:
      found[name] = drawn * np.float32(1.7 * np.prod(shape[1:]) ** -0.5)
    else:  # a gain, or a bias
      found[name] = drawn * np.float32(0.3) + np.float32(name.endswith(".weight"))
  return found


# One case of each class, the one with the most in it: tests/golden has their answers.
GOLDEN = (
  "class_dit_larger",
  "pixart_larger",
  "sd3_dual",
  "flux_guided",
  "flux2_references",
  "qwen_image_references",
  "z_image_uneven",
  "unet_odd",
  "controlnet_sdxl",
)


def as_arrays(g: Given) -> dict[str, np.ndarray]:
  """The inputs by name, for a file."""
  images = {f"reference_{i}": image for i, image in enumerate(g.references)}
  return {key: leaf for key, leaf in g._asdict().items() if key != "references"} | images


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Given:
  """The inverse of as_arrays; what else there is is left."""
  count = sum(key.startswith("reference_") for key in arrays)
  images = tuple(arrays[f"reference_{i}"] for i in range(count))
  own = {key: arrays[key] for key in Given._fields if key != "references"}
  return Given(**own, references=images)
