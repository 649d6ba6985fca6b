"""Solvers with several network calls per step: Heun, EDM's stochastic Heun, PNDM."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.process import Process, Time, convert, like, to_x0_eps
from t2i_jax.ranges import Range, Weight
from t2i_jax.sampling.solver import Call, Solver, Step


class Frame(NamedTuple):
  """Coefficients of a step in coordinates in which constant predictions give straight paths.

  y = x / scale as a function of tau;   "flow": scale = alpha + sigma, tau = sigma / scale,
  dy/dtau = eps - x0;   "sigma": scale = alpha, tau = sigma / alpha, dy/dtau = eps
  """

  scale: Any
  tau: Any
  scale_to: Any
  tau_to: Any


def frame_of(now: Time, to: Time, frame: str) -> Frame:
  scale = lambda time: time.alpha + time.sigma if frame == "flow" else time.alpha
  return Frame(scale(now), now.sigma / scale(now), scale(to), to.sigma / scale(to))


def starts_and_ends(times: Time) -> tuple[Time, Time]:
  return Time(*(f[:-1] for f in times)), Time(*(f[1:] for f in times))


def _bend(now: Time, to: Time, frame: str) -> np.ndarray:
  """Factor of the difference of both ends' slopes in Heun's correction of Euler's x.   # [S]

  0 where the step is Euler's: it ends at sigma = 0, or starts at alpha = 0 in the frame "sigma",
  where y is infinite.
  """
  f = frame_of(now, to, frame)
  two = (to.sigma > 0) & np.isfinite(f.tau)
  return np.where(two, f.scale_to * (f.tau_to - np.where(two, f.tau, 0)) / 2, 0)


def _heun_step(call: Call, x, now: Time, to: Time, bend, frame: str):
  """Euler, x_s = alpha_s x0_hat + sigma_s eps_hat in any frame, then the mean of both slopes.

  In x rather than in y, whose large values near pure noise lose digits in float32.
  """
  prediction = call(x, now)
  x0_hat, eps_hat = to_x0_eps(prediction, x, now)
  euler = to.alpha * x0_hat + to.sigma * eps_hat

  def corrected(euler):
    x0_to, eps_to = to_x0_eps(call(euler, to), euler, to)
    change = eps_to - eps_hat
    return euler + bend * (change - (x0_to - x0_hat) if frame == "flow" else change)

  x = jax.lax.cond(bend != 0, corrected, lambda euler: euler, euler)
  return x, prediction._replace(value=x0_hat, kind="x0")


def heun(frame: str = "flow") -> Solver:
  """Heun's second-order method.   Source: [2206.00364 alg. 1] in the frame "sigma"

  The frame "flow" is Heun on dx/dt of flow matching, and is defined where alpha = 0 at the start.
  """
  if frame not in ("flow", "sigma"):
    raise ConfigError(f"heun: frame = {frame!r} is neither 'flow' nor 'sigma'.")

  def plan(process: Process, times: Time) -> np.ndarray:
    return _bend(*starts_and_ends(times), frame)

  def step(call: Call, x, step: Step, memory, noise):
    x, prediction = _heun_step(call, x, step.now, step.to, step.numbers, frame)
    return x, prediction, memory

  return Solver(plan, lambda x: (), step, calls=2)


class Churn(NamedTuple):
  """hat: Time after noise is added; grow, add: factors of x and noise; bend: of Heun's step."""

  hat: Time
  grow: Any
  add: Any
  bend: Any


def edm(
  churn: Weight = 0.0,
  t_min: Weight = 0.0,
  t_max: Annotated[float, Range("[0, inf]")] = float("inf"),
  noise_scale: Annotated[float, Range("[0, 10]")] = 1.0,
) -> Solver:
  """Heun on x / alpha against s = sigma / alpha after increasing s. [2206.00364 alg. 2]

  s_hat = s (1 + min(churn / S, sqrt(2) - 1)) where t_min <= s <= t_max
  """

  def plan(process: Process, times: Time) -> Churn:
    now, to = starts_and_ends(times)
    s = now.sigma / now.alpha
    gamma = np.minimum(churn / len(s), np.sqrt(2) - 1)
    top = process.at(np.array(1.0))
    raises = (s >= t_min) & (s <= t_max) & np.isfinite(s)
    s_hat = np.minimum(s * (1 + np.where(raises, gamma, 0)), _ratio(top))
    raised = process.at(np.asarray(process.time_of(s_hat)))
    still = s_hat == s
    hat = Time(*(np.where(still, a, b) for a, b in zip(now, raised, strict=True)))
    add = np.where(still, 0, hat.alpha * noise_scale * np.sqrt(np.maximum(s_hat**2 - s**2, 0)))
    grow = np.where(still, 1, hat.alpha / now.alpha)
    return Churn(hat, grow, add, _bend(hat, to, "sigma"))

  def step(call: Call, x, step: Step, memory, noise):
    n: Churn = step.numbers
    x = n.grow * x + (n.add * noise if churn else 0)
    x, prediction = _heun_step(call, x, n.hat, step.to, n.bend, "sigma")
    return x, prediction, memory

  return Solver(plan, lambda x: (), step, calls=2, noisy=churn > 0)


def _ratio(time: Time):
  with np.errstate(divide="ignore"):
    return time.sigma / time.alpha


# Adams-Bashforth weights, newest output first, by the number of outputs [2202.09778 eq. 12].
ADAMS_BASHFORTH = np.array(
  [[1, 0, 0, 0], [3 / 2, -1 / 2, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0], [55, -59, 37, -9]]
)
ADAMS_BASHFORTH[3] /= 24


class Pndm(NamedTuple):
  """weights [S, 4] of the outputs; middle: Time at the middle of a step; warm [S]: 1 in warm-up."""

  weights: Any
  middle: Time
  warm: Any


def pndm(runge_kutta: bool = False) -> Solver:
  """Adams-Bashforth over the network's outputs of any kind, with DDIM's transfer part.

  Source: [2202.09778 alg. 2]. The first step averages the outputs at both its ends (PLMS, as in
  SD); with runge_kutta the first three are pseudo Runge-Kutta steps of four calls. The last step
  never is.
  """
  warm_up = 3 if runge_kutta else 1

  def plan(process: Process, times: Time) -> Pndm:
    steps = len(times.t) - 1
    # The outputs of the warm-up (one per step) are the first history.
    i = np.arange(steps)
    known = np.minimum(i, 3)
    warm = (i < warm_up) & (i < steps - 1) & (times.sigma[1:] > 0)
    middle = (times.t[:-1] + times.t[1:]) / 2
    if process.steps is not None:  # the middle in integer steps, as published
      whole = np.floor((times.t[:-1] - times.t[1:]) * process.steps / 2 + 1e-6) / process.steps
      middle = times.t[:-1] - whole
    return Pndm(ADAMS_BASHFORTH[known], process.at(np.maximum(middle, 0)), warm)

  def init(x):
    return jnp.zeros((3, *x.shape), x.dtype)

  def step(call: Call, x, step: Step, past, noise):
    now, to = step.now, step.to
    first = call(x, now)

    def move(value, to: Time):
      """DDIM from `now` to `to` with this output."""
      x0_hat, eps_hat = to_x0_eps(first._replace(value=value), x, now)
      return like(jnp.asarray(to.alpha), x) * x0_hat + like(jnp.asarray(to.sigma), x) * eps_hat

    def at(value, time: Time):
      return call(move(value, time), time).value

    def warm(outputs):
      m = outputs[0]
      if not runge_kutta:
        return (m + at(m, to)) / 2
      m2 = at(m, step.numbers.middle)
      m3 = at(m2, step.numbers.middle)
      return (m + 2 * m2 + 2 * m3 + at(m3, to)) / 6

    outputs = jnp.concatenate([first.value[None], past])  # [4, B, ...]
    multistep = lambda outputs: jnp.tensordot(step.numbers.weights, outputs, 1)
    value = jax.lax.cond(step.numbers.warm > 0, warm, multistep, outputs)
    return move(value, to), convert(first, "x0", x, now), outputs[:-1]

  return Solver(plan, init, step, calls=1)
