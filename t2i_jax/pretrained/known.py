"""The published classes that are known, by the name in config.json."""

from collections.abc import Mapping
from typing import Any

from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.pretrained.class_dit import CLASS_DIT
from t2i_jax.pretrained.flux import FLUX, FLUX2
from t2i_jax.pretrained.pixart import PIXART
from t2i_jax.pretrained.qwen_image import QWEN_IMAGE
from t2i_jax.pretrained.sd3 import SD3_SPEC
from t2i_jax.pretrained.spec import Spec
from t2i_jax.pretrained.z_image import Z_IMAGE

SPECS: dict[str, Spec] = {
  spec.theirs: spec for spec in (CLASS_DIT, PIXART, SD3_SPEC, FLUX, FLUX2, QWEN_IMAGE, Z_IMAGE)
}

# Folders from before DiT and PixArt had classes of their own tell them apart by a key.
OLD_CLASS, OLD_KEY = "Transformer2DModel", "norm_type"
OLD = {"ada_norm_zero": CLASS_DIT, "ada_norm_single": PIXART}


def spec_of(content: Mapping[str, Any], where: str) -> Spec:
  """The spec for a config.json. Raises RestoreError for a class that is not known."""
  name = content.get("_class_name")
  if name == OLD_CLASS and content.get(OLD_KEY) in OLD:
    return OLD[content[OLD_KEY]]
  if not isinstance(name, str) or name not in SPECS:
    raise RestoreError(f"{where}: _class_name = {name!r} is not one of {', '.join(SPECS)}.")
  return SPECS[name]


def spec_for(config: Any) -> Spec:
  """The spec of our config. Raises ConfigError for a model that was never published so."""
  for spec in SPECS.values():
    if type(config) is spec.config:
      return spec
  kinds = ", ".join(spec.config.__name__ for spec in SPECS.values())
  raise ConfigError(f"a {type(config).__name__} has no published layout; {kinds} have one.")
