"""A FLUX.1 of a few thousand weights as a published folder, written without torch.

Its weights follow from their names and shapes, so that every machine writes the same. A file in
tests/inference has what diffusers draws with it.

python -m benchmarks.tiny_folder --to tests/inference
"""

import argparse
import json
import tempfile
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
SIDE, STEPS, PROMPTS = 16, 4, ("a cat", "a red dog on")
GOLDEN = "flux_pipeline.npz"


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


def noise() -> np.ndarray:
  """[2, 8, 8, 4]"""
  return 1.7 * uniform("noise", (len(PROMPTS), SIDE // 2, SIDE // 2, 4))


def theirs(root: Path) -> tuple[np.ndarray, np.ndarray]:
  """What the decoder is given [2, 4, 8, 8], and images [2, 16, 16, 3] in [0, 1], by diffusers."""
  import diffusers
  import torch
  from diffusers.pipelines.flux import pipeline_flux as module

  pipe = diffusers.FluxPipeline.from_pretrained(root)
  pipe.set_progress_bar_config(disable=True)
  z, latents, decode = torch.from_numpy(noise().transpose(0, 3, 1, 2).copy()), [], pipe.vae.decode
  module.randn_tensor = lambda shape, *_, **__: z.reshape(shape)
  pipe.vae.decode = lambda x, *a, **k: latents.append(x.numpy()) or decode(x, *a, **k)
  images = pipe(
    list(PROMPTS), height=SIDE, width=SIDE, num_inference_steps=STEPS, output_type="np"
  ).images
  return latents[0], images


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--to", type=Path, default=Path("tests/inference"))
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    latents, images = theirs(flux_folder(Path(temporary) / "tiny"))
  np.savez_compressed(args.to / GOLDEN, latents=latents, images=images)
  print(args.to / GOLDEN, latents.std(), images.std())


if __name__ == "__main__":
  main()
