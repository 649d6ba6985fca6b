"""What a picture is asked to be: named towers of tokens, and extras. A pytree."""

from typing import Any, NamedTuple

import jax


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
