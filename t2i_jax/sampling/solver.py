"""The interface of a solver, and `linear`, which makes a solver of a table of coefficients.

The coefficients depend only on the time grid. They are computed once on the host in float64
(`plan`), where differences of nearly equal logarithms keep their digits, and scanned.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t2i_jax.process import Prediction, Process, Time, convert

Denoiser = Callable[[jax.Array, Time, Any], Prediction]
Call = Callable[[jax.Array, Time], Prediction]  # a denoiser with its condition given


class Step(NamedTuple):
  """One step of a plan, or with a leading axis [S] the whole plan.

  index   0 .. S - 1
  now, to Times with to.t <= now.t; the network is never evaluated at sigma = 0
  numbers coefficients of the solver, any pytree
  """

  index: Any
  now: Time
  to: Time
  numbers: Any


class Solver(NamedTuple):
  """An integrator of the sampling ODE or SDE.

  plan   (process, Time of a float64 grid [S + 1]) -> numbers, a pytree of arrays [S, ...]
  init   x -> memory, any pytree
  step   (call, x, step, memory, noise) -> (x, prediction of x0, memory); noise is unit Gaussian,
         shaped like x, independent in every step; None for a deterministic solver
  calls  network calls per step
  noisy  whether it uses noise
  """

  plan: Callable[[Process, Time], Any]
  init: Callable[[jax.Array], Any]
  step: Callable[..., tuple[jax.Array, Prediction, Any]]
  calls: int = 1
  noisy: bool = False


class Linear(NamedTuple):
  """A step that is linear in x and the last K network outputs m_0 (now), m_1 (previous), ...

      x_now  = fix_x x_before + sum_k fix_m[k] m_k       where there is a corrector
      x_next = on_x x_now + sum_k on_m[k] m_k + on_noise noise

  on_x, on_noise [S]; on_m, fix_m [S, K]; fix_x [S], which is NaN at steps without correction.
  """

  on_x: Any
  on_m: Any
  on_noise: Any
  fix_x: Any = None
  fix_m: Any = None


def linear(
  plan: Callable[[Time], Linear],
  history: int,
  kind: str = "x0",
  noisy: bool = False,
  corrects: bool = False,
) -> Solver:
  """A multistep solver of `Linear` coefficients, over outputs of one kind, "x0" or "eps"."""

  def init(x):
    past = jnp.zeros((history - 1, *x.shape), x.dtype)
    return (past, x) if corrects else past

  def step(call: Call, x, step: Step, memory, noise):
    n: Linear = step.numbers
    past, before = memory if corrects else (memory, None)
    at, prediction = x, call(x, step.now)
    m = convert(prediction, kind, x, step.now).value.astype(x.dtype)
    outputs = jnp.concatenate([m[None], past])  # [K, B, ...]
    if corrects:
      fixed = n.fix_x * before + jnp.tensordot(n.fix_m, outputs, 1)
      x = jnp.where(jnp.isnan(n.fix_x), x, fixed)
    x_next = n.on_x * x + jnp.tensordot(n.on_m, outputs, 1)
    if noisy:
      x_next = x_next + n.on_noise * noise
    past = outputs[:-1]
    x0_hat = convert(prediction, "x0", at, step.now)
    return x_next, x0_hat, (past, x) if corrects else past

  return Solver(lambda process, times: plan(times), init, step, calls=1, noisy=noisy)
