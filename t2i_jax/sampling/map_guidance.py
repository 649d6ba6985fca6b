"""Cross-attention guidance of pix2pix-zero: x_t moved so that attention maps stay the source's.

    x'_t = x_t - weight grad_x | M(x_t; c_edit) - M(x_t^source; c_source) |^2
    prediction of the edit at x'_t, used for the step from x_t

Source: [2302.03027 sec. 3.3]. The maps of the source are computed beside, at its own states of an
inversion, so that those of all steps need not be kept.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t2i_jax.process import Prediction, Time
from t2i_jax.sampling.guidance import Scale, row_scale
from t2i_jax.sampling.solver import Denoiser

Maps = Callable[[jax.Array, Time, Any], Any]  # (x_t, time, cond) -> maps, a pytree of floats


class Matched(NamedTuple):
  """The condition of a denoiser whose maps are matched.

  cond    of the denoiser that is wrapped, perhaps a Guided
  target  the condition whose maps are matched;   source: that of the maps they are to be
  states  the source's state [B, ...] at this step; of `sample`, of all steps [S, B, ...]
  """

  cond: Any
  target: Any
  source: Any
  states: jax.Array


def match_maps(denoise: Denoiser, maps: Maps, weight: Scale) -> Denoiser:
  """A denoiser of `Matched` conditions. weight: traced, a number or one a row; 0 changes nothing.

  maps  sums over a row's maps are what the gradient is of: average over heads by their scale
  """

  def matched(x_t: jax.Array, time: Time, cond: Matched) -> Prediction:
    wanted = maps(cond.states, time, cond.source)

    def distance(x: jax.Array) -> jax.Array:
      found = maps(x, time, cond.target)
      squares = jax.tree.map(lambda a, b: jnp.sum(jnp.square(a - b)), found, wanted)
      return sum(jax.tree.leaves(squares), jnp.float32(0))

    moved = x_t - row_scale(weight, x_t) * jax.grad(distance)(x_t)
    return denoise(moved, time, cond.cond)

  return matched


def states_at(i: jax.Array, cond: Matched, state: Any) -> Matched:
  """`cond_at` of `sample` for a condition Matched: step i has the i-th of its states."""
  return cond._replace(states=cond.states[i])
