"""What all backbones of `BACKBONES` are: one call, one answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.conditioning import Conditioning, Tower
from t2i_jax.models.control import Control
from t2i_jax.models.stack import Answer, Runs, Stacks
from t2i_jax.ranges import Count, Depth, Whole, Width

BESIDE = "beside"  # in the extras of a condition


@dataclass(frozen=True, kw_only=True)
class Beside(Runs):
  """beside: channels of what is read beside x_t, extras["beside"]: those of a latent for an image
  that is edited [2211.09800 sec. 3.2]"""

  beside: Whole = 0

  @property
  def inputs(self) -> int:
    """Channels of the first projection."""
    return self.channels + self.beside  # type: ignore[attr-defined]


@dataclass(frozen=True)
class PatchConfig(Beside):
  """What configs of transformers over patches of images have.

  width     of tokens
  depth     blocks, of all stacks or of the main one
  patch     of a side, in latents or pixels
  channels  of x_t
  out       channels of the prediction; twice those of x_t where a variance is learned
            [2212.09748, its code]
  """

  width: Width
  depth: Depth
  heads: Count
  patch: Count
  channels: Width
  out: Count


class Backbone(nnx.Module):
  """A network that predicts from x_t; `predict` is what a subclass computes."""

  config: Any  # a stack.Runs

  def __call__(
    self,
    x_t: jax.Array,
    model_time: jax.Array,
    cond: Conditioning,
    control: Control | None = None,
    residuals: Mapping[str, Any] | None = None,
  ) -> Answer:
    """x_t [B, H, W, C], model_time [B] in units of steps -> Answer of [B, H, W, out].

    control    what is changed inside the blocks, on rows by cond.extras["role"]
    residuals  {stack: pytree [K, ...]}, added after its blocks (ControlNet)
    cond.extras["beside"]  [B, H, W, config.beside], where the network reads that
    """
    stacks = Stacks(self.config, control, cond, residuals)
    x = with_beside(x_t, cond, getattr(self.config, "beside", 0))
    return stacks.answer(self.predict(x, model_time, cond, stacks))

  def predict(self, x_t: Any, model_time: Any, cond: Any, stacks: Stacks) -> jax.Array:
    """The prediction [B, H, W, out] float32, its blocks run by `stacks`.

    x_t  with what is read beside it as its last channels
    """
    raise NotImplementedError

  def text_tokens(self, text: Tower, dtype: Any) -> jax.Array:
    """The text as attention to it reads it.   # [B, T, D]"""
    return text.tokens.astype(dtype)


def with_beside(x_t: jax.Array, cond: Conditioning, channels: int) -> jax.Array:
  """x_t, and what is read beside it.   [B, H, W, C] -> [B, H, W, C + channels]"""
  if not channels:
    return x_t
  if BESIDE not in cond.extras:
    raise ConfigError(
      f"model.beside = {channels}: this model reads a mask or an image beside x_t, which t2i "
      "sample gives it, with --image and --mask or with --reference."
    )
  return jnp.concatenate([x_t, cond.extras[BESIDE].astype(x_t.dtype)], axis=-1)
