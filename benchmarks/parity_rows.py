"""What solver_parity.py compares: tables, grids, and a row for every scheduler and our equal."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from t2i_jax.process import PROCESSES, Process
from t2i_jax.process.schedules import interpolated
from t2i_jax.process.tables import alpha_bar_of, rescale_zero_terminal_snr, scaled_linear_betas
from t2i_jax.process.timesteps import shift

STEPS = (1, 4, 5, 20, 50)
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def almost_zero_terminal_snr(**arguments: Any) -> Process:
  """SD's table rescaled to end at zero SNR, with 2^-24 there, which sigma / alpha needs."""
  table = rescale_zero_terminal_snr(alpha_bar_of(scaled_linear_betas(published=True)))
  return interpolated("almost", np.append(table[:-1], 2.0**-24).astype(np.float64), **arguments)


class Table(NamedTuple):
  """config: a scheduler's arguments; process: ours, of `between`, what is linear between steps."""

  config: dict[str, Any]
  process: Callable[[str], Process]


def published(name: str, **arguments: Any) -> Callable[[str], Process]:
  return lambda between: PROCESSES[name](**{"published": True, "between": between} | arguments)


ZERO_SNR = {"rescale_betas_zero_snr": True}
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
TABLES = {
  "SD": Table(SD, published("ddpm_scaled_linear")),
  "linear": Table(LINEAR, published("ddpm_linear")),
  "cosine": Table({"beta_schedule": "squaredcos_cap_v2"}, published("ddpm_cosine")),
  "zero SNR": Table(
    SD | ZERO_SNR, published("ddpm_scaled_linear", zero_terminal_snr=True, between="angle")
  ),
  "SNR 2^-24": Table(SD | ZERO_SNR, lambda between: almost_zero_terminal_snr(between=between)),
  "flow": Table({}, lambda between: PROCESSES["flow"]()),
  "EDM": Table({}, lambda between: PROCESSES["edm"]()),
}


@dataclass(frozen=True, eq=False)
class Grid:
  """How a scheduler is told its moments, and our grid's text, which may depend on the steps."""

  name: str
  config: dict[str, Any]
  ours: str | Callable[[int], str]
  given: Callable[[int], dict[str, Any]] = lambda steps: {"num_inference_steps": steps}
  between: str = "sigma"

  def text(self, steps: int) -> str:
    return self.ours if isinstance(self.ours, str) else self.ours(steps)


class Case(NamedTuple):
  table: str
  grid: Grid
  kind: str
  steps: int


@dataclass(frozen=True)
class Row:
  """A line of the page: a scheduler with arguments, our solver, and all they are compared on.

  double     tables on which the bound is held against the reference run in float64, because its
             own rounding in float32 exceeds the bound
  all_double whether ours runs in float64 there as well
  exact_time whether both networks are fed the times of our grid, where the reference cuts its own
             to whole steps; otherwise each is fed its own, and they must agree
  """

  scheduler: str
  config: dict[str, Any]
  solver: str
  kinds: tuple[str, ...]
  grids: tuple[Grid, ...]
  tables: tuple[str, ...] = ("SD", "cosine")
  double: tuple[str, ...] = ()
  steps: tuple[int, ...] = STEPS
  eta: float | None = None
  learned: bool = False
  last_noise: bool = True
  all_double: bool = False
  exact_time: bool = False

  def cases(self, tables: tuple[str, ...]) -> Iterator[Case]:
    for table in tables:
      for grid in self.grids:
        for kind in self.kinds:
          for steps in self.steps:
            yield Case(table, grid, kind, steps)

  def __str__(self) -> str:
    given = self.config | ({} if self.eta is None else {"eta": self.eta})
    return f"{self.scheduler}({', '.join(f'{k}={v!r}' for k, v in given.items())})"


def spaced(name: str, ours: str, **config: Any) -> Grid:
  return Grid(name, {"timestep_spacing": name} | config, ours)


def ratios(karras: str = "karras", **config: Any) -> tuple[Grid, ...]:
  """The three grids in s = sigma / alpha, looked up by its logarithm."""
  ours = {
    "karras": karras,
    "exponential": "exponential",
    "beta": "beta(of='s', keep_lowest=True)",
  }
  flag = lambda name: config | {f"use_{name}_sigmas": True}
  return tuple(Grid(name, flag(name), text, between="log_sigma") for name, text in ours.items())


ALL, NO_X0, NO_EPS = ("eps", "x0", "v"), ("eps", "v"), ("x0", "v")
MOST = ("SD", "linear", "cosine")
WHOLE = (
  spaced("leading", "leading(offset=0)"),
  spaced("trailing", "trailing"),
  spaced("linspace", "linspace(rounded=True)"),
)
FRACTIONS = (
  spaced("linspace", "linspace"),
  spaced("leading", "leading", steps_offset=1),
  spaced("trailing", "trailing"),
  spaced("trailing", "trailing(to_zero=False)", final_sigmas_type="sigma_min"),
)
# They step by 1000 // steps whatever the grid, which for these two is the grid's own stride.
STRIDES = (
  spaced("leading", "leading(to_zero=False)", steps_offset=1, set_alpha_to_one=False),
  spaced("leading", "leading(offset=0)", set_alpha_to_one=True),
  spaced("trailing", "trailing(to_zero=False)", set_alpha_to_one=False),
  spaced("trailing", "trailing", set_alpha_to_one=True),
)
# They leave out the lowest of steps + 1 moments.
OPEN = (
  spaced("linspace", "linspace(rounded=True, keep_lowest=False)"),
  spaced("leading", "leading(keep_lowest=False)", steps_offset=1),
  spaced("trailing", "trailing"),
)
FIRST = {"final_sigmas_type": "sigma_min"}
TO_FIRST = (
  spaced("linspace", "linspace(rounded=True, keep_lowest=False, to_zero=False)", **FIRST),
  spaced("leading", "leading(keep_lowest=False, to_zero=False)", steps_offset=1, **FIRST),
  spaced("trailing", "trailing(to_zero=False)", **FIRST),
)
TRAILING = WHOLE[1:2]
RATIOS, TABLE_RATIOS = ratios(timestep_spacing="linspace"), ratios()
ROUNDED = ratios("karras(rounded=True)")[:1]
EDM = tuple(
  Grid(name, {"sigma_schedule": name}, f"{name}(top=80.0, bottom=0.002)")
  for name in ("karras", "exponential")
)
EVEN = lambda mu: lambda steps: {"sigmas": np.linspace(1, 1 / steps, steps), "mu": mu}
ONCE = shift(0.001, 3.0)  # the smallest t of SD3's shift, which its grid shifts again
TWICE = shift(ONCE, 3.0)
FLOW = (
  Grid("static 1", {}, "shifted(factor=1.0, bottom=0.001)"),
  Grid("static 3", {"shift": 3.0}, f"shifted(factor=3.0, bottom={ONCE:.9g})"),
  Grid(
    "dynamic",
    {"use_dynamic_shifting": True, "shift": 3.0},
    f"shifted(factor={math.exp(1.15):.9g})",
    EVEN(1.15),
  ),
  Grid("karras", {"use_karras_sigmas": True, "shift": 3.0}, f"karras(of='t', bottom={TWICE:.9g})"),
  Grid(
    "exponential",
    {"use_exponential_sigmas": True, "shift": 3.0},
    f"exponential(of='t', bottom={TWICE:.9g})",
  ),
  Grid(
    "beta", {"use_beta_sigmas": True, "shift": 3.0}, f"beta(bottom={TWICE:.9g}, keep_lowest=True)"
  ),
)
QWEN = Grid(
  "terminal",
  {"use_dynamic_shifting": True, "shift_terminal": 0.02},
  f"shifted(factor={math.exp(0.69355):.9g}, terminal=0.02)",
  EVEN(0.69355),
)
FLOW_3 = {"use_flow_sigmas": True, "flow_shift": 3.0}
DPM_FLOW = (Grid("static 3", FLOW_3, "shifted(factor=3.0, top=0.999)"),)
# Its first sigma is 1 - 1e-6 after the shift.
UNIPC_FLOW = (
  Grid(
    "static 3",
    FLOW_3,
    lambda steps: f"shifted(factor=3.0, top={1 - 3e-6}, bottom={0.001 + 0.999 / steps:.9g})",
  ),
)
LCM = (Grid("50 of 1000", {}, "trailing(distilled=50)"),)


def dpm_rows() -> Iterator[Row]:
  name, sde = "DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}
  for order, kind in ((1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint"), (3, "heun")):
    ours, config = f"(order={order}, midpoint={kind == 'midpoint'})", {"solver_type": kind}
    yield Row(name, {"solver_order": order} | config, f"dpmpp{ours}", ALL, OPEN)
    if order < 3:
      yield Row(name, sde | {"solver_order": order} | config, f"dpmpp_sde{ours}", ALL, OPEN)
  for order in (2, 3):
    for lower in (True, False):
      config = {"solver_order": order, "lower_order_final": lower}
      yield Row(name, config, f"dpmpp(order={order}, lower_final={lower})", ("eps",), TO_FIRST)
  yield Row(name, {"euler_at_final": True}, "dpmpp", ("eps",), OPEN)
  yield Row(name, {}, "dpmpp", ALL, ROUNDED, ("SD",))
  yield Row(name, {}, "dpmpp", ALL, TABLE_RATIOS, exact_time=True)
  yield Row(name, {}, "dpmpp", NO_EPS, TRAILING, ("SNR 2^-24",))
  yield Row(name, {}, "dpmpp", ("velocity",), DPM_FLOW, ("flow",), exact_time=True)
  yield Row(name, sde, "dpmpp_sde", ("velocity",), DPM_FLOW, ("flow",), exact_time=True)


def unipc_rows() -> Iterator[Row]:
  name = "UniPCMultistep"
  for order in (1, 2, 3):
    for kind in ("bh1", "bh2"):
      ours, config = f"order={order}, bh1={kind == 'bh1'}", {"solver_type": kind}
      config = {"solver_order": order} | config
      yield Row(name, config, f"unipc({ours})", ALL, TO_FIRST if kind == "bh1" else OPEN)
      noises = config | {"predict_x0": False}
      yield Row(name, noises, f"unipc({ours}, kind='eps')", ALL, TO_FIRST, ("SD",), ("SD",))
  yield Row(name, {"lower_order_final": False}, "unipc(lower_final=False)", ("eps",), TO_FIRST)
  yield Row(name, {}, "unipc", ALL, ROUNDED)
  yield Row(name, {}, "unipc", ALL, TABLE_RATIOS[1:], exact_time=True)
  yield Row(name, {}, "unipc", ("velocity",), UNIPC_FLOW, ("flow",), exact_time=True)


def rows() -> Iterator[Row]:
  """Every comparison, in the order of the page."""
  small, large = {"variance_type": "fixed_small"}, {"variance_type": "fixed_large"}
  cosine, learned = ("cosine",), {"variance_type": "learned_range"}
  yield Row("DDPM", small, "ddpm", ALL, WHOLE, MOST, cosine)
  yield Row("DDPM", small, "ddpm", NO_EPS, WHOLE[1:], ("zero SNR",))
  large_ours = "ddpm(variance='large')"
  yield Row("DDPM", large, large_ours, ALL, WHOLE, double=cosine, last_noise=False)
  yield Row(
    "DDPM", learned, "ddpm_learned", ALL, WHOLE, double=cosine, learned=True, last_noise=False
  )
  yield Row("DDIM", {}, "ddim", ALL, STRIDES, MOST)
  yield Row("DDIM", {}, "ddim", NO_EPS, STRIDES[3:], ("zero SNR",))
  yield Row("DDIM", {}, "ddim(eta=1.0)", ALL, STRIDES, double=cosine, eta=1.0)
  plms = ("PNDM", {"skip_prk_steps": True}, "pndm", NO_X0, STRIDES)
  yield Row(*plms, ("SD",), ("SD",))
  yield Row(*plms, cosine, cosine, all_double=True)
  prk = ("PNDM", {"skip_prk_steps": False}, "pndm(runge_kutta=True)", NO_X0, STRIDES)
  yield Row(*prk, double=cosine, all_double=True, steps=STEPS[1:])
  yield Row("EulerDiscrete", {}, "euler", ALL, FRACTIONS, MOST, ("linear", "cosine"))
  yield Row("EulerDiscrete", {}, "euler", ALL, RATIOS, double=cosine)
  yield Row("EulerDiscrete", {}, "euler", NO_EPS, TRAILING, ("SNR 2^-24",), ("SNR 2^-24",))
  ancestral = "EulerAncestralDiscrete"
  yield Row(ancestral, {}, "euler_ancestral", NO_X0, FRACTIONS[:3], double=cosine)
  heun = ("HeunDiscrete", {}, "heun(frame='sigma')", ALL)
  yield Row(*heun, FRACTIONS[:3], double=cosine, all_double=True)
  yield Row(*heun, RATIOS, double=cosine, all_double=True)
  for name, ours, double in (("Euler", "euler", ("EDM",)), ("DPMSolverMultistep", "dpmpp", ())):
    yield Row(f"EDM{name}", {}, ours, ("eps",), EDM[:1], ("EDM",), double)
    yield Row(f"EDM{name}", {}, ours, ("eps",), EDM[1:], ("EDM",), steps=STEPS[1:])
  yield from dpm_rows()
  yield from unipc_rows()
  flow = ("velocity",)
  yield Row("FlowMatchEulerDiscrete", {}, "euler", flow, FLOW, ("flow",))
  yield Row("FlowMatchEulerDiscrete", {}, "euler", flow, (QWEN,), ("flow",), steps=STEPS[1:])
  stochastic = {"stochastic_sampling": True}
  yield Row("FlowMatchEulerDiscrete", stochastic, "consistency", flow, FLOW[:3], ("flow",))
  yield Row("FlowMatchHeunDiscrete", {}, "heun", flow, FLOW[:2], ("flow",))
  yield Row("LCM", {}, "consistency", ALL, LCM, steps=STEPS[:4])


ROWS = tuple(rows())
