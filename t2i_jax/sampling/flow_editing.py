"""Editing along the straight paths of a flow: RF-Inversion and FlowEdit, for every process.

    y = x / (alpha + sigma) = (1 - tau) x0 + tau eps,   tau = sigma / (alpha + sigma)

is a rectified flow whatever the process, and dy/dtau = g = eps_hat - x0_hat of any prediction; for
`flow` itself y = x and tau = t. Both methods are Euler's steps of a changed slope:

    RF-Inversion  up     g + gamma ((eps - y) / (1 - tau) - g)       towards a given eps
                  down   g + eta ((y - x0) / tau - g)                towards the given x0
    FlowEdit             mean of g_target(y + y_src - x0) - g_source(y_src)
                         over y_src = (1 - tau) x0 + tau eps

Sources: [2410.10792 alg. 1 and alg. 2; 2412.08629 alg. 1]
"""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.process import Prediction, Process, Time, mix, to_x0_eps
from t2i_jax.ranges import Count, Range, Share
from t2i_jax.sampling.guidance import Scale, row_scale
from t2i_jax.sampling.linear import ddim
from t2i_jax.sampling.loop import Noise, make_plan, sample
from t2i_jax.sampling.runge_kutta import Frame, frame_of, starts_and_ends
from t2i_jax.sampling.solver import Call, Solver, Step

Draws = Annotated[int, Range("[1, 64]")]


class Straight(NamedTuple):
  """A step in y.

  where, scale  Time of the network call, and its alpha + sigma
  frame         the step's taus and scales
  share         of the given end in the slope: gamma, or of eta
  """

  where: Time
  scale: Any
  frame: Frame
  share: Any


def _straight(times: Time, share: np.ndarray) -> Straight:
  """Called at a step's start, or where that has sigma = 0 at its end."""
  now, to = starts_and_ends(times)
  where = Time(*(np.where(now.sigma > 0, a, b) for a, b in zip(now, to, strict=True)))
  return Straight(where, where.alpha + where.sigma, frame_of(now, to, "flow"), share)


def _slope(call: Call, y: jax.Array, n: Straight) -> tuple[jax.Array, Prediction]:
  """g at y, and the prediction of x0."""
  x = n.scale * y
  prediction = call(x, n.where)
  x0_hat, eps_hat = to_x0_eps(prediction, x, n.where)
  return eps_hat - x0_hat, prediction._replace(value=x0_hat, kind="x0")


def towards_noise(eps: jax.Array, gamma: Share = 0.5) -> Solver:
  """RF-Inversion's controlled ODE from data to noise.   Source: [2410.10792 alg. 1]

  For `sample` over a rising grid, also from sigma = 0, under the condition of "".
  eps    unit Gaussian [B, ...], where it ends at gamma = 1; the noise is between it and the
         inversion's own, which gamma = 0 is
  """

  def plan(process: Process, times: Time) -> Straight:
    if np.any(np.diff(times.t) < 0):
      raise ConfigError("towards_noise: times must rise. Take the sampler's grid reversed.")
    return _straight(times, np.full(len(times.t) - 1, gamma))

  def step(call: Call, x, step: Step, memory, noise):
    n: Straight = step.numbers
    f = n.frame
    y = x / f.scale
    slope, prediction = _slope(call, y, n)
    slope = slope + n.share * ((eps - y) / (1 - f.tau) - slope)
    return f.scale_to * (y + (f.tau_to - f.tau) * slope), prediction, memory

  return Solver(plan, lambda x: (), step)


def towards_image(
  x0: jax.Array, eta: Scale = 0.9, start: Share = 0.0, stop: Share = 0.25
) -> Solver:
  """RF-Inversion's controlled ODE from noise to data.   Source: [2410.10792 alg. 2]

  For `sample` over a sampler's grid, under the condition of the edit.
  eta          in [0, 1], traced, a number or one a row: how much of the slope is towards x0
               [B, ...]; at 1 for all steps it ends there
  start, stop  fractions of the steps between which; Euler's steps alone elsewhere
  """

  def plan(process: Process, times: Time) -> Straight:
    i = np.arange(len(times.t) - 1) / (len(times.t) - 1)
    return _straight(times, np.where((i >= start) & (i < stop), 1.0, 0.0))

  def step(call: Call, x, step: Step, memory, noise):
    n: Straight = step.numbers
    f = n.frame
    y = x / f.scale
    slope, prediction = _slope(call, y, n)
    slope = slope + n.share * row_scale(eta, x) * ((y - x0) / f.tau - slope)
    return f.scale_to * (y + (f.tau_to - f.tau) * slope), prediction, memory

  return Solver(plan, lambda x: (), step)


def _between(source: Call, x0: jax.Array, noise: Noise, draws: int) -> Solver:
  """FlowEdit's steps, whose `call` is the target's."""

  def step(call: Call, x, step: Step, memory, _):
    n: Straight = step.numbers
    y = x / n.frame.scale

    def change(k: jax.Array) -> tuple[jax.Array, Prediction]:
      eps = noise(step.index * draws + k).astype(x.dtype)
      y_src = mix(x0, eps, n.where) / n.scale
      to, prediction = _slope(call, y + y_src - x0, n)
      return to - _slope(source, y_src, n)[0], prediction

    slopes, predictions = jax.lax.map(change, jnp.arange(draws))
    prediction = jax.tree.map(lambda leaf: leaf[0], predictions)
    y = y + (n.frame.tau_to - n.frame.tau) * jnp.mean(slopes, 0)
    return n.frame.scale_to * y, prediction, memory

  def plan(process: Process, times: Time) -> Straight:
    return _straight(times, np.zeros(len(times.t) - 1))

  return Solver(plan, lambda x: (), step, calls=2 * draws)


def flow_edit(
  source: Call,
  target: Call,
  process: Process,
  times: Time,
  x0: jax.Array,
  noise: Noise,
  draws: Count = 1,
  plain: int = 0,
) -> jax.Array:
  """The image x0 [B, ...] moved from the source prompt's distribution to the target's.

  source, target  denoisers with their conditions and scales
  times    [S + 1] falling, concrete: a sampler's grid from where the edit begins, of n_max steps
  noise    index -> unit Gaussian like x0; step i uses i draws .. (i + 1) draws - 1
  draws    n_avg, noises over which a slope is averaged
  plain    n_min, steps at the end that are the target's ODE alone, from its own noised state
  2 x draws network calls a step, one in the plain ones. Source: [2412.08629 alg. 1]
  Raises ConfigError.
  """
  steps = len(times.t) - 1
  if not 0 <= plain <= steps or np.any(np.diff(times.t) >= 0):
    raise ConfigError(
      f"flow_edit: plain = {plain} of {steps} steps, over times {np.asarray(times.t)[0]:g} .. "
      f"{np.asarray(times.t)[-1]:g}. Times fall, and plain is 0 to the number of steps."
    )
  of = lambda call: lambda x_t, time, _: call(x_t, time)
  part = lambda a, b: Time(*(np.asarray(field, np.float64)[a:b] for field in times))
  scale = lambda i: float(times.alpha[i] + times.sigma[i])
  x, edited = scale(0) * x0, steps - plain
  if edited:
    between = _between(source, x0, noise, draws)
    plan = make_plan(between, process, part(None, edited + 1))
    x, _ = sample(of(target), between, plan, x, None)
  if plain:
    start = Time(*(field[edited] for field in times))
    eps = noise(jnp.int32(edited * draws)).astype(x0.dtype)
    x = x + mix(x0, eps, start) - scale(edited) * x0
    x, _ = sample(of(target), ddim(), make_plan(ddim(), process, part(edited, None)), x, None)
  return x
