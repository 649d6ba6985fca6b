"""Which part, and of an autoencoder which module, first gave NaN or infinity: asked once an image
that was drawn has one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.autoencoders import check_finite
from t2i_jax.autoencoders.kl import Autoencoder
from t2i_jax.errors import NotFinite
from t2i_jax.models.conditioning import Tower
from t2i_jax.models.params import Params
from t2i_jax.systems.inputs import Inputs
from t2i_jax.systems.parts import InTurn, only
from t2i_jax.systems.system import checked, unit_range


def checked_with_cause(
  levels: jax.Array, system: Any, params: Params | InTurn, given: Inputs, x0: jax.Array
) -> np.ndarray:
  """`systems.system.checked`, whose error names the part and the module that is the cause.

  system  systems.drawing.DrawingSystem
  given   what the batch was drawn from, before its texts and images were encoded
  x0      [B, h, w, C], the latents that were decoded
  """
  try:
    return checked(levels)
  except NotFinite:
    if bool(jnp.isfinite(x0).all()):
      _check_autoencoder(system, params, "decode", x0)
    else:
      _check_inputs(system, params, given)
    raise  # nothing before the sampler has it


def _check_inputs(system: Any, params: Params | InTurn, given: Inputs) -> None:
  """Encodes images and texts again, and raises NotFinite for the first that is not finite."""
  origin = given.origin
  images = (*given.references, *(() if origin is None else (origin.images,)))
  for image in images:
    _check_autoencoder(system, params, "encode", unit_range(image))
  source = None if origin is None else origin.source
  for text in (given.cond, given.null, *given.others, source):
    if text is not None:
      _check_encoders(system, params, text)


def _check_autoencoder(system: Any, params: Params | InTurn, way: Any, x: jax.Array) -> None:
  model = system.module(only(params, ("vae",)), "vae", system.autoencoder.make)
  if not isinstance(model, Autoencoder):
    return
  side = model.raw_tile * (model.raw_factor if way == "encode" else 1)
  if model.tiling and max(x.shape[1:3]) > side:  # whole, it may not fit into memory
    if way == "decode":
      raise NotFinite(
        'part "vae" gives NaN or infinity from finite latents. Its module is named without tiling.'
      )
    return
  try:
    check_finite(model, way, x)
  except NotFinite as error:
    raise NotFinite(f'part "vae", {error}') from error


def _check_encoders(system: Any, params: Params | InTurn, text: Any) -> None:
  found = jax.jit(lambda own, text: _finite(system.towers(own, text)))(
    only(params, system.encoding), text
  )
  for name, finite in found.items():
    if not finite:
      raise NotFinite(
        f'part "{name}" gives NaN or infinity for these prompts. Check its weights, or use '
        "float32 activations."
      )


def _finite(towers: dict[str, Tower]) -> dict[str, jax.Array]:
  """By encoder, whether its tokens and its pooled vector are finite.   # [] bool"""
  both = lambda tower: (
    jnp.isfinite(tower.tokens).all()
    & (True if tower.pooled is None else jnp.isfinite(tower.pooled).all())
  )
  return {name: both(tower) for name, tower in towers.items()}
