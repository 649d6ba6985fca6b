"""Single files in their original layout; the config is inferred from the shapes of tensors."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.models.params import Params
from t2i_jax.pretrained.flux_original import FLUX_ORIGINAL
from t2i_jax.pretrained.folder import read_params
from t2i_jax.pretrained.original import Original
from t2i_jax.pretrained.sd3_original import SD3_ORIGINAL
from t2i_jax.pretrained.spec import RUNS
from t2i_jax.pretrained.tensors import PICKLES, Found, Tensors, some
from t2i_jax.pretrained.unet_original import UNET_ORIGINAL

ORIGINALS = (FLUX_ORIGINAL, SD3_ORIGINAL, UNET_ORIGINAL)
PREFIX = "model.diffusion_model."  # of the transformer in a file that also has other networks


def load_file(
  path: str | Path, shardings: Params | Mesh | None = None, dtype: Any = jnp.float32, **changes: Any
) -> tuple[Any, Any, Params]:
  """The module class, our config and the parameters of a FLUX.1's, a Stable Diffusion 3's,
  or the U-Net's of a Stable Diffusion's or SDXL's file.

  shardings, dtype as for `load`
  changes  those of `load`, and what the file does not determine: rope_axes of a FLUX whose heads
           are not 128 wide; side and heads of Stable Diffusion 3; the side of Stable Diffusion 2,
           and what differs from the published sizes of a U-Net: heads, groups, micro_conditions
  Raises RestoreError for another layout or an incomplete file, ConfigError for another field in
  `changes`.
  """
  path = check_file(path)
  with Tensors() as tensors:
    tensors.add(path)
    if any(name.startswith(PREFIX) for name in tensors.stored):
      tensors.keep(PREFIX)
    original = _layout(tensors, path)
    config = _config(original, tensors, path, changes)
    config = original.spec.infer_from_tensors(config, tensors)
    found = Found(tensors, [], set())
    params = read_params(original.spec, config, found, str(path), shardings, dtype)
  return original.spec.module, config, params


def check_file(path: str | Path) -> Path:
  """The path of a file that can be read. Raises RestoreError."""
  path = Path(path)
  if path.suffix in PICKLES:
    raise RestoreError(
      f"{path} is a pickle, which can execute code when read: use the safetensors file."
    )
  if not path.is_file():
    raise RestoreError(f"{path} is not a file.")
  return path


def _layout(tensors: Tensors, path: Path) -> Original:
  for original in ORIGINALS:
    if all(name in tensors.stored for name in original.mark):
      return original
  names = "; ".join(
    f"{original.spec.hf_class} has {', '.join(original.mark)}" for original in ORIGINALS
  )
  raise RestoreError(f"{path} has {some(tensors.stored)}: not a supported layout. {names}.")


def _config(original: Original, tensors: Tensors, path: Path, changes: dict[str, Any]) -> Any:
  allowed = RUNS + original.arguments
  wrong = [key for key in changes if key not in allowed]
  if wrong:
    raise ConfigError(f"{some(wrong)} cannot be changed for stored weights; {some(allowed)} can.")
  try:
    found = original.infer({name: at.shape for name, at in tensors.stored.items()})
  except KeyError as error:
    raise RestoreError(f"{path} is incomplete: missing: {error.args[0]}.") from error
  except (ValueError, IndexError, RestoreError) as error:
    raise RestoreError(f"{path} is not {original.spec.hf_class}: {error}") from error
  found |= changes
  unknown = [key for key in original.arguments if key not in found]
  if unknown:
    raise ConfigError(
      f"{path} does not determine {some(unknown)}: use load_file(..., {unknown[0]}=...)."
    )
  return original.spec.config(**found)
