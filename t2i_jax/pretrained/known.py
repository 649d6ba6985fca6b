"""The supported published classes, by their name in config.json."""

from collections.abc import Mapping
from typing import Any

from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.pretrained.class_dit import CLASS_DIT
from t2i_jax.pretrained.flux import FLUX, FLUX2
from t2i_jax.pretrained.kl import KL, KL_FLUX2
from t2i_jax.pretrained.pixart import PIXART
from t2i_jax.pretrained.qwen_image import QWEN_IMAGE
from t2i_jax.pretrained.qwen_vae import QWEN_VAE
from t2i_jax.pretrained.sd3 import SD3_SPEC
from t2i_jax.pretrained.spec import Spec
from t2i_jax.pretrained.vq import VQ
from t2i_jax.pretrained.z_image import Z_IMAGE

SPECS: dict[str, Spec] = {
  spec.hf_class: spec for spec in (CLASS_DIT, PIXART, SD3_SPEC, FLUX, FLUX2, QWEN_IMAGE, Z_IMAGE)
}
SPECS |= {spec.hf_class: spec for spec in (KL, KL_FLUX2, QWEN_VAE, VQ)}

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
  if not isinstance(name, str) or name not in SPECS:
    raise RestoreError(f"{where}: {key} = {name!r} is not one of {', '.join(SPECS)}.")
  return SPECS[name]


def spec_for(config: Any) -> Spec:
  """The spec for our config. Raises ConfigError for a model without a published layout."""
  for spec in SPECS.values():
    if type(config) is spec.config:
      return spec
  kinds = ", ".join(spec.config.__name__ for spec in SPECS.values())
  raise ConfigError(f"a {type(config).__name__} has no published layout; {kinds} have one.")
