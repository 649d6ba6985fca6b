"""Prompt-to-Prompt [2208.01626]: attention of a target row, edited by that of its source row.

The condition of each row holds how it is edited, by token and by step (`EditRows`), so that another
edit, or more steps of it, compile nothing. Rows are pairs: guidance computes `stride` conditions of
each image side by side, and a target's rows follow those of its source.

    cross  the map over text tokens is the source's, its columns moved to the target's tokens
    self   queries and keys of the source with the target's values: the source's map
    joint  of image rows, text columns as "cross", brought to the row's own total on text, so that
           the mass on the image does not change; image columns as "self", to the own total on them
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t2i_jax.models.attention import Visible, applied, attention_weights
from t2i_jax.models.control import Control, Here, Role

EDIT = "edit"  # of extras
LEAST = 1e-20  # of a total that is divided by


class EditRows(NamedTuple):
  """extras["edit"]: how the attention of each row of R is edited, over the T tokens of the text.

  mapper  [R, T, T] float32: column j of the edited map is sum_i mapper[j, i] of the source's i
  own     [R, T] float32, 1 where a column has no counterpart and stays the row's own
  scale   [R, T] float32, by which a column is multiplied, without renormalisation [2208.01626
          sec. 3.2, its code]
  cross   [R, T] int32, steps in which a column is edited
  inside  [R] int32, steps in which the image's self-attention is the source's
  step    [R] int32, the step now
  words   [R, T, K] float32: map k of `record` is the sum of the columns of these weights; None:
          nothing is recorded
  """

  mapper: Any
  own: Any
  scale: Any
  cross: Any
  inside: Any
  step: Any
  words: Any


def source_of(x: jax.Array, stride: int) -> jax.Array:
  """In place of each target row that of its source.   # [R, ...]"""
  pairs = x.reshape(-1, 2, stride, *x.shape[1:])
  return jnp.broadcast_to(pairs[:, :1], pairs.shape).reshape(x.shape)


def edited_text(
  own: jax.Array,
  source: jax.Array,
  e: EditRows,
  allowed: jax.Array | None,
  *,
  keep_total: bool = False,
) -> jax.Array:
  """A map over text tokens, edited by that of the source.   # [R, ..., L, T], over T tokens

      (own A + (1 - own) sum_i mapper[j, i] A_source_i) scale     [2208.01626 sec. 3.2]

  allowed     [R, L, T] bool, or what broadcasts to it: where there is attention
  keep_total  each row's sum is brought to what it was before it is scaled
  """
  by_row = lambda a: a.reshape(len(a), *[1] * (own.ndim - 2), a.shape[-1])
  moved = jnp.einsum("r...li,rji->r...lj", source, e.mapper)
  share, now = by_row(e.own), by_row(e.step[:, None] < e.cross)
  mixed = jnp.where(now, share * own + (1 - share) * moved, own)
  if allowed is not None:
    mixed = jnp.where(allowed[:, None, None], mixed, 0)
  if keep_total:
    mixed = mixed * (_total(own) / jnp.maximum(_total(mixed), LEAST))
  return jnp.where(now, mixed * by_row(e.scale), mixed)


def _total(weights: jax.Array) -> jax.Array:
  return jnp.sum(weights, axis=-1, keepdims=True)


class Maps(NamedTuple):
  """Attention weights [R, Nkv, N / Nkv, Lq, Lkv] of all queries, and of image queries over text."""

  weights: jax.Array
  over_text: jax.Array


def prompt_to_prompt(depth: int, stride: int, largest: int = 0, record: bool = False) -> Control:
  """The control. Rows of Role.TARGET are edited, all others are as without it.

  depth    layers of the model
  stride   conditions of guidance: rows from an image of one condition to the next image
  largest  image tokens up to which self-attention is edited; 0: everywhere
  record   image queries' attention over chosen words is recorded, after the edit and averaged over
           heads, [R, L, K] float32 of each layer
  """

  def inside(here: Here, tokens: int) -> jax.Array:
    e: EditRows = here.extras[EDIT]
    small = not largest or tokens <= largest
    return (here.role == Role.TARGET) & (e.step < e.inside) & small

  def cross(here: Here, q: jax.Array, k: jax.Array, mask: Visible | None) -> Maps:
    allowed = None if mask is None else mask.allowed()
    own = attention_weights(q, k, allowed)
    edited = edited_text(own, source_of(own, stride), here.extras[EDIT], allowed)
    weights = jnp.where(_rows(here.role == Role.TARGET, own), edited, own)
    return Maps(weights, weights)

  def joint(here: Here, q: jax.Array, k: jax.Array, mask: Visible | None) -> Maps:
    text = here.text
    allowed = None if mask is None else mask.allowed()
    whole = attention_weights(q, k, allowed)
    own = whole[..., text:, :]  # rows of the image
    source = source_of(own, stride)
    e = padded(here.extras[EDIT], text)
    seen = None if allowed is None else allowed[..., text:, :text]
    words = edited_text(own[..., :text], source[..., :text], e, seen, keep_total=True)
    pixels, theirs = own[..., text:], source[..., text:]
    same_mass = theirs * (_total(pixels) / jnp.maximum(_total(theirs), LEAST))
    pixels = jnp.where(_rows(inside(here, pixels.shape[-1]), own), same_mass, pixels)
    edited = jnp.concatenate([words, pixels], axis=-1)
    image = jnp.where(_rows(here.role == Role.TARGET, own), edited, own)
    return Maps(jnp.concatenate([whole[..., :text, :], image], axis=-2), image[..., :text])

  maps = {"cross": cross, "joint": joint}

  def attention(here: Here, site: str, q, k, v, mask: Visible | None) -> jax.Array:
    if site in maps:
      return applied(maps[site](here, q, k, mask).weights, v)
    if of_text(here):
      return here.attend(q, k, v, mask)
    rows = inside(here, q.shape[1])[:, None, None, None]
    q, k = (jnp.where(rows, source_of(x, stride), x) for x in (q, k))
    return here.attend(q, k, v, mask)

  def recorded(here: Here, site: str, q, k, v, mask: Visible | None) -> jax.Array | None:
    if site not in maps:
      return None
    over_text = maps[site](here, q, k, mask).over_text
    words = padded(here.extras[EDIT], over_text.shape[-1]).words
    mean = jnp.mean(over_text, axis=(1, 2))  # [R, L, T]
    return jnp.einsum("rlt,rtk->rlk", mean, words)

  return Control(jnp.zeros(depth, bool), attention=attention, record=recorded if record else None)


def of_text(here: Here) -> bool:
  """Whether a stack's self-attention is that of the text alone."""
  return here.stack.startswith("text")


def _rows(rows: jax.Array, like: jax.Array) -> jax.Array:
  return rows.reshape(-1, *[1] * (like.ndim - 1))


def padded(e: EditRows, tokens: int) -> EditRows:
  """Over more tokens than the text has, where a model fills it up: these stay the row's own."""
  more = tokens - e.own.shape[1]
  if not more:
    return e
  wider = lambda a, value: jnp.pad(a, ((0, 0), (0, more)), constant_values=value)
  return e._replace(
    mapper=jnp.pad(e.mapper, ((0, 0), (0, more), (0, more))),
    own=wider(e.own, 1),
    scale=wider(e.scale, 1),
    cross=wider(e.cross, 0),
    words=None if e.words is None else jnp.pad(e.words, ((0, 0), (0, more), (0, 0))),
  )
