"""How the outputs of text encoders, in the order of their names, become a backbone's towers.

The text goes by the name "text"; towers.published has how each published pipeline joins.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from t2i_jax.models.conditioning import Tower

Towers = Mapping[str, Tower]
Widths = Mapping[str, Mapping[str, int]]  # encoder -> fields of a backbone's config


class Join(NamedTuple):
  """towers: of encoders to those of the backbone;   widths: text_width, pooled_width of these"""

  towers: Callable[[Towers], dict[str, Tower]]
  widths: Callable[[Widths], dict[str, int]]


def _merged(widths: Widths) -> dict[str, int]:
  return {key: value for one in widths.values() for key, value in one.items()}


def _one(towers: Towers) -> dict[str, Tower]:
  *_, last = towers.values()
  return {"text": last._replace(pooled=_pooled(towers))}


def _one_widths(widths: Widths) -> dict[str, int]:
  *_, last = widths.values()
  return {"text_width": last["text_width"]} | _pooled_width(widths)


def _features(towers: Towers) -> dict[str, Tower]:
  first = next(iter(towers.values()))
  tokens = jnp.concatenate([tower.tokens for tower in towers.values()], -1)  # [B, T, D1 + D2]
  return {"text": Tower(tokens, first.mask, _pooled(towers))}


def _features_widths(widths: Widths) -> dict[str, int]:
  return {"text_width": sum(w["text_width"] for w in widths.values())} | _pooled_width(widths)


def _tokens(towers: Towers) -> dict[str, Tower]:
  *names, last = towers
  first, then = _features({name: towers[name] for name in names})["text"], towers[last]
  more = then.tokens.shape[-1] - first.tokens.shape[-1]
  tokens = jnp.pad(first.tokens, ((0, 0), (0, 0), (0, more)))
  return {
    "text": Tower(
      jnp.concatenate([tokens, then.tokens], 1),  # [B, T1 + T2, D]
      jnp.concatenate([first.mask, then.mask], 1),
      _pooled(towers),
    )
  }


def _pooled(towers: Towers) -> jax.Array | None:
  found = [tower.pooled for tower in towers.values() if tower.pooled is not None]
  return jnp.concatenate(found, -1) if found else None


def _pooled_width(widths: Widths) -> dict[str, int]:
  found = [w["pooled_width"] for w in widths.values() if "pooled_width" in w]
  return {"pooled_width": sum(found)} if found else {}


# By the name in config.text.join. Pooled vectors lie side by side.
JOINS: dict[str, Join] = {
  "each": Join(dict, _merged),  # a tower of the backbone by the encoder's name
  "one": Join(_one, _one_widths),  # the tokens of the last encoder, as FLUX.1
  "features": Join(_features, _features_widths),  # tokens side by side, as SDXL
  # Those of all but the last, filled up with zeros to its width, then the last's: SD3
  # [2403.03206 fig. 2].
  "tokens": Join(_tokens, _one_widths),
}
