"""What a prediction is conditioned on: named towers of tokens, and extras. A pytree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t2i_jax.errors import ConfigError


class Tower(NamedTuple):
  """The output of one encoder.

  tokens  [B, T, D]  float
  mask    [B, T]     bool, True where a token counts
  pooled  [B, P]     one vector a row, or None
  """

  tokens: jax.Array
  mask: jax.Array
  pooled: jax.Array | None


class Conditioning(NamedTuple):
  """towers by name ("text", ...) and extras (class label, guidance, sizes, reference images)."""

  towers: dict[str, Tower]
  extras: dict[str, Any]


def pooled_of(tower: Tower, model: str) -> jax.Array:
  """The pooled vector of a tower [B, P]. Raises ConfigError where it has none."""
  if tower.pooled is None:
    raise ConfigError(
      f"model.kind = {model!r} needs a pooled text, and text.towers.text has no pooled output: "
      "use text.towers.text = 'transformer(...)'."
    )
  return tower.pooled


def guidance_of(cond: Conditioning, scale: float, rows: int) -> jax.Array:
  """The input of a guidance embedding: extras["guidance"] [B], or `scale` for all rows."""
  return cond.extras.get("guidance", jnp.full(rows, scale, jnp.float32))


def with_references(x_t: jax.Array, cond: Conditioning) -> tuple[jax.Array, ...]:
  """x_t and the images of extras["references"], in its dtype; their tokens follow its own."""
  return (x_t, *(r.astype(x_t.dtype) for r in cond.extras.get("references", ())))


def drop_towers(
  towers: dict[str, Tower], null: dict[str, Tower], drop: dict[str, jax.Array]
) -> dict[str, Tower]:
  """The towers, replaced by the null's in the rows where `drop` is True.

  null  one row, or as many as towers;   drop  tower -> bool [B]; towers not named are kept
  """

  def mixed(name: str, tower: Tower) -> Tower:
    if name not in drop:
      return tower
    where = lambda new, old: jnp.where(drop[name].reshape(-1, *[1] * (old.ndim - 1)), new, old)
    return jax.tree.map(where, null[name], tower)

  return {name: mixed(name, tower) for name, tower in towers.items()}
