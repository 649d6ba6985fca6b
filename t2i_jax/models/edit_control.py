"""Prompt-to-Prompt [2208.01626]: attention of a target row, edited by that of its source row.

The condition of each row holds how it is edited, by token and by step (`EditRows`), so that another
edit, or more steps of it, compile nothing. Rows are pairs: guidance computes `stride` conditions of
each image side by side, and a target's rows follow those of its source.

    cross  the map over text tokens is the source's, its columns moved to the target's tokens
    self   queries and keys of the source with the target's values: the source's map
    joint  of image rows, text columns as "cross", brought to the row's own total on text, so that
           the mass on the image does not change; image columns as "self", to the own total on them
    whole  of a joint map: both totals are the source's, and in the steps of "cross" rows of the
           text are the source's, too, moved to the target's tokens
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
  total: jax.Array | None = None,
) -> jax.Array:
  """A map over text tokens, edited by that of the source.   # [R, ..., L, T], over T tokens

      (own A + (1 - own) sum_i mapper[j, i] A_source_i) scale     [2208.01626 sec. 3.2]

  allowed  [R, L, T] bool, or what broadcasts to it: where there is attention
  total    [R, ..., L, 1], to which each row's sum is brought before it is scaled
  """
  by_row = lambda a: a.reshape(len(a), *[1] * (own.ndim - 2), a.shape[-1])
  moved = jnp.einsum("r...li,rji->r...lj", source, e.mapper)
  share, now = by_row(e.own), by_row(e.step[:, None] < e.cross)
  mixed = jnp.where(now, share * own + (1 - share) * moved, own)
  if allowed is not None:
    mixed = jnp.where(allowed[:, None, None], mixed, 0)
  if total is not None:
    mixed = with_total(mixed, total)
  return jnp.where(now, mixed * by_row(e.scale), mixed)


def _total(weights: jax.Array) -> jax.Array:
  return jnp.sum(weights, axis=-1, keepdims=True)


def with_total(weights: jax.Array, total: jax.Array) -> jax.Array:
  """Weights [..., L] scaled to a sum [..., 1]."""
  return weights * (total / jnp.maximum(_total(weights), LEAST))


class Maps(NamedTuple):
  """Attention weights [R, Nkv, N / Nkv, Lq, Lkv] of all queries, and of image queries over text."""

  weights: jax.Array
  over_text: jax.Array


def prompt_to_prompt(
  depth: int, stride: int, largest: int = 0, record: bool = False, whole: bool = False
) -> Control:
  """The control. Rows of Role.TARGET are edited, all others are as without it.

  depth    layers of the model
  stride   conditions of guidance: rows from an image of one condition to the next image
  largest  image tokens up to which self-attention is edited; 0: everywhere
  record   image queries' attention over chosen words is recorded, after the edit and averaged over
           heads, [R, L, K] float32 of each layer
  whole    joint maps are held whole
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
    weights = attention_weights(q, k, allowed)
    own, e = weights[..., text:, :], padded(here.extras[EDIT], text)
    source, pixels_too = source_of(own, stride), inside(here, own.shape[-2])
    held = whole & (pixels_too | jnp.any(e.step[:, None] < e.cross, axis=-1))
    totals = jnp.where(_rows(held, own), source, own)  # rows whose totals are kept
    seen = None if allowed is None else allowed[..., text:, :text]
    words = edited_text(own[..., :text], source[..., :text], e, seen, _total(totals[..., :text]))
    pixels = jnp.where(_rows(pixels_too, own), source[..., text:], own[..., text:])
    pixels = with_total(pixels, _total(totals[..., text:]))
    rows = [weights[..., :text, :], jnp.concatenate([words, pixels], axis=-1)]
    if whole:
      seen = None if allowed is None else allowed[..., :text, :text]
      rows[0] = text_rows(rows[0], source_of(rows[0], stride), e, seen)
    edited = jnp.concatenate(rows, axis=-2)
    edited = jnp.where(_rows(here.role == Role.TARGET, weights), edited, weights)
    return Maps(edited, edited[..., text:, :text])

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


def text_rows(
  own: jax.Array, source: jax.Array, e: EditRows, allowed: jax.Array | None
) -> jax.Array:
  """A joint map's rows of T text tokens, each that of its counterparts in the source, on average;
  a token without one keeps its own.   # [R, ..., T, T + image tokens]

  allowed  [R, T, T] bool, or what broadcasts to it: where text attends to text
  """
  text = own.shape[-2]
  by_row = lambda a: a.reshape(len(a), *[1] * (own.ndim - 3), text, 1)
  share = e.mapper / jnp.maximum(_total(e.mapper), LEAST)
  moved = jnp.einsum("r...ic,rji->r...jc", source, share)
  unscaled = e._replace(scale=jnp.ones_like(e.scale))
  total = _total(moved[..., :text])
  words = edited_text(own[..., :text], moved[..., :text], unscaled, allowed, total)
  edited = jnp.concatenate([words, moved[..., text:]], axis=-1)
  now = by_row((e.step[:, None] < e.cross) & (e.own == 0))
  return jnp.where(now, edited, own)


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
