"""A FLUX.1 of a few thousand weights as a published folder, written without torch.

Its weights follow from their names and shapes, so that every machine writes the same.
"""

import json
from pathlib import Path

import jax
import numpy as np

from benchmarks import tiny_tokenizers
from benchmarks.model_cases import uniform
from t2i_jax.autoencoders import KLConfig
from t2i_jax.models.flux import FluxConfig
from t2i_jax.pretrained import save
from t2i_jax.pretrained.known import spec_for
from t2i_jax.pretrained.spec import abstract_params, flat
from t2i_jax.towers import ClipConfig, T5Config

VAE = KLConfig(4, (16, 32), 1, 8, scale=0.4, shift=0.1, quant=False, post_quant=False)
PARTS = {
  "transformer": FluxConfig(32, 1, 1, 2, 2, 4, 4, 32, (4, 4, 8), pooled_width=32, guidance=3.5),
  "vae": VAE,
  "text_encoder": ClipConfig(tiny_tokenizers.CLIP_VOCAB, 77, 32, 2, 4, 64, eos=517),
  "text_encoder_2": T5Config(tiny_tokenizers.T5_VOCAB, 32, 2, 4, 8, 64),
}
TOKENIZERS = {"tokenizer": "clip", "tokenizer_2": "t5"}
SCHEDULER = {
  "_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "use_dynamic_shifting": True,
}  # fmt: skip


def weights(config):
  """Our parameters, about unit variance through a layer; gains near 1."""
  tree = abstract_params(spec_for(config).module, config)
  names = flat(tree)

  def drawn(name, shape):
    value = uniform(name, shape)
    if name.rpartition("/")[2] in ("gain", "attn_gain", "mlp_gain"):
      return 1 + np.float32(0.3) * value
    fan = max(1, int(np.prod(shape)) // shape[-1]) if len(shape) > 1 else 100
    return (value * np.float32(1.7 * fan**-0.5)).astype(np.float32)

  leaves = [drawn(name, leaf.shape) for name, leaf in names.items()]
  return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def flux_folder(root: Path) -> Path:
  """Writes it to a folder that does not exist."""
  index = {"_class_name": "FluxPipeline", "scheduler": ["diffusers", SCHEDULER["_class_name"]]}
  for name, config in PARTS.items():
    save(root / name, config, weights(config))
    library = "transformers" if name.startswith("text") else "diffusers"
    index[name] = [library, spec_for(config).hf_class]
  for (name, kind), cls in zip(TOKENIZERS.items(), ("CLIPTokenizer", "T5Tokenizer"), strict=True):
    tiny_tokenizers.KINDS[kind](root / name)
    index[name] = ["transformers", cls]
  (root / "scheduler").mkdir()
  (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
  (root / "model_index.json").write_text(json.dumps(index))
  return root
