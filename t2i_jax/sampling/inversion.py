"""Inversion: from data to the noise from which a deterministic sampler produces it.

Any deterministic solver inverts when it runs over an increasing grid: `ddim` is DDIM inversion
[2010.02502 sec. 5.4, eq. 14 backwards], `heun` the same ODE at second order [2206.00364 alg. 1
upwards]. Both only approximate the inverse of their steps. Two more solvers have an exact inverse,
up to the number of fixed-point iterations:

    ddim_inverse   inverted by DDIM over the same grid, downwards [2309.04907]
    midpoint       the implicit midpoint method, second order, which is its own inverse

At sigma = 0 the noise is undetermined, and DDIM's step upwards divides by sigma. Published samplers
therefore take an image as x_t at the smallest time of the grid, and the way back ends at x0_hat of
it: off by about sigma x0, 0.03 on a flow of 50 steps. `before_last_step` solves for the x_t of
which the last step gives the image. Invert at a guidance scale of 1: at others the ODE is stiff and
the round trip inaccurate [2211.09794 sec. 3].
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.process import Prediction, Process, Time, to_x0_eps
from t2i_jax.ranges import Range
from t2i_jax.sampling.loop import make_plan, sample
from t2i_jax.sampling.runge_kutta import Frame, frame_of, starts_and_ends
from t2i_jax.sampling.solver import Call, Denoiser, Solver, Step

Iterations = Annotated[int, Range("[1, 1000]")]


def rising(times: Time) -> Time:
  """A sampler's grid reversed, without the time at sigma = 0.   # [S + 1]"""
  keep = np.asarray(times.sigma)[::-1] > 0
  return Time(*(np.asarray(field, np.float64)[::-1][keep] for field in times))


def invert(
  denoise: Denoiser,
  solver: Solver,
  process: Process,
  times: Time,
  x0: jax.Array,
  cond: Any = None,
  keep: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
  """Runs a deterministic solver upwards, from x0 at times[0] to x_1 at times[-1].

  times  [S + 1] rising, concrete, the first with some noise: `rising` of a sampler's grid
  keep   whether the trajectory is returned too
  Returns (x_1 [B, ...], the states at all times [S + 1, B, ...] or None). Raises ConfigError.
  """
  if solver.noisy:
    raise ConfigError("inversion: this solver adds noise, which has no inverse. Use 'ddim'.")
  t = np.asarray(times.t)
  if np.any(np.diff(t) < 0) or np.asarray(times.sigma)[0] <= 0:
    raise ConfigError(
      f"inversion: times must rise from a sigma above 0, not t = {t[0]:g} .. {t[-1]:g} from sigma "
      f"= {np.asarray(times.sigma)[0]:g}. Take rising(the sampler's grid)."
    )

  def record(i, x, prediction, states):
    return x, jax.lax.dynamic_update_index_in_dim(states, x, i + 1, 0)

  plan = make_plan(solver, process, times)
  if not keep:
    return sample(denoise, solver, plan, x0, cond)[0], None
  states = jnp.zeros((len(t), *x0.shape), x0.dtype).at[0].set(x0)
  return sample(denoise, solver, plan, x0, cond, on_step=record, state=states)


def before_last_step(
  denoise: Denoiser, time: Time, x0: jax.Array, cond: Any = None, iterations: int = 2
) -> jax.Array:
  """x_t at the last time before sigma = 0, of which a sampler's step to sigma = 0 gives x0.

      x_t = alpha x0 + sigma eps_hat(x_t, t),   whose x0_hat is x0, by fixed-point iteration

  An iteration takes the error times 1 - alpha d x0_hat / d x_t: near 0 where the network sees
  structure, 1 where it sees noise alone. There x_t moves away at each iteration by what x0_hat
  leaves out of the image, hence two of them.   x0 [B, ...];   time: of scalars
  """
  x_t = (time.alpha + time.sigma) * x0
  for _ in range(iterations):
    _, eps_hat = to_x0_eps(denoise(x_t, time, cond), x_t, time)
    x_t = time.alpha * x0 + time.sigma * eps_hat
  return x_t


def noise_of(
  denoise: Denoiser, solver: Solver, process: Process, times: Time, x0: jax.Array, cond: Any = None
) -> jax.Array:
  """The x_t at a sampler's first time from which it gives x0.

  times  [S + 1] falling, of the sampler;   solver: one of INVERTERS, built
  """
  up, x = _lowest(denoise, times, x0, cond)
  return invert(denoise, solver, process, up, x, cond)[0]


def states_of(
  denoise: Denoiser, solver: Solver, process: Process, times: Time, x0: jax.Array, cond: Any = None
) -> jax.Array:
  """x_t at all times of a sampler, from that of `noise_of` to x0.   # [S + 1, B, ...]

  solver: deterministic
  """
  up, x = _lowest(denoise, times, x0, cond)
  _, states = invert(denoise, solver, process, up, x, cond, keep=True)
  assert states is not None
  ends = [x0[None]] if len(up.t) < len(times.t) else []
  return jnp.concatenate([states[::-1], *ends])


def _lowest(denoise: Denoiser, times: Time, x0: jax.Array, cond: Any) -> tuple[Time, jax.Array]:
  """A sampler's times that an inversion goes through, rising, and x_t at the first of them."""
  up = rising(times)
  if len(up.t) == len(times.t):
    return up, x0
  # The sampler's last step ends at sigma = 0.
  time = Time(*(jnp.float32(field[0]) for field in up))
  return up, before_last_step(denoise, time, x0, cond)


def halfway(process: Process, now: Time, to: Time) -> Time:
  """The times in the middle of steps, in tau = sigma / (alpha + sigma).   float64 [S]"""
  noise = now.sigma / (now.alpha + now.sigma) + to.sigma / (to.alpha + to.sigma)
  return process.at(np.asarray(process.time_of(noise / (2 - noise))))


class Implicit(NamedTuple):
  """where: Time of the network call;   scale: its alpha + sigma;   frame: of the step"""

  where: Time
  scale: Any
  frame: Frame


def _implicit(share: float, iterations: int) -> Solver:
  """y_to = y + d_tau g(y + share d_tau g), solved for the slope g by iteration.

  In y = x / (alpha + sigma) against tau = sigma / (alpha + sigma), where dy/dtau = eps - x0 and a
  step of DDIM is Euler's. The iteration contracts where d_tau |dg/dy| < 1.
  """

  def plan(process: Process, times: Time) -> Implicit:
    now, to = starts_and_ends(times)
    where = to if share == 1 else halfway(process, now, to)
    return Implicit(where, where.alpha + where.sigma, frame_of(now, to, "flow"))

  def step(call: Call, x, step: Step, memory, noise):
    n: Implicit = step.numbers
    y, d_tau = x / n.frame.scale, n.frame.tau_to - n.frame.tau

    def ask(slope: jax.Array) -> tuple[jax.Array, Prediction]:
      x_t = n.scale * (y + share * d_tau * slope)
      prediction = call(x_t, n.where)
      x0_hat, eps_hat = to_x0_eps(prediction, x_t, n.where)
      return eps_hat - x0_hat, prediction._replace(value=x0_hat, kind="x0")

    slope = jax.lax.fori_loop(0, iterations - 1, lambda _, g: ask(g)[0], jnp.zeros_like(x))
    slope, prediction = ask(slope)
    return n.frame.scale_to * (y + d_tau * slope), prediction, memory

  return Solver(plan, lambda x: (), step, calls=iterations)


def ddim_inverse(iterations: Iterations = 10) -> Solver:
  """x_t of which a DDIM step down to s gives x_s, by fixed-point iteration. [2309.04907]

      x_s = alpha_s x0_hat(x_t, t) + sigma_s eps_hat(x_t, t),   solved for x_t

  For `invert`; longer steps need more iterations for the same digits.
  """
  return _implicit(1.0, iterations)


def midpoint(iterations: Iterations = 10) -> Solver:
  """The implicit midpoint method, its own inverse: the same solver runs up and down.

  y_to = y + d_tau g((y + y_to) / 2, half-way in tau).   Source: Hairer, Lubich, Wanner, Geometric
  Numerical Integration, sec. V.1 (symmetric methods)
  """
  return _implicit(0.5, iterations)


# Solvers for inversion by name, with as many steps as the sampler.
INVERTERS: dict[str, Callable[..., Solver]] = {"ddim_inverse": ddim_inverse, "midpoint": midpoint}
