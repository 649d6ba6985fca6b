"""Which module of an autoencoder first gives NaN or infinity."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.autoencoders.kl import Autoencoder
from t2i_jax.errors import NotFinite

Way = Literal["encode", "decode"]


def _stages(model: Autoencoder, way: Way):
  return model.encode_stages() if way == "encode" else model.decode_stages()


def first_not_finite(model: Autoencoder, way: Way, x: jax.Array) -> jax.Array:
  """Number of the first module with a value that is not finite, 0 for x itself, or -1.   # [] int32

  x    [B, H, W, 3] of "encode", z [B, h, w, C] of "decode"; not in tiles
  Can be compiled; `check_finite` names the module.
  """
  x = (x if way == "encode" else model.restore(x)).astype(model.dtype)
  finite = [jnp.isfinite(x).all()]
  for _, stage in _stages(model, way):
    x = stage(x)
    finite.append(jnp.isfinite(x).all())
  bad = ~jnp.stack(finite)
  return jnp.where(bad.any(), jnp.argmax(bad), -1).astype(jnp.int32)


def check_finite(model: Autoencoder, way: Way, x: jax.Array) -> None:
  """Raises NotFinite naming the first module whose output has NaN or infinity; see above."""
  graph, state = nnx.split(model)  # weights in a closure would be constants of the program
  found = int(jax.jit(lambda state, x: first_not_finite(nnx.merge(graph, state), way, x))(state, x))
  if found == 0:
    what = "the image" if way == "encode" else "z"
    raise NotFinite(f"{way}: {what} has NaN or infinity before the autoencoder.")
  if found > 0:
    name = _stages(model, way)[found - 1][0]
    hint = "Check its weights"
    if model.dtype != jnp.float32:
      hint = f'Use activations="float32" in place of {model.dtype.name}, or check its weights'
    raise NotFinite(f"{way}: {name} gives NaN or infinity. {hint}.")
