"""Error against network calls of every solver, on a mixture whose denoiser is exact.

A solver of the ODE is held against a fine integration of the same ODE from the same noise; one that
adds noise, against the distribution of the data. Nothing here is trained.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import ndtr

from benchmarks.proofs.closed_form import Mixture, denoiser, draw, mixture
from t2i_jax.config import build
from t2i_jax.evaluation.chart import PALETTE, Series, line_chart, panels
from t2i_jax.process import PROCESSES, Process, Time, like
from t2i_jax.process.variational import log_bounds, posterior
from t2i_jax.sampling import GRIDS, SOLVERS, Denoiser, make_plan, row_noise, sample

STEPS = (4, 8, 16, 32, 64, 128)
SDE_STEPS = STEPS[:-1]  # more steps only meet the noise of the measurement
ROWS, DRAWS = 512, 16384  # starting points of the ODE, and of a distribution
ODE = (
  "euler",
  "heun",
  "edm",
  "dpmpp",
  "dpmpp(order=3)",
  "unipc",
  "unipc(order=3)",
  "pndm",
)
SDE = (
  "ddpm",
  "ddpm(variance='large')",
  "ddpm_learned",
  "flow_sde",
  "consistency",
  "dpmpp_sde",
  "dpmpp_sde(order=3)",
  "edm(churn=40)",
)
BESIDE = ("euler", "unipc")  # of the ODE, drawn with the others for comparison
# Names that are the same step as one above, on any grid and process; a test holds them together.
SAME = {"ddim": "euler", "ddim(eta=1)": "ddpm", "euler_ancestral": "ddpm"}


class Case(NamedTuple):
  """A process and a grid, both as in a config."""

  title: str
  process: str
  grid: str

  def times(self, steps: int) -> Time:
    return build(GRIDS, self.grid, "grid", self.made(), steps)

  def made(self) -> Process:
    return build(PROCESSES, self.process, "process")


CASES = (
  Case("flow, even t", "flow", "trailing"),
  Case("flow, t shifted by 3", "flow", "shifted(factor=3)"),
  Case("DDPM, trailing", "ddpm_scaled_linear", "trailing"),
  Case("DDPM, karras", "ddpm_scaled_linear", "karras"),
)


def pinwheel(blades: int = 5, long: float = 0.4, wide: float = 0.12) -> Mixture:
  """A ring of blades of these standard deviations, scaled to zero mean and unit covariance."""
  angle = 2 * np.pi * np.arange(blades) / blades
  means = 1.25 * np.stack([np.cos(angle), np.sin(angle)], 1)
  c, s = np.cos(angle + 0.9), np.sin(angle + 0.9)
  axes = np.stack([np.stack([c, s], 1), np.stack([-s, c], 1)], 2)  # columns
  covariances = (axes * np.array([long**2, wide**2])) @ axes.transpose(0, 2, 1)
  variance = (1.25**2 + long**2 + wide**2) / 2
  return mixture(np.ones(blades), means / variance**0.5, covariances / variance)


DATA = pinwheel()


def with_variance(perfect: Denoiser, process: Process) -> Denoiser:
  """The denoiser with the aux of a network that has learned its variance perfectly.

  The variance of p(x_s | x_t) between neighbouring training steps is that of q(x_s | x_t, x0) plus
  what is not known of x0, whose covariance is (sigma^2 / alpha) d x0_hat / d x_t.
  """
  training = process.steps or 1000

  def denoise(x_t: jax.Array, time: Time, cond: Any = None):
    x0_hat = lambda x: perfect(x, time, cond).value
    axes = jnp.eye(x_t.shape[-1], dtype=x_t.dtype)
    slopes = [jax.jvp(x0_hat, (x_t,), (jnp.broadcast_to(a, x_t.shape),))[1] for a in axes]
    own = jnp.stack([slope[:, i] for i, slope in enumerate(slopes)], -1)  # [B, D]
    of_x0 = like(time.sigma**2 / jnp.maximum(time.alpha, 1e-6), x_t) * own
    to, first = process.at(time.t - 1 / training), process.at(jnp.array([1.0, 2.0]) / training)
    low, high = log_bounds(time, to, first)
    p = posterior(time, to)
    variance = like(p.variance, x_t) + like(p.on_x0, x_t) ** 2 * of_x0
    share = (jnp.log(jnp.maximum(variance, 1e-30)) - low) / (high - low)
    return perfect(x_t, time, cond)._replace(aux=2 * jnp.clip(share, 0, 1) - 1)

  return denoise


def ode_end(x: np.ndarray, start: Time) -> np.ndarray:
  """Where the ODE takes x [B, D] from `start` (scalars) to t = 0, by DOP853 to 1e-10.

  As dx/dt of the flow, to which any process comes by x / (alpha + sigma), t = sigma / (alpha +
  sigma).
  """
  flow, velocity = PROCESSES["flow"](), denoiser(DATA, "velocity")
  slope = jax.jit(lambda y, t: velocity(y, flow.at(t), None).value)
  scale = start.alpha + start.sigma
  moved = solve_ivp(
    lambda t, y: np.asarray(slope(y.reshape(x.shape), t)).ravel(),
    (start.sigma / scale, 0.0),
    (x / scale).ravel(),
    "DOP853",
    rtol=1e-10,
    atol=1e-10,
  )
  return moved.y[:, -1].reshape(x.shape)


class Sliced:
  """The sliced Wasserstein-1 distance of samples [N, 2] from exact quantiles of the data.

  How far mass has to move along a line, the mean over 32 directions. The projection of a mixture is
  a mixture with a known distribution function, so that only the samples are random.
  """

  def __init__(self, data: Mixture, n: int):
    angle = np.pi * (np.arange(32) + 0.5) / 32
    self.along = np.stack([np.cos(angle), np.sin(angle)])  # [2, 32]
    basis = np.eye(2) if data.basis is None else data.basis
    covariances = (basis * data.variances[:, None]) @ np.swapaxes(basis, -1, -2)
    means = data.means @ self.along  # [K, 32]
    stds = np.sqrt(np.einsum("id,kij,jd->kd", self.along, covariances, self.along))
    points = np.linspace(-6, 6, 8001)
    share = (np.arange(n) + 0.5) / n
    lines = zip(means.T, stds.T, strict=True)
    cdf = [data.weights @ ndtr((points - m[:, None]) / s[:, None]) for m, s in lines]
    self.quantiles = np.stack([np.interp(share, c, points) for c in cdf])  # [32, N]

  def __call__(self, samples: np.ndarray) -> float:
    return float(np.mean(np.abs(np.sort((samples @ self.along).T) - self.quantiles)))


def exact_floor(sliced: Sliced, n: int, sets: int = 8) -> tuple[float, float]:
  """The least and greatest distance that sets of exact samples have: the noise of the measure."""
  keys = jax.random.split(jax.random.key(7), sets)
  found = [sliced(np.asarray(draw(DATA, key, n)[0])) for key in keys]
  return min(found), max(found)


class Counter:
  """Counts the calls of a denoiser as they are made, whatever branch of a program makes them."""

  def __init__(self, denoise: Denoiser):
    self.calls, self.inner = 0, denoise

  def __call__(self, x_t: jax.Array, time: Time, cond: Any):
    jax.debug.callback(self.count)
    return self.inner(x_t, time, cond)

  def count(self) -> None:
    self.calls += 1


Sampler = Callable[[Case, np.ndarray, int], tuple[np.ndarray, int]]


def sampler(text: str) -> Sampler:
  """(case, x at its start, steps) -> (x at t = 0, network calls), for a solver as in a config.

  One program a step count serves every case: they differ in the plan.
  """
  solver = build(SOLVERS, text, "solver")
  counted: dict[str, Counter] = {}

  @partial(jax.jit, static_argnums=2)
  def run(x: jax.Array, plan, process: str):
    denoise = denoiser(DATA)
    if text == "ddpm_learned":  # the only one that asks the network for more
      denoise = with_variance(denoise, build(PROCESSES, process, "process"))
    counter = counted.setdefault(f"{len(plan.index)} {process}", Counter(denoise))
    noise = row_noise(jax.random.split(jax.random.key(1), len(x)), x.shape[1:])
    return sample(counter, solver, plan, x, None, noise if solver.noisy else None)[0]

  def ends(case: Case, x: np.ndarray, steps: int) -> tuple[np.ndarray, int]:
    process = case.process if text == "ddpm_learned" else ""
    plan = make_plan(solver, case.made(), case.times(steps))
    for counter in counted.values():
      counter.calls = 0
    x_0 = jax.block_until_ready(run(jnp.asarray(x), plan, process))
    jax.effects_barrier()
    return np.asarray(x_0), counted[f"{steps} {process}"].calls

  return ends


class Curve(NamedTuple):
  """Errors of a solver in a case, over network calls."""

  solver: str
  case: Case
  calls: list[int]
  errors: list[float]


def starts(n: int) -> np.ndarray:
  return np.asarray(jax.random.normal(jax.random.key(0), (n, 2)))


def ode_curves(solvers: tuple[str, ...] = ODE, steps: tuple[int, ...] = STEPS) -> list[Curve]:
  """RMS distance of the end points from the ODE's own, in standard deviations of the data."""
  x = starts(ROWS)
  exact = {case: ode_end(x, Time(*(f[0] for f in case.times(1)))) for case in CASES}
  curves = []
  for text in solvers:
    ends = sampler(text)
    for case in CASES:
      pairs = [ends(case, x, n) for n in steps]
      errors = [np.sqrt(np.mean(np.sum((end - exact[case]) ** 2, -1))) for end, _ in pairs]
      curves.append(Curve(text, case, [calls for _, calls in pairs], list(map(float, errors))))
  return curves


def sde_curves(
  solvers: tuple[str, ...] = (*SDE, *BESIDE), steps: tuple[int, ...] = SDE_STEPS
) -> list[Curve]:
  """Sliced Wasserstein distance of the samples from the data, from the process's prior."""
  x, sliced, curves = starts(DRAWS), Sliced(DATA, DRAWS), []
  for text in solvers:
    ends = sampler(text)
    for case in CASES:
      pairs = [ends(case, x, n) for n in steps]
      errors = [sliced(end) for end, _ in pairs]
      curves.append(Curve(text, case, [calls for _, calls in pairs], errors))
  return curves


def calls_for(curve: Curve, error: float) -> float:
  """Calls from which on the error stays below, by lines in log-log; inf if it never does."""
  log_calls, log_errors = np.log(curve.calls), np.log(curve.errors)
  above = np.flatnonzero(np.asarray(curve.errors) > error)
  if not len(above):
    return curve.calls[0]
  i = above[-1]
  if i + 1 == len(curve.calls):
    return np.inf
  share = (log_errors[i] - np.log(error)) / (log_errors[i] - log_errors[i + 1])
  return float(np.exp(log_calls[i] + share * (log_calls[i + 1] - log_calls[i])))


def error_at(curve: Curve, calls: float) -> float:
  """The error at so many calls, by lines in log-log."""
  return float(np.exp(np.interp(np.log(calls), np.log(curve.calls), np.log(curve.errors))))


def figure(curves: list[Curve], floor: tuple[float, float] | None = None) -> str:
  """A chart a case, log-log. `floor`: the band of exact samples, where noise is compared."""
  names = list(dict.fromkeys(c.solver for c in curves))
  colors = (*PALETTE[:-1], "#0e8fa8")  # grey is kept for what stands beside
  color = {name: colors[i % len(colors)] for i, name in enumerate(names)}
  dash: dict[str, str] = {}
  if floor is not None:
    color |= dict.fromkeys(BESIDE, "#6b7280")
    dash = dict(zip(BESIDE, ("6 3", "2 3"), strict=True))
  lowest = min(e for c in curves for e in c.errors)
  charts = []
  for i, case in enumerate(CASES):
    own = [c for c in curves if c.case == case]
    lines = [
      Series(c.solver, c.calls, c.errors, color=color[c.solver], dash=dash.get(c.solver))
      for c in own
    ]
    if floor is not None:
      ends = [min(min(c.calls) for c in own), max(max(c.calls) for c in own)]
      low, middle, high = ([value] * 2 for value in (floor[0], sum(floor) / 2, floor[1]))
      lines.append(Series("exact samples", ends, middle, low, high, color="#8a919c", dash="1 4"))
    last = i % 2 == 1
    charts.append(
      line_chart(
        lines,
        title=case.title,
        x_label="network calls",
        y_label="RMS distance from the ODE" if floor is None else "sliced Wasserstein distance",
        log_x=True,
        log_y=True,
        y_limits=(lowest / 1.5, 1.5),
        legend=last,
        width=(570 if floor is None else 603) if last else 420,
        height=320,
      )
    )
  return panels(charts, 2)
