"""Folders with the published config.json of every part of a pipeline, and no weights.

Enough for whatever reads no weights: programs are compiled of them for TPUs that are not here.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import tiny_tokenizers
from t2i_jax.autoencoders import Flux2KLConfig, KLConfig
from t2i_jax.models.flux import Flux2Config, FluxConfig
from t2i_jax.models.sd3 import SD3Config
from t2i_jax.models.unet import UNetConfig
from t2i_jax.pretrained.known import spec_for
from t2i_jax.pretrained.spec import write_config
from t2i_jax.towers import ClipConfig, T5Config

# A language model's config.json is read and not written here: Qwen3-4B's, as published.
QWEN3_4B = {
  "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936,
  "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
  "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-6,
  "rope_theta": 1e6, "tie_word_embeddings": True, "max_position_embeddings": 40960,
}  # fmt: skip
T5_XXL = T5Config(32128, 4096, 24, 64, 64, 10240)
EULER = "FlowMatchEulerDiscreteScheduler"
SHIFTED = {"_class_name": EULER, "shift": 3.0}
DYNAMIC = SHIFTED | {"use_dynamic_shifting": True}
LATENTS_16 = {"quant": False, "post_quant": False, "sample_size": 1024}


class Pipeline(NamedTuple):
  """A published model.

  index       class of the pipeline
  parts       our config, or config.json, by subfolder
  tokenizers  tiny_tokenizers.KINDS by subfolder: programs do not depend on their ids
  scheduler   scheduler_config.json
  """

  index: str
  parts: dict[str, Any]
  tokenizers: dict[str, str]
  scheduler: dict[str, Any]


FLUX1_DEV = Pipeline(
  "FluxPipeline",
  {
    "transformer": FluxConfig(
      3072, 19, 38, 24, 2, 16, 16, 4096, (16, 56, 56), pooled_width=768, guidance=3.5
    ),
    "vae": KLConfig(16, scale=0.3611, shift=0.1159, **LATENTS_16),
    "text_encoder": ClipConfig(49408, 77, 768, 12, 12, 3072, eos=2),
    "text_encoder_2": T5_XXL,
  },
  {"tokenizer": "clip", "tokenizer_2": "t5"},
  DYNAMIC,
)
FLUX2_KLEIN_4B = Pipeline(
  "Flux2KleinPipeline",
  {
    "transformer": Flux2Config(3072, 5, 20, 24, 1, 128, 128, 7680, (32, 32, 32, 32)),
    "vae": Flux2KLConfig(),
    "text_encoder": QWEN3_4B,
  },
  {"tokenizer": "qwen"},
  DYNAMIC,
)
SD35_LARGE = Pipeline(
  "StableDiffusion3Pipeline",
  {
    "transformer": SD3Config(
      width=2432, depth=38, heads=38, patch=2, channels=16, out=16, text_width=4096,
      pooled_width=2048, side=128, max_side=192,
    ),
    "vae": KLConfig(16, scale=1.5305, shift=0.0609, **LATENTS_16),
    "text_encoder": ClipConfig(49408, 77, 768, 12, 12, 3072, projection=768, eos=2),
    "text_encoder_2": ClipConfig(
      49408, 77, 1280, 32, 20, 5120, activation="gelu", projection=1280, eos=2
    ),
    "text_encoder_3": T5_XXL,
  },
  {"tokenizer": "clip", "tokenizer_2": "clip", "tokenizer_3": "t5"},
  SHIFTED,
)  # fmt: skip
SDXL = Pipeline(
  "StableDiffusionXLPipeline",
  {
    "unet": UNetConfig(
      4, 2048, (320, 640, 1280), depths=(0, 2, 10), middle=10, heads=(5, 10, 20), linear=True,
      pooled_width=1280, micro_conditions=6, out=4, side=128,
    ),
    "vae": KLConfig(scale=0.13025, sample_size=1024),
    "text_encoder": ClipConfig(49408, 77, 768, 12, 12, 3072, eos=2),
    "text_encoder_2": ClipConfig(
      49408, 77, 1280, 32, 20, 5120, activation="gelu", projection=1280, eos=2
    ),
  },
  {"tokenizer": "clip", "tokenizer_2": "clip"},
  {
    "_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear",
    "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "epsilon",
    "timestep_spacing": "leading", "steps_offset": 1,
  },
)  # fmt: skip


def folder_of(pipeline: Pipeline, root: Path) -> Path:
  """Writes the configs and tokenizers of a pipeline into a new folder, and returns it."""
  classes: dict[str, Any] = {"_class_name": pipeline.index}
  for name, config in pipeline.parts.items():
    content = config
    if not isinstance(config, dict):
      spec = spec_for(config)
      content = spec.header | write_config(spec, config)
    (root / name).mkdir(parents=True)
    (root / name / "config.json").write_text(json.dumps(content))
    classes[name] = ["", content.get("_class_name") or content["architectures"][0]]
  (root / "scheduler").mkdir()
  (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(pipeline.scheduler))
  for name, kind in pipeline.tokenizers.items():
    tiny_tokenizers.KINDS[kind](root / name)
    classes[name] = ["", kind]
  classes["scheduler"] = ["", pipeline.scheduler["_class_name"]]
  (root / "model_index.json").write_text(json.dumps(classes))
  return root
