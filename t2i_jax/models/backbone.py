"""What all backbones of `BACKBONES` are: one call, one answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from t2i_jax.models.conditioning import Conditioning, Tower
from t2i_jax.models.control import Control
from t2i_jax.models.stack import Answer, Runs, Stacks
from t2i_jax.ranges import Count, Depth, Width


@dataclass(frozen=True)
class PatchConfig(Runs):
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
    """
    stacks = Stacks(self.config, control, cond, residuals)
    return stacks.answer(self.predict(x_t, model_time, cond, stacks))

  def predict(self, x_t: Any, model_time: Any, cond: Any, stacks: Stacks) -> jax.Array:
    """The prediction [B, H, W, out] float32, its blocks run by `stacks`."""
    raise NotImplementedError

  def text_tokens(self, text: Tower, dtype: Any) -> jax.Array:
    """The text as attention to it reads it.   # [B, T, D]"""
    return text.tokens.astype(dtype)
