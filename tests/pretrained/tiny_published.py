"""One small config of every published class, and random parameters for it."""

import jax
import numpy as np

from t2i_jax.autoencoders import Flux2KLConfig, KLConfig, QwenImageVAEConfig, VQConfig
from t2i_jax.models.class_dit import ClassDiTConfig
from t2i_jax.models.controlnet import ControlNetConfig
from t2i_jax.models.flux import Flux2Config, FluxConfig
from t2i_jax.models.pixart import PixArtConfig
from t2i_jax.models.qwen_image import QwenImageConfig
from t2i_jax.models.sd3 import SD3Config
from t2i_jax.models.stream_controlnets import FluxControlNetConfig, SD3ControlNetConfig
from t2i_jax.models.unet import UNetConfig
from t2i_jax.models.z_image import ZImageConfig
from t2i_jax.pretrained.fill import host_layers, make_tensor
from t2i_jax.pretrained.known import spec_for
from t2i_jax.pretrained.names import stored_shapes, tensors_of
from t2i_jax.pretrained.spec import abstract_params, flat
from t2i_jax.towers import BertConfig, ClipConfig, T5Config

# Width 48 in 4 heads: any mesh of 8 devices whose sides divide 4 and 48 divides the weights.
CONFIGS = {
  "class_dit": ClassDiTConfig(48, 3, 4, 2, 4, 8, 10, 8),
  "pixart": PixArtConfig(48, 2, 4, 2, 4, 8, 24, 8),
  "pixart_sizes": PixArtConfig(48, 2, 4, 2, 4, 8, 24, 8, interpolation=2.0, sizes=True),
  "sd3": SD3Config(48, 3, 4, 2, 4, 4, 24, 20, 8, 8, qk_norm=False),
  "sd3_dual": SD3Config(48, 4, 4, 2, 4, 4, 24, 20, 8, 12, dual_blocks=2),
  "sd3_all_dual": SD3Config(48, 2, 4, 2, 4, 4, 24, 20, 8, 8, dual_blocks=1),
  "flux": FluxConfig(48, 2, 3, 4, 2, 4, 4, 24, (4, 4, 4), pooled_width=20),
  "flux_guided": FluxConfig(48, 1, 1, 4, 2, 6, 4, 24, (4, 4, 4), pooled_width=20, guidance=3.5),
  "flux2": Flux2Config(48, 2, 3, 4, 1, 16, 16, 24, (4, 4, 2, 2), mlp_ratio=17 / 6, guidance=4.0),
  "qwen_image": QwenImageConfig(48, 2, 4, 2, 4, 4, 24, (4, 4, 4)),
  "z_image": ZImageConfig(48, 3, 4, 2, 4, 4, 24, 2, (4, 4, 4)),
  "unet": UNetConfig(
    4, 24, (48, 96), 1, (1, 0), 1, (4, 4), 4, out=4, guidance_width=8, beside=5, side=8
  ),
  "unet_sdxl": UNetConfig(4, 24, (48, 96), 1, (0, 2), 2, (2, 4), 4, 20, 6, 8, True, out=4),
  "controlnet": ControlNetConfig(
    4, 24, (48, 96), 1, (0, 2), 2, (2, 4), 4, 20, 6, 8, True, hint_widths=(8, 12), bgr=True
  ),
  "sd3_controlnet": SD3ControlNetConfig(48, 2, 4, 2, 4, 4, 24, 20, 8, 8, 1, extra=1),
  "flux_controlnet": FluxControlNetConfig(48, 2, 1, 4, 2, 4, 4, 24, (4, 4, 4), pooled_width=20),
  "clip": ClipConfig(96, 12, 48, 2, 4, 64, eos=2),
  "clip_projected": ClipConfig(96, 12, 48, 3, 4, 64, "gelu", projection=16, pooled="projected"),
  "t5": T5Config(96, 48, 3, 4, 8, 64),
  "t5_first": T5Config(96, 48, 2, 4, 16, 64, "relu", buckets=16, max_distance=20),
  "bert": BertConfig(96, 12, 48, 2, 4, 64),
}
AUTOENCODERS = {
  "kl": KLConfig(4, (8, 8, 16), groups=4, shift=0.5, attends=(1,), post_quant=False),
  "kl_statistics": KLConfig(2, (8,), 1, 4, latents_mean=(1.0, 2.0), latents_std=(3.0, 4.0)),
  "kl_flux2": Flux2KLConfig(8, (8, 16), (4, 8), groups=4, quant=False),
  "qwen_image_vae": QwenImageVAEConfig(2, 6, (1, 2), 2, (1.0, 2.0), (3.0, 4.0), (True,)),
  "vq": VQConfig(3, (8, 16), 2, 4, 32, latent=5, attends=(1,), mid_attention=False),
}


def random_params(config, seed=0, dtype=np.float32):
  """Normal numbers of this dtype, as float32, in the structure of the model's parameters."""
  rng = np.random.default_rng(seed)
  draw = lambda leaf: rng.standard_normal(leaf.shape, np.float32).astype(dtype).astype(np.float32)
  return jax.tree.map(draw, abstract_params(spec_for(config).module, config))


def in_the_authors_layout(original, config, params):
  """Our parameters as the tensors of an original file, by name."""
  entries, own = original.spec.entries(config), flat(params)
  shapes = {path: leaf.shape for path, leaf in own.items()}
  theirs, layer_of = stored_shapes(entries, shapes), host_layers(own)
  pieces = tensors_of(entries, shapes)
  return {name: make_tensor(pieces[name], theirs[name], layer_of) for name in theirs}
