"""Guidance as a function from denoisers to a denoiser. Without guidance, do not wrap.

A method (`Combine`, built in guidance_methods.py) combines the predictions of a step under several
conditions into one; `guide` computes them all in one call of the network.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t2i_jax.errors import ConfigError
from t2i_jax.process import Prediction, Time, convert, from_x0_eps, like
from t2i_jax.sampling.loop import CondAt, OnStep
from t2i_jax.sampling.solver import Denoiser

Scale = jax.Array | float  # a number or one per row [B], traced; 1 + w with the paper's w, 1 = off
LogProb = Callable[[jax.Array, Time, Any], jax.Array]  # (x_t, time, y) -> log p(y | x_t) [B]


class Guided(NamedTuple):
  """The condition of a guided denoiser. All conditions have the same structure.

  cond    the condition to follow
  null    the unconditional or negative condition. None: at scale 1, where it has no weight, its
          network call is saved
  others  further conditions of the method: a perturbed copy, an image, more prompts
  memory  the method's state from the previous step; `remember` fills it in
  """

  cond: Any
  null: Any = None
  others: tuple[Any, ...] = ()
  memory: Any = None


class Views(NamedTuple):
  """The predictions of a step, of one kind, with x_t and time.

  cond, null, others  Prediction [B, ...]; null is cond where Guided.null is None
  x_t, time           [B, ...], Time of scalars or [B]
  memory              as in Guided
  """

  cond: Prediction
  null: Prediction
  others: tuple[Prediction, ...]
  x_t: jax.Array
  time: Time
  memory: Any = None

  def of(self, kind: str) -> "Views":
    """The same predictions as another kind."""
    turn = lambda prediction: convert(prediction, kind, self.x_t, self.time)
    others = tuple(map(turn, self.others))
    return self._replace(cond=turn(self.cond), null=turn(self.null), others=others)


class Perturb(NamedTuple):
  """A change inside the model for the last condition of a method.

  kind    a name in models.CONTROLS
  layers  indices of the blocks to which it applies
  """

  kind: str
  layers: tuple[int, ...]


class Worse(NamedTuple):
  """The weak model of autoguidance: a work directory, and a step of it (0: the newest).

  scale  None: that of the sampler
  """

  workdir: str
  step: int = 0
  scale: float | None = None


class Combine(NamedTuple):
  """A method of guidance.

  combine  (views, scale) -> Prediction, with the new memory in it if the method has one
  others   number of conditions beside cond and null
  starts   x -> the memory before the first step; None: no memory
  perturb  for a last condition that differs inside the model and not in the prompt
  worse    the weak model used instead of the null, for `autoguide`
  reworded  the prompt of the other condition, of that of an image; None: it is given
  """

  combine: Callable[[Views, Scale], Prediction]
  others: int = 0
  starts: Callable[[jax.Array], Any] | None = None
  perturb: Perturb | None = None
  worse: Worse | None = None
  reworded: Callable[[str], str] | None = None


def interleave(*parts: jax.Array) -> jax.Array:
  """n arrays [B, ...] to [n B, ...] as a0 b0 a1 b1 ...

  On a sharded batch it moves no rows between devices, which concatenation does.
  """
  return jnp.stack(parts, 1).reshape(-1, *parts[0].shape[1:])


def separate(tree: Any, n: int) -> list[Any]:
  """The inverse of `interleave`, leaf by leaf."""
  take = lambda i: jax.tree.map(lambda a: a.reshape(-1, n, *a.shape[1:])[:, i], tree)
  return [take(i) for i in range(n)]


def together(denoise: Denoiser, x_t: jax.Array, time: Time, conds: list[Any]) -> list[Prediction]:
  """The predictions under several conditions, in one call of the denoiser."""
  n = len(conds)
  time = jax.tree.map(lambda f: jnp.repeat(f, n) if jnp.ndim(f) else f, time)
  both = denoise(interleave(*[x_t] * n), time, jax.tree.map(interleave, *conds))
  return separate(both, n)


def _check(method: Combine, others: int, memory: Any) -> None:
  if others != method.others:
    raise ConfigError(
      f"the guidance needs {method.others} conditions beside cond and null and was given {others}: "
      "set Guided.others."
    )
  if method.starts is not None and memory is None:
    raise ConfigError(
      "the guidance keeps a memory from step to step, and nothing carries it: call "
      "sample(..., **remember(method, x))."
    )


def guide(denoise: Denoiser, method: Combine, scale: Scale) -> Denoiser:
  """A denoiser of `Guided` conditions. `scale` is traced: changing it does not recompile.

  Raises ConfigError where the condition lacks an input of the method.
  """

  def guided(x_t: jax.Array, time: Time, cond: Guided) -> Prediction:
    _check(method, len(cond.others), cond.memory)
    nulls = [] if cond.null is None else [cond.null]
    first, *rest = together(denoise, x_t, time, [cond.cond, *nulls, *cond.others])
    null = rest.pop(0) if nulls else first
    return method.combine(Views(first, null, tuple(rest), x_t, time, cond.memory), scale)

  return guided


def remember(
  method: Combine,
  x: jax.Array,
  on_step: OnStep | None = None,
  state: Any = None,
  cond_at: CondAt | None = None,
) -> dict[str, Any]:
  """The arguments of `sample` that carry a method's memory, combined with the caller's hooks.

      x0_hat, (memory, state) = sample(..., **remember(method, x, on_step, state))

  For methods with and without a memory, also under a classifier (`Labelled`). However often a
  solver calls the network, the memory is updated once per step, from the step's first call.
  """

  def hook(i, x, prediction, both):
    _, own = both
    if on_step is not None:
      x, own = on_step(i, x, prediction, own)
    return x, (prediction.memory, own)

  def filled(cond, memory):
    if isinstance(cond, Labelled):
      return cond._replace(cond=filled(cond.cond, memory))
    return cond._replace(memory=memory)

  def given(i, cond, both):
    memory, own = both
    return filled(cond if cond_at is None else cond_at(i, cond, own), memory)

  memory = None if method.starts is None else method.starts(x)
  return {"on_step": hook, "state": (memory, state), "cond_at": given}


def autoguide(denoise: Denoiser, worse: Denoiser, method: Combine, scale: Scale) -> Denoiser:
  """Guidance by a worse version of the network under the same condition.

      worse + scale (denoise - worse)        [2406.02507 sec. 4], for the method `cfg()`

  Two network calls. The result takes `Guided` conditions, whose null is not used.
  """

  def guided(x_t: jax.Array, time: Time, cond: Guided) -> Prediction:
    _check(method, 0, cond.memory)
    better = denoise(x_t, time, cond.cond)
    null = convert(worse(x_t, time, cond.cond), better.kind, x_t, time)
    return method.combine(Views(better, null, (), x_t, time, cond.memory), scale)

  return guided


class Labelled(NamedTuple):
  """The condition of a classifier-guided denoiser: the denoiser's condition, the classifier's y."""

  cond: Any
  y: Any


def classify(denoise: Denoiser, log_prob: LogProb, weight: Scale) -> Denoiser:
  """Guidance by a noisy classifier: the score of p(x_t) p(y | x_t)^weight; 0 = off.

      eps = eps_hat - weight sigma grad log p(y | x_t)        [2105.05233 alg. 2]

  for every process, as eps = -sigma score. With x_t fixed, x0 changes by weight sigma^2 / alpha
  grad, and any other kind accordingly. Where alpha = 0 x_t does not depend on y: the gradient is 0
  and its quotient with alpha undefined, so that the prediction is unchanged.
  """

  def guided(x_t: jax.Array, time: Time, cond: Labelled) -> Prediction:
    prediction = denoise(x_t, time, cond.cond)
    gradient = jax.grad(lambda x: jnp.sum(log_prob(x, time, cond.y)))(x_t)
    alpha, sigma = (jnp.asarray(like(jnp.asarray(c), x_t)) for c in (time.alpha, time.sigma))
    signal = alpha > 0
    push = row_scale(weight, x_t) * sigma * jnp.where(signal, gradient, 0)
    shift = from_x0_eps(prediction.kind, push * sigma / jnp.where(signal, alpha, 1), -push, time)
    return prediction._replace(value=prediction.value + shift)

  return guided


def row_scale(scale: Scale, x: jax.Array) -> jax.Array:
  """A scale, a number or one per row, shaped to multiply x [B, ...]."""
  return like(jnp.asarray(scale), x)
