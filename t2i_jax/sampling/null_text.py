"""Null-text inversion: a null condition of every step, with which guidance gives back an image.

    x_1 .. x_0     DDIM inversion at scale 1, its states kept: sampling.inversion.invert
    null_t = argmin | x_s - DDIM(xbar_t; cond, null_t, scale) |^2,   xbar_s = DDIM(.. null_t ..)

Source: [2211.09794 alg. 1]. Every step begins with the null of the step before, as published. Where
null and condition are equal, guidance has no weight at any scale: that is negative-prompt inversion
[2305.16807], and costs nothing; `guide` with Guided(cond, null=cond) is all of it.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from t2i_jax.errors import ConfigError
from t2i_jax.process import like, to_x0_eps
from t2i_jax.ranges import Range
from t2i_jax.sampling.guidance import Guided, Scale, row_scale
from t2i_jax.sampling.loop import CondAt
from t2i_jax.sampling.solver import Denoiser, Step

Inner = Annotated[int, Range("[0, 1000]")]
WithNull = Callable[[Any], Any]  # what is learned -> the null condition


class Search(NamedTuple):
  """How each null is sought. The numbers are those of the published code, over 50 steps.

  steps  of Adam, at most; 0: the null stays as it begins
  rate   of step i: rate (1 - fall i)
  enough, grows  a row ends where its mean square error is below enough + grows i
  """

  steps: int = 10
  rate: float = 1e-2
  fall: float = 0.01
  enough: float = 1e-5
  grows: float = 2e-5


SEARCH = Search()


class Found(NamedTuple):
  """nulls  what was learned, of each step: leaves [S, B, ...]
  errors  mean square error of each row after its step [S, B]
  calls   steps of Adam taken [S]
  x0      where the guided sampler ends with them
  """

  nulls: Any
  errors: jax.Array
  calls: jax.Array
  x0: jax.Array


def null_text(
  denoise: Denoiser,
  plan: Step,
  states: jax.Array,
  cond: Any,
  learned: Any,
  scale: Scale,
  search: Search = SEARCH,
  with_null: WithNull = lambda learned: learned,
) -> Found:
  """The null of every step, with which DDIM guided at `scale` follows the states.

  plan       [S] of DDIM downwards, from make_plan
  states     [S + 1, B, ...] from the plan's first time to its last
  learned    a pytree of floats [B, ...]: what of the null is sought, as it begins
  with_null  the whole null condition of it; the same structure as cond
  Gradients are of `learned` alone. Rows do not depend on each other. Raises ConfigError.
  """
  steps = len(plan.index)
  if len(states) != steps + 1:
    raise ConfigError(f"null_text: {len(states)} states of {steps} steps; there is one more.")
  inner = optax.scale_by_adam()

  def body(carry, at):
    x, learned = carry
    step, target = at
    # The condition's prediction does not depend on the null: once a step.
    with_cond = denoise(x, step.now, cond)

    def next_of(learned: Any) -> jax.Array:
      without = denoise(x, step.now, with_null(learned))
      value = without.value + row_scale(scale, x) * (with_cond.value - without.value)
      x0_hat, eps_hat = to_x0_eps(with_cond._replace(value=value), x, step.now)
      return step.to.alpha * x0_hat + step.to.sigma * eps_hat

    def error(learned: Any) -> tuple[jax.Array, jax.Array]:
      rows = jnp.mean(jnp.square(next_of(learned) - target).reshape(len(x), -1), 1)  # [B]
      return jnp.sum(rows), rows

    rate = search.rate * (1 - search.fall * step.index)
    enough = search.enough + search.grows * step.index

    def goes_on(state):
      n, _, _, active = state
      return (n < search.steps) & jnp.any(active)

    def improve(state):
      n, learned, adam, active = state
      (_, rows), gradient = jax.value_and_grad(error, has_aux=True)(learned)
      updates, adam = inner.update(gradient, adam)
      on = lambda leaf: like(active, leaf)
      learned = jax.tree.map(lambda a, u: jnp.where(on(a), a - rate * u, a), learned, updates)
      return n + 1, learned, adam, active & (rows >= enough)

    begin = (jnp.int32(0), learned, inner.init(learned), jnp.ones(len(x), bool))
    n, learned, _, _ = jax.lax.while_loop(goes_on, improve, begin)
    x = next_of(learned)
    rows = jnp.mean(jnp.square(x - target).reshape(len(x), -1), 1)
    return (x, learned), (learned, rows, n)

  (x0, _), (nulls, errors, calls) = jax.lax.scan(body, (states[0], learned), (plan, states[1:]))
  return Found(nulls, errors, calls, x0)


def null_at(nulls: Any, with_null: WithNull = lambda learned: learned) -> CondAt:
  """`cond_at` of `sample`, for a condition Guided: step i has the i-th null."""

  def at(i: jax.Array, cond: Guided, state: Any) -> Guided:
    return cond._replace(null=with_null(jax.tree.map(lambda leaf: leaf[i], nulls)))

  return at
