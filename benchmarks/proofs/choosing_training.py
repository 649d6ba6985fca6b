"""Densities of the timestep distributions, and the weightings, against log SNR."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from t2i_jax.evaluation.chart import PALETTE, Series, line_chart, panels
from t2i_jax.process import KINDS, PROCESSES, TIMESTEP_DISTRIBUTIONS, WEIGHTINGS, Process, Time
from t2i_jax.process.timesteps import TimestepDistribution, shift

SHIFT = 3.0  # SD3's
COLORS = (*PALETTE[:-1], "#0e8fa8")
# Weightings by what they are proposed for: an error as it is, or a function of the SNR.
PLAIN = (*KINDS, "sigma_sqrt", "cosmap")
BY_SNR = tuple(name for name in WEIGHTINGS if name not in PLAIN)


class Density(NamedTuple):
  """A density at points of something that rises or falls with u; float64 [N], over its range."""

  at: np.ndarray
  value: np.ndarray

  def cumulative(self) -> np.ndarray:
    """Share of the mass below each point, by the trapezium rule."""
    mass = np.diff(self.at) * (self.value[1:] + self.value[:-1]) / 2
    below = np.concatenate([[0], np.cumsum(mass)])
    return below / below[-1]

  def quantile(self, share: float | list[float]) -> np.ndarray:
    """Where so much of the mass lies below."""
    return np.interp(share, self.cumulative(), self.at)

  def below(self, at: float) -> float:
    """How much of the mass lies below."""
    return float(np.interp(at, self.at, self.cumulative()))


def places(n: int = 600, reach: float = 9.0) -> np.ndarray:
  """u in (0, 1), close together at both ends.   # float64 [N]"""
  return expit(np.linspace(-reach, reach, n))


def density(
  distribution: TimestepDistribution,
  of: Callable[[np.ndarray], np.ndarray] = np.asarray,
  u: np.ndarray | None = None,
) -> Density:
  """The density of of(t), t from the distribution: du / d of(t), by differences between close u.

  Differences and not a derivative of the program, since it may be a bisection. Needs float64.
  """
  u = places() if u is None else u
  value = of(np.asarray(distribution(jnp.asarray(u)), np.float64))
  step = np.diff(value)
  order = 1 if step.sum() > 0 else -1
  return Density(((value[1:] + value[:-1]) / 2)[::order], (np.diff(u) / np.abs(step))[::order])


def log_snr(time: Time) -> np.ndarray:
  return 2 * np.log(np.asarray(time.alpha) / np.asarray(time.sigma))


def as_flow_time(process: Process) -> Callable[[np.ndarray], np.ndarray]:
  """t of the flow with the same sigma / alpha, so that several processes compare."""
  flow = PROCESSES["flow"]()
  return lambda t: flow.time_of(np.asarray(process.at(t).sigma / process.at(t).alpha))


def process_of(distribution: str) -> Process:
  """The process of a timestep distribution."""
  return PROCESSES["edm" if distribution == "edm" else "flow"]()


def densities(factor: float, against: str) -> dict[str, Density]:
  """Densities of the flow's t or of log SNR (`against`), by name, with t shifted by the factor."""
  flow, found = PROCESSES["flow"](), {}
  for name, make in TIMESTEP_DISTRIBUTIONS.items():
    to_flow = as_flow_time(process_of(name))
    of_t = lambda t, to_flow=to_flow: shift(to_flow(t), factor)
    of = of_t if against == "t" else lambda t, of_t=of_t: log_snr(flow.at(of_t(t)))
    found[name] = density(make(), of)
  return found


def timesteps_figure() -> str:
  """Density of t and of log SNR, as drawn and after the shift."""
  charts = []
  for against, label, low, high, top in (
    ("t", "t of the flow (right: noise)", 0.0, 1.0, 5.5),
    ("log SNR", "log SNR (right: data)", -9.0, 9.0, 0.5),
  ):
    for factor in (1.0, SHIFT):
      lines = [
        Series(name, d.at, d.value, color=color)
        for (name, d), color in zip(densities(factor, against).items(), COLORS, strict=False)
      ]
      title = f"Density of {against}" + (f", shifted by {factor:g}" if factor > 1 else "")
      last = factor > 1
      charts.append(
        line_chart(
          lines,
          title=title,
          x_label=label,
          y_label="density",
          x_limits=(low, high),
          y_limits=(0.0, top),
          legend=last,
          width=548 if last else 420,
          height=290,
        )
      )
  return panels(charts, 2)


class Setting(NamedTuple):
  """A process, its timestep distribution, and the weightings that are not meant for it."""

  title: str
  process: str
  distribution: str
  without: tuple[str, ...] = ()


SETTINGS = (
  Setting(
    "DDPM (scaled linear), uniform steps",
    "ddpm_scaled_linear",
    "uniform",
    ("velocity", "sigma_sqrt", "cosmap"),
  ),
  Setting("flow, logit-normal t", "flow", "logit_normal"),
)


def weight_on_x0(name: str, snr: np.ndarray) -> np.ndarray:
  """The weight of |x0_hat - x0|^2 on the flow, at these log SNR."""
  flow = PROCESSES["flow"]()
  time = flow.at(np.asarray(flow.time_of(np.exp(-snr / 2))))
  return np.asarray(WEIGHTINGS[name]()(Time(*map(jnp.asarray, time))), np.float64)


def emphasis(name: str, setting: Setting) -> Density:
  """Emphasis of training: the weight of |eps_hat - eps|^2 times the density of log SNR, area 1.

  The variational bound is this at a constant weight over log SNR. An error of x0 is one of eps
  divided by the root of the SNR.
  """
  process = PROCESSES[setting.process]()
  distribution = TIMESTEP_DISTRIBUTIONS[setting.distribution]()
  steps = process.steps
  u = places(1200, 20.0) if steps is None else np.arange(1, steps + 1) / steps
  p = density(distribution, lambda t: log_snr(process.at(t)), u)
  time = process.at(np.asarray(distribution(jnp.asarray(u)), np.float64))
  on_x0 = np.asarray(WEIGHTINGS[name]()(Time(*map(jnp.asarray, time))), np.float64)
  on_eps = (on_x0 * np.exp(-log_snr(time)))[::-1]  # log SNR falls with u
  value = (on_eps[1:] + on_eps[:-1]) / 2 * p.value
  area = np.sum(np.diff(p.at) * (value[1:] + value[:-1]) / 2)
  return Density(p.at, value / area)


def weights_picture() -> str:
  """Every weighting as a weight of the x0 error, against log SNR; logarithmic."""
  snr = np.linspace(-8, 8, 200)
  charts = [
    line_chart(
      [
        Series(name, snr, weight_on_x0(name, snr), color=color)
        for name, color in zip(names, COLORS, strict=False)
      ],
      title=title,
      x_label="log SNR (right: data)",
      y_label="weight of the x0 error",
      log_y=True,
      y_limits=(1e-3, 1e4),
      width=515,
      height=320,
    )
    for title, names in (("An error as it is", PLAIN), ("Functions of the SNR", BY_SNR))
  ]
  return panels(charts, 2)


def emphasis_picture() -> str:
  """Emphasis of training, of every weighting under both settings."""
  charts = []
  for names in (PLAIN, BY_SNR):
    for i, setting in enumerate(SETTINGS):
      found = [
        (name, emphasis(name, setting), color)
        for name, color in zip(names, COLORS, strict=False)
        if name not in setting.without
      ]
      charts.append(
        line_chart(
          [Series(name, d.at, d.value, color=color) for name, d, color in found],
          title=setting.title,
          x_label="log SNR (right: data)",
          y_label="weight x density",
          x_limits=(-9.0, 9.0),
          y_limits=(0.0, 0.4),
          legend=i == 1,
          width=548 if i == 1 else 420,
          height=290,
        )
      )
  return panels(charts, 2)
