"""Objectives of few-step samplers: consistency, MeanFlow, guidance distillation.

All are pure functions of callables and return a loss per row, [B]. A consistency function
f(x_t, time) returns the x0 of the ODE trajectory through x_t; an average velocity u(x_t, t, r) is
the mean of dx/dt along that trajectory from t down to r, so that x_r = x_t - (t - r) u.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.process.matching import matching
from t2i_jax.process.prediction import Prediction, from_x0_eps, to_x0_eps
from t2i_jax.process.schedules import Process
from t2i_jax.process.time import Time, like, mix
from t2i_jax.process.weightings import Weighting

Consistency = Callable[[jax.Array, Time], jax.Array]
Average = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # (x_t, t [B], r [B])
OdeStep = Callable[[jax.Array, Time, Time], jax.Array]  # (x_t, now, to) -> x_s
Distance = Callable[[jax.Array, jax.Array], jax.Array]  # two [B, ...] -> [B]


def _row(x: jax.Array) -> jax.Array:
  return x.reshape(len(x), -1)


def squared_distance(a: jax.Array, b: jax.Array) -> jax.Array:
  """|a - b|^2 per row.   # [B]"""
  return jnp.sum(jnp.square(_row(a - b)), -1)


def pseudo_huber(c: float | None = None) -> Distance:
  """sqrt(|a - b|^2 + c^2) - c per row, c = 0.00054 sqrt(D) by default. [2310.14189 sec. 3.3]"""

  def distance(a: jax.Array, b: jax.Array) -> jax.Array:
    width = 0.00054 * np.sqrt(a[0].size) if c is None else c
    return jnp.sqrt(squared_distance(a, b) + width**2) - width

  return distance


def bounded(network: Consistency, smallest: jax.Array) -> Consistency:
  """f = x_t / alpha where t <= smallest, the network elsewhere.    Source: [2303.01469 eq. 4]

  The parameterization by c_skip and c_out [2303.01469 eq. 5] belongs to the network:
  preconditioning.preconditioned, with smallest time 0. smallest: t, a scalar.
  """

  def f(x_t: jax.Array, time: Time) -> jax.Array:
    data = time.t <= smallest
    x = x_t / like(jnp.where(data, time.alpha, 1), x_t)
    return jnp.where(like(data, x_t), x, network(x_t, time))

  return f


def levels(
  process: Process, n: int, s_min: float = 0.002, s_max: float = 80.0, rho: float = 7.0
) -> Time:
  """The n noise levels of the consistency objective, increasing, float64 [n].

  s_i^(1 / rho) evenly spaced, s = sigma / alpha   Source: [2206.00364 eq. 5; 2303.01469 sec. 4]
  """
  s = np.linspace(s_min ** (1 / rho), s_max ** (1 / rho), n) ** rho
  return process.at(np.asarray(process.time_of(s), np.float64))


def level_count(step: int, steps: int, first: int = 10, last: int = 1280) -> int:
  """The number of levels at a training step: from first, doubled at equal intervals to last, + 1.

      N(k) = min(s0 2^floor(k / K'), s1) + 1,   K' = floor(K / (log2(s1 / s0) + 1))

  Source: [2310.14189 sec. 3.4]
  """
  span = steps // (int(np.log2(last // first)) + 1)
  return min(first * 2 ** (step // max(span, 1)), last) + 1


def consistency_training(
  f: Consistency,
  target: Consistency,
  x0: jax.Array,
  eps: jax.Array,
  now: Time,
  to: Time,
  distance: Distance = squared_distance,
) -> jax.Array:
  """d(f(x_t), target(x_s)) with the same noise in both, s the next lower level. [2303.01469 alg. 3]

  target  f with EMA weights, or f itself [2310.14189 sec. 3.2]; no gradient
  The weight 1 / (s_now - s_to) of [2310.14189 sec. 3.1] is applied by the caller.
  """
  held = jax.lax.stop_gradient(target(mix(x0, eps, to), to))
  return distance(f(mix(x0, eps, now), now), held)


def consistency_distillation(
  f: Consistency,
  target: Consistency,
  teacher: OdeStep,
  x0: jax.Array,
  eps: jax.Array,
  now: Time,
  to: Time,
  distance: Distance = squared_distance,
) -> jax.Array:
  """d(f(x_t), target(x_s)) with x_s from a step of the teacher's ODE. [2303.01469 alg. 2]"""
  x_t = mix(x0, eps, now)
  held = jax.lax.stop_gradient(target(teacher(x_t, now, to), to))
  return distance(f(x_t, now), held)


def heun_teacher(denoise: Callable[[jax.Array, Time], Prediction]) -> OdeStep:
  """One step of Heun's method on x / sigma against alpha / sigma.   sigma > 0 at both ends

  [2303.01469 app. C] has x / alpha against sigma / alpha, which has no first step from pure noise.
  """

  def step(x_t: jax.Array, now: Time, to: Time) -> jax.Array:
    a, b = like(now.sigma, x_t), like(to.sigma, x_t)
    ds = like(to.alpha / to.sigma - now.alpha / now.sigma, x_t)
    x0_now, _ = to_x0_eps(denoise(x_t, now), x_t, now)
    euler = b * (x_t / a + ds * x0_now)
    x0_to, _ = to_x0_eps(denoise(euler, to), euler, to)
    return b * (x_t / a + ds * (x0_now + x0_to) / 2)

  return step


def meanflow(
  average: Average,
  x0: jax.Array,
  eps: jax.Array,
  time: Time,
  r: jax.Array,
  velocity: jax.Array | None = None,
  power: float = 0.0,
) -> jax.Array:
  """|u - u_target|^2 per row, u_target = velocity - (t - r) du/dt, with one jvp.

      du/dt = (velocity . grad_x) u + d_t u       [2505.13447 eq. 6, 8; alg. 1]

  r         [B] in [0, t]; where r = t this is flow matching
  velocity  of x_t, [B, ...]; by default alpha' x0 + sigma' eps of the row. A guided velocity
            distils guidance [2505.13447 sec. 4.2]
  power     p of the weight 1 / (|error|^2 + 0.001)^p, without gradient [2505.13447 sec. 4.3]

  x_r = x_t - (t - r) u [2505.13447 eq. 12] is a step of the solver "euler" on the process "flow"
  with u as the velocity; from t = 1 to r = 0 it samples in one call.
  """
  x_t = mix(x0, eps, time)
  if velocity is None:
    velocity = from_x0_eps("velocity", x0, eps, time)
  t = jnp.broadcast_to(time.t, (len(x0),)).astype(x0.dtype)
  tangent = (velocity, jnp.ones_like(t), jnp.zeros_like(t))
  u, du_dt = jax.jvp(average, (x_t, t, jnp.broadcast_to(r, t.shape)), tangent)
  target = velocity - like(t - r, x0) * du_dt
  loss = squared_distance(u, jax.lax.stop_gradient(target))
  return loss * jax.lax.stop_gradient((loss + 1e-3) ** -power)


def guidance_distillation(
  student: Prediction, guided: Prediction, x_t: jax.Array, time: Time, weighting: Weighting
) -> jax.Array:
  """Weighted error of a student conditioned on the guidance scale, against the guided teacher.  [B]

      w_x0(t) mean |x0_student(x_t, t, scale) - x0_guided(x_t, t; scale)|^2

  guided  the teacher's guided prediction at the same scale, of any kind; no gradient. The caller
          draws the scale of each row.
  Source: [2210.03142 sec. 3.1], stage one; FLUX.1-dev is such a student.
  """
  return matching(student, guided, x_t, time, weighting)
