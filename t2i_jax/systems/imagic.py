"""Imagic [2210.09276]: one image, edited as a text says.

    A   e_opt  = argmin_e  E |v(x_t; e) - v*|^2         from e_target, the encoding of the text
    B   theta  = argmin    E |v_theta(x_t; e_opt) - v*|^2
    C   e(eta) = eta e_target + (1 - eta) e_opt         the image is drawn at

Source: [2210.09276 sec. 3.2]. What is learned in A is the shift e_opt - e_target, the weights of
the part "embedding": e(eta) = e_target + (1 - eta) shift. `shifted` and `towards` are pure, so that
many images can be edited at once by vmap.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.data.batch import Batch
from t2i_jax.errors import ConfigError
from t2i_jax.models import abstract_of, with_params
from t2i_jax.models.conditioning import Conditioning, Tower
from t2i_jax.models.params import Params, weight, zeros
from t2i_jax.systems.denoising import denoise_batch
from t2i_jax.systems.parts import Part
from t2i_jax.systems.system import Draws
from t2i_jax.towers import TextEncoder
from t2i_jax.towers.join import Join

EMBEDDING = "embedding"  # the part


def shifted(cond: Conditioning, shift: Params) -> Conditioning:
  """A condition whose towers are moved: tokens [B, L, D], and the pooled vector where there is one.

  shift  {tower: {"tokens": [L, D] or [B, L, D], "pooled": [P] or [B, P]}} float32
  """
  add = lambda x, by: (x.astype(jnp.float32) + by).astype(x.dtype)

  def moved(name: str, tower: Tower) -> Tower:
    by = shift.get(name, {})
    pooled = add(tower.pooled, by["pooled"]) if "pooled" in by else tower.pooled
    return tower._replace(tokens=add(tower.tokens, by["tokens"]) if by else tower.tokens,
                          pooled=pooled)  # fmt: skip

  return cond._replace(towers={name: moved(name, tower) for name, tower in cond.towers.items()})


def towards(shift: Params, eta: Any) -> Params:
  """(1 - eta) shift, which moves e_target to e(eta): at eta = 1 it is 0, at 0 it is e_opt.

  eta  [] or [n]: rows of the result, whose leaves are those of shift, or [n, ...]
  """
  share = 1 - jnp.asarray(eta, jnp.float32)
  of = lambda leaf: share.reshape(*share.shape, *[1] * leaf.ndim) * leaf
  return jax.tree.map(of, shift)


class Shift(nnx.Module):
  """Of one tower; it begins at 0."""

  def __init__(self, tower: Tower, rngs: nnx.Rngs) -> None:
    self.tokens = weight(rngs, tower.tokens.shape[1:], (None, None), zeros)
    if tower.pooled is not None:
      self.pooled = weight(rngs, tower.pooled.shape[1:], (None,), zeros)


class Embedding(nnx.Module):
  """e_opt - e_target, of every tower of a backbone.   towers: of one row, as ShapeDtypeStructs"""

  def __init__(self, towers: Mapping[str, Tower], rngs: nnx.Rngs) -> None:
    for name, tower in towers.items():
      setattr(self, name, Shift(tower, rngs))


def tower_shapes(text: Mapping[str, TextEncoder], join: Join) -> dict[str, Tower]:
  """The towers of one caption, as ShapeDtypeStructs. Raises ConfigError where none can be moved."""
  if any(encoder.shown is not None for encoder in text.values()):
    raise ConfigError("train.objective = imagic: a text encoder sees images, and needs one.")
  nulls = {name: encoder.null for name, encoder in text.items()}

  def run(params: Params) -> dict[str, Tower]:
    encode = lambda name, one: one.after(
      with_params(one.make)(params[name])(*nulls[name], jnp.float32)
    )
    return join.towers({name: encode(name, one) for name, one in text.items()})

  found = jax.eval_shape(run, {name: abstract_of(one.make) for name, one in text.items()})
  if any(not jnp.issubdtype(tower.tokens.dtype, jnp.floating) for tower in found.values()):
    raise ConfigError("train.objective = imagic: text that is a class has no embedding to learn.")
  return found


@dataclass(frozen=True)
class Imagic:
  """The loss of both stages; config.parts says which of embedding and weights are trained.

  target  the text, which is the caption of the image that is trained on
  """

  target: str = ""

  def learned(self, text: Mapping[str, TextEncoder], join: Join) -> Part:
    """The part "embedding". Raises ConfigError."""
    return Part(partial(Embedding, tower_shapes(text, join)), training_only=True)

  def __call__(
    self, system: Any, params: Params, batch: Batch, draws: Draws
  ) -> dict[str, jax.Array]:
    if draws.drop:
      raise ConfigError(
        f"train.caption_dropout drops captions of {', '.join(draws.drop)}, and train.objective = "
        "imagic has one, whose embedding is learned. Use 0.0."
      )
    move = lambda cond: shifted(cond, params[EMBEDDING])
    return denoise_batch(system, params, batch, draws, move).values
