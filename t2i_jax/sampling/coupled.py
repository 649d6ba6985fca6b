"""EDICT: two coupled states whose every step has an exact inverse, up to rounding. [2211.12446]

With y = x / scale, tau and slope g as in `runge_kutta.Frame`, a step of DDIM is y + d_tau g, and

    a'  = a + d_tau g(b)         b'  = b + d_tau g(a')       both called at the step's noisier time
    a'' = p a' + (1 - p) b'      b'' = p b' + (1 - p) a''

Each line changes one state by what the other one is, so that it can be undone:

    b'  = (b'' - (1 - p) a'') / p      a' = (a'' - (1 - p) b') / p
    b   = b' - d_tau g(a')             a  = a' - d_tau g(b)

for any function g: a network guided at any scale. After each step the states change places, as in
the published code. No call is at sigma = 0, so that the whole grid is inverted, its last interval
included. Mixing draws the states together by p^2 a step downwards, and upwards they part by p^-2:
rounding grows by that, 1,400 times over 50 steps at p = 0.93. At p = 1 nothing holds them together.
"""

from typing import Annotated, Any, NamedTuple, cast

import jax
import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.process import Process, Time, to_x0_eps
from t2i_jax.ranges import Range
from t2i_jax.sampling.loop import make_plan, sample
from t2i_jax.sampling.runge_kutta import Frame, frame_of, starts_and_ends
from t2i_jax.sampling.solver import Call, Denoiser, Solver, Step

Mix = Annotated[float, Range("[0.5, 1]")]
MIX = 0.93  # the published one


class Pair(NamedTuple):
  """The coupled states [B, ...]. Of an image both are the image."""

  a: jax.Array
  b: jax.Array


def _slope(call: Call, y: jax.Array, time: Time, scale: Any, frame: str):
  """dy/dtau, and the prediction of x0, at y = x / scale."""
  x = scale * y
  prediction = call(x, time)
  x0_hat, eps_hat = to_x0_eps(prediction, x, time)
  slope = eps_hat - x0_hat if frame == "flow" else eps_hat
  return slope, prediction._replace(value=x0_hat, kind="x0")


def coupled(mix: Mix = MIX, frame: str = "flow") -> Solver:
  """The solver of `sample_coupled`, from noise to data, with a Pair for x."""

  def step(call: Call, x: Pair, step: Step, memory, noise):
    f: Frame = step.numbers
    a, b, d_tau = x.a / f.scale, x.b / f.scale, f.tau_to - f.tau
    slope, prediction = _slope(call, b, step.now, f.scale, frame)
    a = a + d_tau * slope
    b = b + d_tau * _slope(call, a, step.now, f.scale_to, frame)[0]
    a = mix * a + (1 - mix) * b
    b = mix * b + (1 - mix) * a
    return Pair(f.scale_to * b, f.scale_to * a), prediction, memory

  return Solver(_plan(frame), lambda x: (), step, calls=2)


def _up(mix: float, frame: str) -> Solver:
  """The inverse of `coupled`, over the same times upwards."""

  def step(call: Call, x: Pair, step: Step, memory, noise):
    f: Frame = step.numbers
    b, a, d_tau = x.a / f.scale, x.b / f.scale, f.tau_to - f.tau
    b = (b - (1 - mix) * a) / mix
    a = (a - (1 - mix) * b) / mix
    b = b + d_tau * _slope(call, a, step.to, f.scale, frame)[0]
    slope, prediction = _slope(call, b, step.to, f.scale_to, frame)
    a = a + d_tau * slope
    return Pair(f.scale_to * a, f.scale_to * b), prediction, memory

  return Solver(_plan(frame), lambda x: (), step, calls=2)


def _plan(frame: str):
  return lambda process, times: frame_of(*starts_and_ends(times), frame)


def _checked(times: Time, frame: str) -> None:
  if frame not in ("flow", "sigma"):
    raise ConfigError(f"coupled: frame = {frame!r} is neither 'flow' nor 'sigma'.")
  t = np.asarray(times.t)
  if np.any(np.diff(t) >= 0):
    raise ConfigError(f"coupled: times must fall, as a sampler's; found t = {t[0]:g} .. {t[-1]:g}.")
  if frame == "sigma" and np.any(np.asarray(times.alpha) == 0):
    raise ConfigError(
      f"coupled: eps does not determine x0 where alpha = 0, at t = {t[0]:g}. Use frame='flow'."
    )


def sample_coupled(
  denoise: Denoiser,
  process: Process,
  times: Time,
  pair: Pair,
  cond: Any = None,
  mix: float = MIX,
  frame: str = "flow",
) -> Pair:
  """Both states at the grid's last time, from those at its first.

  times    [S + 1] falling, concrete: a sampler's grid, or its end
  mix      p, in (0, 1]
  frame    "sigma": one state gives the other's eps, as published, which needs alpha > 0; "flow": it
           gives eps - x0, defined for every process
  Two network calls a step. Raises ConfigError.
  """
  _checked(times, frame)
  solver = coupled(mix, frame)
  plan = make_plan(solver, process, times)
  return cast(Pair, sample(denoise, solver, plan, cast(Any, pair), cond)[0])


def invert_coupled(
  denoise: Denoiser,
  process: Process,
  times: Time,
  x0: jax.Array,
  cond: Any = None,
  mix: float = MIX,
  frame: str = "flow",
) -> Pair:
  """The pair from which `sample_coupled` with the same arguments ends at x0 [B, ...], twice.

  times  the sampler's, falling
  Raises ConfigError.
  """
  _checked(times, frame)
  solver = _up(mix, frame)
  plan = make_plan(solver, process, Time(*(np.asarray(field)[::-1] for field in times)))
  return cast(Pair, sample(denoise, solver, plan, cast(Any, Pair(x0, x0)), cond)[0])
