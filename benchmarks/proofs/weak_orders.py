"""The weak orders of stochastic solvers, in float64, without sampling.

On Gaussian data the perfect network is affine in x, hence so is every step, and mean and covariance
pass through it exactly. The covariance starts at that of x_t. So does the mean, but off by one in
every coordinate, since on the flow every solver keeps the exact one; how much of the distance is
left is known of the SDE that the solver follows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.integrate import quad

from benchmarks.proofs.closed_form import data_time, denoiser, flow_map
from benchmarks.proofs.ode_orders import (
  COUNTS,
  DDPM_COUNTS,
  ENDS,
  NORMAL,
  interior,
  label,
  order_of,
  part,
  plan_steps,
  take,
)
from t2i_jax.process import Prediction, Process, Time
from t2i_jax.sampling import GRIDS, SOLVERS, Denoiser, Solver, Step

WEAK_COUNTS = (64, 128, 256, 512)
EXACT = 0  # in place of an order: no error at any step count


class Stochastic(NamedTuple):
  """A stochastic solver of the page.

  mean, covariance  its weak orders by theory
  rate  of the noise it adds, against s = sigma / alpha on the interior of the flow: half of
        w / alpha^2 dt / ds of the SDE dx = (velocity - w score / 2) dt + sqrt(w) dW that it follows
  """

  name: str
  args: dict[str, Any]
  spacing: str
  mean: int
  covariance: int
  rate: Callable[[float], float] = lambda s: s  # the reverse of the process itself

  @property
  def label(self) -> str:
    return label(self.name, self.args)

  def solver(self) -> Solver:
    return SOLVERS[self.name](**self.args)

  def denoise(self) -> Denoiser:
    """The perfect network; for consistency sampling, where the ODE ends."""
    if self.name != "consistency":
      perfect = denoiser(NORMAL, "x0")
      return lambda x, time, cond: perfect(x, time, None)._replace(aux=0 * x)
    return lambda x, time, cond: Prediction(flow_map(NORMAL, x, time, data_time()), "x0")


CHURN = 5.0
STOCHASTIC = (
  Stochastic("ddpm", {"variance": "small"}, "lambda", EXACT, 1),
  Stochastic("ddpm", {"variance": "large"}, "lambda", EXACT, 1),
  Stochastic("ddpm_learned", {}, "lambda", EXACT, 1),
  Stochastic("ddim", {"eta": 1.0}, "lambda", EXACT, 1),
  Stochastic("ddim", {"eta": 0.5}, "lambda", 1, 1, lambda s: s / 4),
  Stochastic("euler_ancestral", {}, "lambda", EXACT, 1),
  Stochastic("flow_sde", {}, "t", 1, 1, lambda s: s / (2 + 2 * s)),
  Stochastic("dpmpp_sde", {"order": 1}, "lambda", EXACT, 1),
  Stochastic("dpmpp_sde", {"order": 2}, "lambda", EXACT, 2),
  Stochastic("dpmpp_sde", {"order": 2, "midpoint": False}, "lambda", EXACT, 2),
  Stochastic("dpmpp_sde", {"order": 3}, "lambda", EXACT, 2),
  Stochastic("dpmpp_sde", {"order": 3, "published": False}, "lambda", EXACT, 2),
  Stochastic("edm", {"churn": CHURN}, "sigma", 1, 2, lambda s: CHURN * s**2 / (ENDS[0] - ENDS[1])),
  Stochastic("consistency", {}, "lambda", EXACT, EXACT),
)


class Affine(NamedTuple):
  """A step on z = (x, memory): z -> matrix z + shift + spread noise."""

  matrix: np.ndarray
  shift: np.ndarray
  spread: np.ndarray


def affine(solver: Solver, denoise: Denoiser) -> Callable[[Step], Affine]:
  """Reads the numbers of a step from the step itself, by its derivative."""
  x = jnp.zeros((1, 2))
  zero, unravel = ravel_pytree((x, solver.init(x)))

  @jax.jit
  def of(step: Step):
    def move(z, noise):
      x, memory = unravel(z)
      return ravel_pytree(take(solver, denoise, x, step, memory, noise))[0]

    matrix, spread = jax.jacfwd(move, (0, 1))(zero, x)
    return Affine(matrix, move(zero, x), spread[:, 0])

  return lambda step: Affine(*(np.asarray(a) for a in of(step)))


def moments(time: Time) -> tuple[np.ndarray, np.ndarray]:
  """The exact mean [D] and covariance [D, D] of x_t for NORMAL."""
  basis = NORMAL.basis[0]
  covariance = basis @ np.diag(NORMAL.variances[0]) @ basis.T
  return time.alpha * NORMAL.means[0], time.alpha**2 * covariance + time.sigma**2 * np.eye(2)


def carried(read, solver: Solver, process: Process, times: Time, away: float = 0.0):
  """The solver's (mean [D], covariance [D, D]) at the last time.

  From the exact covariance at the first, and a mean that is `away` in every coordinate from it.
  """
  mean, covariance = moments(part(times, 0))
  size = ravel_pytree(solver.init(jnp.zeros((1, 2))))[0].size
  mean, covariance = np.pad(mean + away, (0, size)), np.pad(covariance, (0, size))
  for step in plan_steps(solver, process, times):
    a = read(step)
    mean = a.matrix @ mean + a.shift
    covariance = a.matrix @ covariance @ a.matrix.T + a.spread @ a.spread.T
  return mean[:2], covariance[:2, :2]


def kept(rate: Callable[[float], float], now: Time, to: Time) -> np.ndarray:
  """What the exact SDE makes of a distance from the mean: a matrix [D, D].

  Along an axis of variance v: alpha_s / alpha_t sqrt(c_s / c_t) exp(-integral of rate / c over s),
  c = v + s^2
  """
  s_now, s_to = now.sigma / now.alpha, to.sigma / to.alpha
  basis, along = NORMAL.basis[0], []
  for v in NORMAL.variances[0]:
    decay = quad(lambda s, v=v: rate(s) / (v + s**2), s_to, s_now, epsabs=1e-13, epsrel=1e-13)[0]
    along.append(np.sqrt((v + s_to**2) / (v + s_now**2)) * np.exp(-decay) * to.alpha / now.alpha)
  return basis @ np.diag(along) @ basis.T


def weak_errors(row: Stochastic, process: Process, grids: list[Time], away: float) -> np.ndarray:
  """Errors of mean and covariance at the end of each grid.   # [2, grids]"""
  solver, errors = row.solver(), []
  read = affine(solver, row.denoise())
  for times in grids:
    mean, covariance = moments(part(times, -1))
    if away:
      mean = mean + kept(row.rate, part(times, 0), part(times, -1)) @ np.full(2, away)
    got = carried(read, solver, process, times, away)
    errors.append([np.linalg.norm(got[0] - mean), np.linalg.norm(got[1] - covariance)])
  return np.array(errors).T


def weak_orders(row: Stochastic, process: Process) -> tuple[float, float]:
  """Weak orders of (mean, covariance) on the interior interval of the flow; EXACT if they are."""
  grids = [interior(process, row.spacing, steps) for steps in WEAK_COUNTS]
  # Consistency sampling forgets a wrong mean at once.
  away = 0.0 if row.covariance == EXACT else 1.0
  mean, covariance = weak_errors(row, process, grids, away)
  order = lambda errors: EXACT if np.max(errors) < 1e-12 else order_of(WEAK_COUNTS, errors)
  return order(mean), order(covariance)


def weak_whole_order(row: Stochastic, process: Process) -> float:
  """Weak order of the covariance over the whole trailing grid, from t = 1 to t = 0."""
  counts = DDPM_COUNTS if process.steps else COUNTS
  grids = [GRIDS["trailing"](process, steps) for steps in counts]
  return order_of(counts, weak_errors(row, process, grids, away=0.0)[1])
