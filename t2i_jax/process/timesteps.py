"""The laws from which training draws t: functions of a key that return one t in (0, 1)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from t2i_jax.errors import ConfigError

TimestepLaw = Callable[[jax.Array], jax.Array]
TIMESTEP_LAWS = ("uniform", "logit_normal")

# float32 uniforms include 0, where sigma = 0 and an x0 prediction has no eps.
_SMALLEST = 1e-5


def make_timestep_law(name: str, mean: float = 0.0, std: float = 1.0) -> TimestepLaw:
  """A law of t by name; `mean` and `std` are those of logit(t) for logit_normal.

  logit_normal: t = sigmoid(mean + std z), z ~ N(0, 1)        [2403.03206 eq. 19]
  Raises ConfigError for another name.
  """
  if name == "uniform":
    return lambda key: jax.random.uniform(key, minval=_SMALLEST, maxval=1.0)
  if name == "logit_normal":
    return lambda key: jnp.clip(
      jax.nn.sigmoid(mean + std * jax.random.normal(key)), _SMALLEST, 1 - _SMALLEST
    )
  raise ConfigError(f"process.timesteps = {name!r} is not one of {', '.join(TIMESTEP_LAWS)}.")
