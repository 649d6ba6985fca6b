"""The supported published classes, by their name in config.json."""

from collections.abc import Mapping
from typing import Any

from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.pretrained.bert import BERT
from t2i_jax.pretrained.class_dit import CLASS_DIT
from t2i_jax.pretrained.clip import CLIP_PROJECTED, CLIP_TEXT
from t2i_jax.pretrained.controlnet import CONTROLNET
from t2i_jax.pretrained.flux import FLUX, FLUX2
from t2i_jax.pretrained.kl import KL, KL_FLUX2
from t2i_jax.pretrained.pixart import PIXART
from t2i_jax.pretrained.qwen_image import QWEN_IMAGE
from t2i_jax.pretrained.qwen_vae import QWEN_VAE
from t2i_jax.pretrained.sd3 import SD3_SPEC
from t2i_jax.pretrained.spec import Spec
from t2i_jax.pretrained.stream_controlnets import FLUX_CONTROLNET, SD3_CONTROLNET
from t2i_jax.pretrained.t5 import T5_ENCODER
from t2i_jax.pretrained.text_models import TEXT_MODELS
from t2i_jax.pretrained.unet import UNET
from t2i_jax.pretrained.vgg import VGG
from t2i_jax.pretrained.vq import VQ
from t2i_jax.pretrained.z_image import Z_IMAGE

SPECS: dict[str, Spec] = {
  spec.hf_class: spec
  for spec in (
    *(CLASS_DIT, PIXART, SD3_SPEC, FLUX, FLUX2, QWEN_IMAGE, Z_IMAGE, UNET),
    *(CONTROLNET, SD3_CONTROLNET, FLUX_CONTROLNET),
    *(CLIP_TEXT, CLIP_PROJECTED, T5_ENCODER, BERT),
    *(KL, KL_FLUX2, QWEN_VAE, VQ),
  )
}
# Text encoders and features that are a part of what their folder holds: they are read, and never
# written. Of the text encoders' folders, pretrained.language_model reads the decoder of a joint
# model.
READ_ONLY: dict[str, Spec] = {spec.hf_class: spec for spec in (*TEXT_MODELS, VGG)}

# Classes of transformers of whose weights one that we have is a part, which is read alone.
WIDER = {"T5Model": T5_ENCODER, "T5ForConditionalGeneration": T5_ENCODER}

# Older folders, from before DiT and PixArt had their own classes, are distinguished by a key.
LEGACY_CLASS, LEGACY_KEY = "Transformer2DModel", "norm_type"
LEGACY = {"ada_norm_zero": CLASS_DIT, "ada_norm_single": PIXART}


def spec_of(content: Mapping[str, Any], where: str) -> Spec:
  """The spec for a config.json. Raises RestoreError for a class that is not supported."""
  name = content.get("_class_name")
  if name == LEGACY_CLASS and content.get(LEGACY_KEY) in LEGACY:
    return LEGACY[content[LEGACY_KEY]]
  key = "_class_name"
  if name is None and content.get("architectures"):
    key, (name, *_) = "architectures", content["architectures"]
  elif name is None and content.get("architecture"):
    key, name = "architecture", content["architecture"]  # of timm
  known = SPECS | READ_ONLY | WIDER
  if not isinstance(name, str) or name not in known:
    raise RestoreError(f"{where}: {key} = {name!r} is not one of {', '.join(known)}.")
  return known[name]


def spec_for(config: Any) -> Spec:
  """The spec for our config. Raises ConfigError for a model without a published layout."""
  for spec in (SPECS | READ_ONLY).values():
    if type(config) is spec.config and spec.fits(config):
      return spec
  kinds = ", ".join(dict.fromkeys(spec.config.__name__ for spec in SPECS.values()))
  raise ConfigError(f"a {type(config).__name__} has no published layout; {kinds} have one.")
