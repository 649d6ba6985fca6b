"""How the outputs of several text encoders become the towers that a backbone takes."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp

from t2i_jax.errors import ConfigError
from t2i_jax.models.conditioning import Tower

Towers = dict[str, Tower]
Widths = dict[str, int]  # fields of a backbone's config: text_width, pooled_width, classes


class Join(NamedTuple):
  """towers: encoder -> its output, to the backbone's towers by name;   widths: the same of theirs

  needs  encoders that there must be
  """

  towers: Callable[[Towers], Towers]
  widths: Callable[[Mapping[str, Widths]], Widths]
  needs: tuple[str, ...] = ()

  def check(self, names: Mapping[str, object], key: str) -> None:
    """Raises ConfigError where an encoder is missing.   key: where the join was chosen"""
    missing = [name for name in self.needs if name not in names]
    if missing:
      raise ConfigError(
        f"{key} joins {', '.join(self.needs)}, and text.towers has no {' and no '.join(missing)}."
      )


def _merged(widths: Mapping[str, Widths]) -> Widths:
  return {key: value for one in widths.values() for key, value in one.items()}


def _pooled_and_tokens(towers: Towers) -> Towers:
  """The tokens of T5 and the pooled vector of CLIP, as FLUX.1 takes them."""
  return {"text": towers["t5"]._replace(pooled=towers["clip"].pooled)}


def _side_by_side(towers: Towers) -> Towers:
  """CLIP L's and bigG's tokens on one axis of features, filled up with zeros to the width of T5's,
  which follow along the sequence; pooled side by side [2403.03206 sec. 4, fig. 2]."""
  one, two, t5 = towers["clip"], towers["clip_g"], towers["t5"]
  clip = jnp.concatenate([one.tokens, two.tokens], -1)  # [B, T, D1 + D2]
  clip = jnp.pad(clip, ((0, 0), (0, 0), (0, t5.tokens.shape[-1] - clip.shape[-1])))
  assert one.pooled is not None and two.pooled is not None
  return {
    "text": Tower(
      jnp.concatenate([clip, t5.tokens], 1),
      jnp.concatenate([one.mask, t5.mask], 1),
      jnp.concatenate([one.pooled, two.pooled], -1),
    )
  }


# By the name in config.text.join.
JOINS: dict[str, Join] = {
  "each": Join(lambda towers: towers, _merged),
  "flux": Join(
    _pooled_and_tokens,
    lambda of: {
      "text_width": of["t5"]["text_width"],
      "pooled_width": of["clip"]["pooled_width"],
    },
    ("clip", "t5"),
  ),
  "sd3": Join(
    _side_by_side,
    lambda of: {
      "text_width": of["t5"]["text_width"],
      "pooled_width": of["clip"]["pooled_width"] + of["clip_g"]["pooled_width"],
    },
    ("clip", "clip_g", "t5"),
  ),
}
