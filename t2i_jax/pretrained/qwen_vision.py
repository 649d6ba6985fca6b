"""The vision tower in a folder of transformers' Qwen2_5_VLForConditionalGeneration."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from t2i_jax.errors import RestoreError
from t2i_jax.models.params import Params
from t2i_jax.pretrained.folder import config_json, read_params
from t2i_jax.pretrained.names import (
  Entry,
  Part,
  Rows,
  dense,
  gain,
  heads,
  heads_out,
  matrix,
  vector,
)
from t2i_jax.pretrained.spec import Spec, read_config
from t2i_jax.pretrained.tensors import open_tensors
from t2i_jax.pretrained.text_models import UNWRITTEN
from t2i_jax.towers.qwen_vision import QwenVision, QwenVisionConfig

BLOCK = "visual.blocks.{i}"


def entries(c: QwenVisionConfig) -> list[Entry]:
  qkv, mlp = f"{BLOCK}.attn.qkv", f"{BLOCK}.mlp"
  q, k, v = (Rows(qkv, i * c.width, (i + 1) * c.width) for i in range(3))
  gate, up = (((1, i, i + 1), f"{mlp}.{name}_proj") for i, name in enumerate(("gate", "up")))
  patch = Part("visual.patch_embed.proj.weight", "d c t p q -> (c t p q) d", _patch_sizes(c))
  return [
    Entry("patch_in/kernel", (patch,)),
    *heads("blocks/attn", q, k, v, None, rope=False),
    *heads_out("blocks/attn/out", f"{BLOCK}.attn.proj"),
    Entry(
      "blocks/mlp/up/kernel", tuple(matrix(name, "f d -> d 1 f", at) for at, name in (gate, up))
    ),
    Entry(
      "blocks/mlp/up/bias",
      tuple(vector(name, "f -> 1 f", (0, *at[1:])) for at, name in (gate, up)),
    ),
    *dense("blocks/mlp/down", f"{mlp}.down_proj"),
    *gain("blocks/attn_gain", f"{BLOCK}.norm1.weight"),
    *gain("blocks/mlp_gain", f"{BLOCK}.norm2.weight"),
    *gain("gain", "visual.merger.ln_q.weight"),
    *dense("merge_in", "visual.merger.mlp.0"),
    *dense("merge_out", "visual.merger.mlp.2"),
  ]


def _patch_sizes(c: QwenVisionConfig) -> dict[str, int]:
  return {"c": c.channels, "t": c.frames, "p": c.patch, "q": c.patch}


def renamed(name: str) -> str | None:
  name = name.removeprefix("model.")
  return name if name.startswith("visual.") else None


def read(k: dict[str, Any]) -> QwenVisionConfig:
  return QwenVisionConfig(
    k["hidden_size"], k["depth"], k["num_heads"], k["intermediate_size"], k["out_hidden_size"],
    k["patch_size"], k["spatial_merge_size"], k["temporal_patch_size"], k["in_channels"],
    k["window_size"], k["fullatt_block_indexes"],
  )  # fmt: skip


QWEN_VISION = Spec(
  hf_class="Qwen2_5_VLForConditionalGeneration",
  module=QwenVision,
  config=QwenVisionConfig,
  keys={
    "hidden_size": 3584, "depth": 32, "num_heads": 16, "intermediate_size": 3420,
    "out_hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
    "in_channels": 3, "window_size": 112, "fullatt_block_indexes": (7, 15, 23, 31),
  },
  fixed={
    "hidden_act": "silu", "rope_parameters": {"rope_theta": 10000.0, "rope_type": "axial"},
  },
  ignored=dict.fromkeys((
    "model_type", "initializer_range", "tokens_per_second", "in_chans", "spatial_patch_size",
    "dtype", "torch_dtype",
  )),
  read=read,
  write=lambda config: {},
  unwritten=UNWRITTEN,
  entries=entries,
  stem="model",
  library="transformers",
  renamed=renamed,
)  # fmt: skip


def vision_config(folder: str | Path) -> QwenVisionConfig:
  """The config of the vision tower of a folder. Raises RestoreError for another class."""
  folder = Path(folder)
  content, where = config_json(folder), f"{folder / 'config.json'}: vision_config"
  if content.get("architectures") != [QWEN_VISION.hf_class]:
    raise RestoreError(f"{folder} is not of the class {QWEN_VISION.hf_class}.")
  return read_config(QWEN_VISION, content.get("vision_config") or {}, where)


def load_qwen_vision(
  folder: str | Path, shardings: Params | Mesh | None = None, dtype: Any = jnp.float32
) -> tuple[QwenVisionConfig, Params]:
  """The config and parameters of the vision tower of a folder. As `load`, which reads the text."""
  folder = Path(folder)
  config = vision_config(folder)
  found = open_tensors(folder, QWEN_VISION.stem)
  with found.tensors:
    found.tensors.rename(QWEN_VISION.renamed)
    return config, read_params(QWEN_VISION, config, found, str(folder), shardings, dtype)
