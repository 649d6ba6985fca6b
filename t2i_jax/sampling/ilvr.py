"""ILVR: the low frequencies of a sample are those of a reference. [2108.02938]"""

from typing import Annotated

import jax
import jax.numpy as jnp

from t2i_jax.errors import ConfigError
from t2i_jax.process import Prediction
from t2i_jax.ranges import Range
from t2i_jax.sampling.loop import Noise, OnStep
from t2i_jax.sampling.solver import Step

Factor = Annotated[int, Range("[1, 1024]")]
FILTERS = ("box", "cubic")


def low_pass(x: jax.Array, factor: int, kind: str = "box") -> jax.Array:
  """x [B, H, W, C] scaled down by a factor and up again, a linear map.

  kind  "box": the mean of each block, a projection; "cubic": as published, nearly one
  Raises ConfigError for another kind, and for sides that the factor does not divide.
  """
  if kind not in FILTERS:
    raise ConfigError(f"ilvr: kind = {kind!r} is not one of {', '.join(FILTERS)}.")
  b, rows, cols, channels = x.shape
  if rows % factor or cols % factor:
    raise ConfigError(f"ilvr: factor = {factor} does not divide {rows} x {cols} latents or pixels.")
  if kind == "cubic":
    small = jax.image.resize(x, (b, rows // factor, cols // factor, channels), "cubic")
    return jax.image.resize(small, x.shape, "cubic")
  blocks = x.reshape(b, rows // factor, factor, cols // factor, factor, channels)
  return jnp.broadcast_to(jnp.mean(blocks, (2, 4), keepdims=True), blocks.shape).reshape(x.shape)


def ilvr(
  plan: Step, reference: jax.Array, noise: Noise, factor: int, steps: int, kind: str = "box"
) -> OnStep:
  """The hook of `sample` that replaces low frequencies after each of the first `steps` steps.

      x_s = x'_s + phi(y_s) - phi(x'_s),   y_s ~ q(y_s | y)        [2108.02938 alg. 1]

  plan       the one given to `sample`, of a solver without memory
  reference  y [B, H, W, C], like x0
  noise      step index -> unit Gaussian, from other keys than the solver's
  """
  to = plan.to

  def on_step(i, x: jax.Array, prediction: Prediction, state):
    y = to.alpha[i] * reference + to.sigma[i] * noise(i).astype(x.dtype)
    return jnp.where(i < steps, x + low_pass(y - x, factor, kind), x), state

  return on_step
