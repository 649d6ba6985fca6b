"""Time grids of samplers, computed on the host in float64, from noise to data.

A grid is a Time with fields [S + 1], the end included. Discrete processes are spaced in training
steps n, continuous ones in t; either may be spaced in s = sigma / alpha instead. The grid includes
the network's input time, which differs from the process's where a published sampler rounds it.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.process import Process, Time
from t2i_jax.process.timesteps import dynamic_factor, shift
from t2i_jax.ranges import Count, Factor, Logit, Range, Share, Whole

Top = Annotated[float, Range("(0, 1e6]")]  # of t or sigma / alpha; at_times has the process's limit
Terminal = Annotated[float, Range("(0, 1)")]


def at_times(process: Process, t: Sequence[float] | np.ndarray) -> Time:
  """The grid of these t, which must decrease. Raises ConfigError."""
  t = np.asarray(t, np.float64)
  # As "not": a comparison with NaN is false.
  if t.ndim != 1 or len(t) < 2 or not (np.all(np.diff(t) < 0) and t[0] <= 1 and t[-1] >= 0):
    shown = t.tolist() if t.size <= 8 else f"{t.flat[0]:g} .. {t.flat[-1]:g} in {t.size} times"
    raise ConfigError(f"a time grid must decrease within [1, 0]; found {shown}.")
  return Time(*(np.asarray(field, np.float64) for field in process.at(t)))


def times(process: Process, steps: int, t: tuple[Share, ...] = ()) -> Time:
  """The grid of steps + 1 given times. Raises ConfigError."""
  if len(t) != steps + 1:
    raise ConfigError(
      f"sampling.grid has {len(t)} times, and sampling.steps = {steps} requires {steps + 1}."
    )
  return at_times(process, t)


def at_ratios(process: Process, s: np.ndarray) -> Time:
  """The grid of these s = sigma / alpha, which must decrease."""
  return at_times(process, process.time_of(np.asarray(s, np.float64)))


def _check(process: Process, steps: int) -> None:
  if steps < 1:
    raise ConfigError(f"sampling.steps = {steps}: must be at least 1.")
  if process.steps is not None and steps > process.steps:
    raise ConfigError(
      f"sampling.steps = {steps}: {process.name} allows 1 to {process.steps} steps."
    )


def _of_steps(process: Process, n: np.ndarray, final: float) -> Time:
  """Training steps n, integer or fractional, then t = final."""
  assert process.steps is not None
  return at_times(process, np.append((n + 1) / process.steps, final))


def _last(process: Process, to_zero: bool) -> float:
  """The end of a grid: t = 0, or training step 0."""
  if to_zero:
    return 0.0
  if process.steps is None:
    raise ConfigError(
      f"to_zero = False ends at training step 0, and {process.name} has no training steps. "
      "Use to_zero=True."
    )
  return 1 / process.steps


def trailing(process: Process, steps: int, to_zero: bool = True, distilled: Whole = 0) -> Time:
  """From the last training step down in equal steps. [2305.08891 table 2]

  to_zero    whether the end is t = 0, or training step 0
  distilled  number of steps of a distillation, of which some are kept [2310.04378 sec. 4.3]; 0:
             any training step is
  Raises ConfigError for more steps, or a number that the training steps are no multiple of.
  """
  _check(process, steps)
  if distilled:
    if (process.steps or 1000) % distilled or steps > distilled:
      raise ConfigError(
        f"sampling.grid = 'trailing(distilled={distilled})' with sampling.steps = {steps}: at most "
        f"{distilled} steps, which must divide {process.steps or 1000}."
      )
    kept = np.floor(np.linspace(0, distilled, steps, endpoint=False))
    return at_times(
      process, np.append(1 - kept / distilled, 0 if to_zero else _last(process, False))
    )
  if process.steps is None:
    return at_times(process, np.linspace(1.0, 0.0, steps + 1))
  n = np.round(process.steps - np.arange(steps) * (process.steps / steps)) - 1
  return _of_steps(process, n, _last(process, to_zero))


def leading(
  process: Process,
  steps: int,
  offset: Annotated[int, Range("[0, 999]")] = 1,
  keep_lowest: bool = True,
  to_zero: bool = True,
) -> Time:
  """From the lowest step up in integer strides, as SD samples; omits the noisiest steps.

  offset       added to every step (SD: 1, DDPM: 0)
  keep_lowest  whether the lowest step is a point of the grid, or replaced by the end (DPM-Solver,
               UniPC)
  to_zero      whether the end is t = 0, or training step 0 as in SD ("set_alpha_to_one = False")
  Raises ConfigError for a process without training steps.
  """
  _check(process, steps)
  if process.steps is None:
    raise ConfigError(
      f"sampling.grid = 'leading' counts training steps, and {process.name} has none. "
      "Use 'trailing'."
    )
  count = steps if keep_lowest else steps + 1
  n = np.arange(count)[::-1][:steps] * (process.steps // count) + offset
  return _of_steps(process, n.astype(np.float64), _last(process, to_zero))


def linspace(
  process: Process,
  steps: int,
  rounded: bool = False,
  keep_lowest: bool = True,
  to_zero: bool = True,
) -> Time:
  """Evenly spaced from the last training step to the first, fractional unless rounded, then t = 0.

  keep_lowest, to_zero  as in `leading`
  """
  _check(process, steps)
  if process.steps is None:
    return at_times(process, np.linspace(1.0, 0.0, steps + 1))
  n = np.linspace(process.steps - 1, 0, steps if keep_lowest else steps + 1)[:steps]
  return _of_steps(process, np.round(n) if rounded else n, _last(process, to_zero))


def _range(process: Process, of: str, top: float | None, bottom: float | None):
  """Largest and smallest value of the spaced quantity, `of` = "s" (sigma / alpha) or "t"; those of
  the process where None is given."""
  if of not in ("s", "t"):
    raise ConfigError(f"sampling.grid: of = {of!r} is not 's' (sigma / alpha) or 't'.")
  smallest = 1 / process.steps if process.steps else 1e-3
  own = np.array([1.0, smallest])
  if of == "s":
    ends = process.at(np.array([1 - smallest if process.zero_terminal_snr else 1.0, smallest]))
    own = ends.sigma / ends.alpha
  return own[0] if top is None else top, own[1] if bottom is None else bottom


def _spaced(process: Process, of: str, values: np.ndarray) -> Time:
  """The grid of these s or t, then 0."""
  return (at_ratios if of == "s" else at_times)(process, np.append(values, 0.0))


def karras(
  process: Process,
  steps: int,
  rho: Annotated[float, Range("[0.1, 100]")] = 7.0,
  of: str = "s",
  top: Top | None = None,
  bottom: Top | None = None,
  rounded: bool = False,
) -> Time:
  """s^(1 / rho) evenly spaced from top to bottom, then 0. [2206.00364 eq. 5]

  of           the spaced quantity: "s" = sigma / alpha, or "t"
  top, bottom  by default the ends of the process
  rounded      whether the network's input time is rounded to a training step; t is not
  """
  _check(process, steps)
  top, bottom = _range(process, of, top, bottom)
  grid = _spaced(process, of, np.linspace(top ** (1 / rho), bottom ** (1 / rho), steps) ** rho)
  return grid._replace(model_time=np.round(grid.model_time)) if rounded else grid


def exponential(
  process: Process,
  steps: int,
  of: str = "s",
  top: Top | None = None,
  bottom: Top | None = None,
) -> Time:
  """log s evenly spaced, hence uniform in log SNR, then 0. [2206.00927 sec. 3]

  of, top, bottom  as in `karras`
  """
  _check(process, steps)
  top, bottom = _range(process, of, top, bottom)
  return _spaced(process, of, np.geomspace(top, bottom, steps))


def beta(
  process: Process,
  steps: int,
  a: Annotated[float, Range("[0.05, 100]")] = 0.6,
  b: Annotated[float, Range("[0.05, 100]")] = 0.6,
  of: str = "t",
  top: Top | None = None,
  bottom: Top | None = None,
  keep_lowest: bool = False,
) -> Time:
  """Quantiles of Beta(a, b), denser at both ends, then 0. [2407.12173]

  of, top, bottom  as in `karras`
  keep_lowest      whether the last quantile is `bottom`, a point of the grid, or the end itself
  """
  from scipy.stats import beta as distribution

  _check(process, steps)
  top, bottom = _range(process, of, top, bottom if keep_lowest else 0.0)
  u = np.linspace(1, 0, steps if keep_lowest else steps + 1)[:steps]
  return _spaced(process, of, bottom + (top - bottom) * distribution.ppf(u, a, b))


def shifted(
  process: Process,
  steps: int,
  factor: Factor = 3.0,
  terminal: Terminal | None = None,
  top: Top = 1.0,
  bottom: Top | None = None,
) -> Time:
  """t = shift(evenly spaced t, factor), as SD3 and FLUX sample; then 0. [2403.03206 eq. 23]

  terminal     stretches the grid so that its last t before 0 is this one (Qwen-Image: 0.02)
  top, bottom  of the evenly spaced t. By default bottom is one step above 0; SD3's is
               shift(0.001, factor), which is then shifted a second time
  """
  _check(process, steps)
  t = shift(np.linspace(top, top / steps if bottom is None else bottom, steps), factor)
  t = np.minimum(t, 1.0)  # rounding may give more
  if terminal is not None:
    t = stretch(t, terminal)
  return at_times(process, np.append(t, 0.0))


def dynamic(
  process: Process,
  steps: int,
  tokens: Count = 4096,
  base_shift: Logit = 0.5,
  max_shift: Logit = 1.15,
  base_tokens: Count = 256,
  max_tokens: Count = 4096,
  terminal: Terminal | None = None,
) -> Time:
  """`shifted` by the number of image tokens: `dynamic_factor`.   Source: FLUX.1's sampling code"""
  factor = dynamic_factor(tokens, base_shift, max_shift, base_tokens, max_tokens)
  return shifted(process, steps, float(factor), terminal)


def dynamic_by_steps(
  process: Process, steps: int, tokens: Count = 4096, terminal: Terminal | None = None
) -> Time:
  """`shifted` by exp(mu), mu linear in the number of image tokens, and in the steps between 10 and
  200 for up to 4300 tokens.   Source: FLUX.2's sampling code"""
  many = 0.00016927 * tokens + 0.45666666  # at 200 steps, and at any number for more tokens
  few = 8.73809524e-05 * tokens + 1.89833333  # at 10 steps
  mu = many if tokens > 4300 else many + (steps - 200) * (many - few) / 190
  return shifted(process, steps, float(np.exp(mu)), terminal)


def stretch(t: np.ndarray, terminal: float) -> np.ndarray:
  """1 - t scaled so that the last t is `terminal`."""
  if t[-1] == 1:
    raise ConfigError(
      f"sampling.grid: terminal = {terminal:g} requires at least 2 steps; found 1 from t = 1."
    )
  return 1 - (1 - t) * (1 - terminal) / (1 - t[-1])


GRIDS: dict[str, Callable[..., Time]] = {
  "trailing": trailing,
  "leading": leading,
  "linspace": linspace,
  "karras": karras,
  "exponential": exponential,
  "beta": beta,
  "shifted": shifted,
  "dynamic": dynamic,
  "dynamic_by_steps": dynamic_by_steps,
  "times": times,
}
