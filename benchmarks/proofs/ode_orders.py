"""The orders of deterministic solvers, in float64, against exact answers.

They follow the probability-flow ODE of a mixture, whose answer an eighth-order integrator gives to
1e-13, or of a Gaussian, where it is a formula. The page is written by `solver_orders`.
"""

import inspect
import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from benchmarks.proofs.closed_form import Mixture, denoiser, flow_map, gaussian, mixture
from t2i_jax.process import PROCESSES, Process, Time
from t2i_jax.sampling import GRIDS, SOLVERS, Denoiser, Solver, Step, make_plan
from t2i_jax.sampling.grids import at_ratios, at_times

MIXED = mixture(
  [0.5, 0.3, 0.2], [[-1, 0.4], [0.8, -0.6], [0.3, 1.1]], [[0.3, 0.2], [0.25, 0.4], [0.35, 0.3]]
)
NORMAL = gaussian([0.6, -0.3], [[0.5, 0.2], [0.2, 0.3]])
COUNTS = (16, 32, 64, 128)
START_COUNTS = (64, 128, 256, 512)  # the error of a start shows once that of the method is small
DDPM_COUNTS = (25, 50, 100, 200)  # divisors of 1000: every step is as long
ENDS = (3.0, 0.2)  # sigma / alpha at both ends of the interior interval
POINTS = 6  # starting points; the error is the root of their mean square


class Problem(NamedTuple):
  """Data, and its exact flow: carry(x [B, D] at the first time, times) -> [S + 1, B, D]."""

  data: Mixture
  carry: Callable[[np.ndarray, Time], np.ndarray]


@lru_cache
def _slope() -> Callable[[np.ndarray, float], jax.Array]:
  flow, perfect = PROCESSES["flow"](), denoiser(MIXED, "velocity")
  return jax.jit(lambda y, tau: perfect(y, flow.at(tau), None).value)


def integrated(x: np.ndarray, times: Time) -> np.ndarray:
  """The probability-flow ODE of MIXED by DOP853 at a tolerance of 1e-13.

  In y = x / (alpha + sigma) against tau = sigma / (alpha + sigma), where every process is the flow
  and both ends are regular.
  """
  scale = np.asarray(times.alpha + times.sigma)
  tau = np.asarray(times.sigma) / scale
  slope = lambda tau, y: np.asarray(_slope()(y.reshape(x.shape), tau)).ravel()
  y = [np.asarray(x) / scale[0]]
  for a, b in itertools.pairwise(tau):
    done = solve_ivp(slope, (a, b), y[-1].ravel(), "DOP853", rtol=1e-13, atol=1e-13)
    y.append(done.y[:, -1].reshape(x.shape))
  return np.stack(y) * scale[:, None, None]


def mapped(x: np.ndarray, times: Time) -> np.ndarray:
  """The probability-flow ODE of NORMAL in closed form."""
  ends = range(len(times.t))
  return np.stack([flow_map(NORMAL, jnp.asarray(x), part(times, 0), part(times, i)) for i in ends])


PROBLEMS = {"mixture": Problem(MIXED, integrated), "gaussian": Problem(NORMAL, mapped)}


def label(name: str, args: dict[str, Any]) -> str:
  """As in a config."""
  given = ", ".join(f"{k}={v!r}" for k, v in args.items())
  return f"{name}({given})" if given else name


class Row(NamedTuple):
  """A deterministic solver of the page, and what theory says of it.

  kind     what the network predicts: pndm's order depends on it
  spacing  the variable in which the interior steps are even: the solver's own
  theory   its order with an exact history
  start    its order with its own start
  history  how many moments before the interval are given exactly
  process  of the interior interval
  """

  name: str
  args: dict[str, Any]
  spacing: str
  theory: int
  start: int
  history: int = 0
  kind: str = "x0"
  process: str = "flow"

  @property
  def label(self) -> str:
    return label(self.name, self.args)

  def solver(self, interior: bool = False) -> Solver:
    """As published, or without its fall to lower orders over the last steps."""
    make = SOLVERS[self.name]
    lower = interior and "lower_final" in inspect.signature(make).parameters
    return make(**self.args, **({"lower_final": False} if lower else {}))


DETERMINISTIC = (
  Row("euler", {}, "tau", 1, 1),
  Row("ddim", {}, "lambda", 1, 1),
  Row("heun", {"frame": "flow"}, "tau", 2, 2),
  Row("heun", {"frame": "sigma"}, "sigma", 2, 2),
  Row("edm", {}, "sigma", 2, 2),
  Row("dpmpp", {"order": 1}, "lambda", 1, 1),
  Row("dpmpp", {"order": 2}, "lambda", 2, 2, 1),
  Row("dpmpp", {"order": 2, "midpoint": False}, "lambda", 2, 2, 1),
  Row("dpmpp", {"order": 3}, "lambda", 2, 2, 2),
  Row("dpmpp", {"order": 3, "published": False}, "lambda", 3, 2, 2),
  *(
    Row("unipc", {"order": p, "bh1": bh1}, "lambda", p + 1, min(p + 1, 3), p)
    for bh1 in (False, True)
    for p in (1, 2, 3)
  ),
  Row("unipc", {"order": 2, "kind": "eps"}, "lambda", 3, 3, 2, process="vp"),
  Row("pndm", {}, "t", 4, 3, 4, "velocity"),
  Row("pndm", {"runge_kutta": True}, "t", 4, 4, 4, "velocity"),
  Row("pndm", {}, "t", 2, 2, 4, "eps", "vp"),
  Row("pndm", {"runge_kutta": True}, "t", 2, 2, 4, "eps", "vp"),
  Row("pndm", {}, "t", 1, 1, 4, "v", "vp"),
)


def interior(process: Process, spacing: str, steps: int, before: int = 0) -> Time:
  """A grid of even steps between ENDS, in "t", "sigma" (sigma / alpha), "lambda" or "tau".

  before  so many steps of the same size ahead of it, towards noise
  """
  to, back = {
    "t": (process.time_of, None),
    "sigma": (lambda s: s, lambda u: u),
    "lambda": (lambda s: -np.log(s), lambda u: np.exp(-u)),
    "tau": (lambda s: s / (1 + s), lambda u: u / (1 - u)),
  }[spacing]
  first, last = to(np.array(ENDS))
  even = first + (last - first) / steps * np.arange(-before, steps + 1)
  return at_times(process, even) if back is None else at_ratios(process, back(even))


def part(times: Time, rows: Any) -> Time:
  return Time(*(f[rows] for f in times))


def starts(time: Time) -> np.ndarray:
  """POINTS draws of x_t, always the same.   # [B, D]"""
  rng = np.random.default_rng(4)
  x0, eps = (rng.normal(size=(POINTS, 2)) for _ in range(2))
  return time.alpha * x0 + time.sigma * eps


def take(solver: Solver, denoise: Denoiser, x, step: Step, memory, noise) -> tuple[Any, Any]:
  """One step of a solver on an unconditional denoiser: (x, memory)."""
  x, _, memory = solver.step(lambda x, time: denoise(x, time, None), x, step, memory, noise)
  return x, memory


@lru_cache
def mover(solver: Solver, kind: str, problem: str) -> Callable[..., Any]:
  """One compiled step (x, step, memory) -> (x, memory), for plans of any length."""
  denoise = denoiser(PROBLEMS[problem].data, kind)
  return jax.jit(lambda x, step, memory: take(solver, denoise, x, step, memory, None))


def plan_steps(solver: Solver, process: Process, times: Time) -> list[Step]:
  plan = jax.tree.map(np.asarray, make_plan(solver, process, times))
  return [jax.tree.map(lambda a, i=i: a[i], plan) for i in range(len(plan.index))]


def solve(move, solver: Solver, process: Process, times: Time, known: np.ndarray) -> np.ndarray:
  """x at the last time. The first K moments are given exactly, known [K >= 1, B, D].

  A multistep method has so the history of the exact solution: the steps from known moments fill
  its memory, and what they lead to is not used; nor is a corrector, before the last of them.
  """
  x = jnp.asarray(known[0])
  memory = solver.init(x)
  for i, step in enumerate(plan_steps(solver, process, times)):
    if i < len(known):
      x = jnp.asarray(known[i])
      if getattr(step.numbers, "fix_x", None) is not None:
        step = step._replace(numbers=step.numbers._replace(fix_x=np.array(np.nan)))
    x, memory = move(x, step, memory)
  return np.asarray(x)


def order_of(counts: tuple[int, ...], errors: Any) -> float:
  """Minus the slope of log error against log steps."""
  return float(-np.polyfit(np.log(counts), np.log(errors), 1)[0])


@lru_cache
def _answer(process: Process, spacing: str, problem: str) -> tuple[np.ndarray, np.ndarray]:
  """(x at the first of ENDS, where the ODE takes it at the second)."""
  ends = interior(process, spacing, 1)
  x = starts(part(ends, 0))
  return x, PROBLEMS[problem].carry(x, ends)[-1]


def interior_order(
  row: Row, process: Process, exact_history: bool = True, problem: str = "mixture"
) -> float:
  """The measured order on the interior interval."""
  solver, before = row.solver(interior=True), row.history if exact_history else 0
  move, counts = mover(solver, row.kind, problem), COUNTS if exact_history else START_COUNTS
  x, wanted = _answer(process, row.spacing, problem)
  errors = []
  for steps in counts:
    times = interior(process, row.spacing, steps, before)
    known = PROBLEMS[problem].carry(x, part(times, slice(before, None, -1)))[::-1]
    got = solve(move, solver, process, times, known if before else x[None])
    errors.append(float(np.sqrt(np.mean((got - wanted) ** 2))))
  return order_of(counts, errors)


@lru_cache
def _whole_answer(process: Process) -> tuple[np.ndarray, np.ndarray]:
  ends = at_times(process, [1.0, 0.0])
  x = starts(part(ends, 0))
  return x, integrated(x, ends)[-1]


def whole_order(row: Row, process: Process) -> float:
  """The measured order as published: a trailing grid from t = 1 to t = 0, its own start and end."""
  solver = row.solver()
  move, counts = mover(solver, row.kind, "mixture"), DDPM_COUNTS if process.steps else COUNTS
  x, wanted = _whole_answer(process)
  errors = []
  for steps in counts:
    got = solve(move, solver, process, GRIDS["trailing"](process, steps), x[None])
    errors.append(float(np.sqrt(np.mean((got - wanted) ** 2))))
  return order_of(counts, errors)
