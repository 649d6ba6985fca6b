"""The processes, all in the form x_t = alpha(t) x0 + sigma(t) eps, t in [0, 1], 0 = data.

A schedule is a function of an array of t, for numpy (float64 grids on the host) and for jax
(float32 inside the train step). Most of them are a curve in the (alpha, sigma) plane and a
parameterization of it by t:

    variance preserving   alpha = cos phi, sigma = sin phi
    flow                  alpha = 1 - t,   sigma = t
    variance exploding    alpha = 1,       sigma

Adding a process is one function and one line in PROCESSES.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.process.tables import (
  STEPS,
  alpha_bar_of,
  cosine_betas,
  linear_betas,
  rescale_zero_terminal_snr,
  scaled_linear_betas,
  shifted_snr,
  sigmoid_alpha_bar,
)
from t2i_jax.process.time import Time
from t2i_jax.ranges import Factor, Logit, Range, Share

Beta = Annotated[float, Range("(0, 1)")]  # variance that a training step adds


@dataclass(frozen=True)
class Process:
  """A forward process. Raises ConfigError where it is not finite, or its noise does not grow.

  name        as in PROCESSES
  at          Time of an array of t in [0, 1], any shape, numpy or jax
  time_of     t of sigma / alpha, float64 on the host: the inverse of `at`; inf is pure noise
  steps       N of a process with N training steps, step n at t = (n + 1) / N; None: any t
  prior_std   standard deviation of x at t = 1, neglecting the data term
  """

  name: str
  at: Callable[[Any], Time]
  time_of: Callable[[np.ndarray], np.ndarray]
  steps: int | None = None
  prior_std: float = 1.0

  def __post_init__(self) -> None:
    t = np.linspace(0.0, 1.0, STEPS + 1)
    with np.errstate(all="ignore"):
      time = self.at(t)
      grows = np.diff(time.sigma / time.alpha) > 0
    bad = ~np.all(np.isfinite(np.stack(np.broadcast_arrays(*time))), axis=0)
    bad[1:] |= ~grows
    if np.any(bad):
      raise ConfigError(
        f"{self.name}: alpha and sigma must be finite, and sigma / alpha must grow with t; this is "
        f"not so at t = {t[np.argmax(bad)]:g}. Choose arguments nearer to the defaults."
      )

  @property
  def zero_terminal_snr(self) -> bool:
    """Whether alpha(1) = 0, so that eps does not determine x0 at t = 1."""
    return bool(self.at(np.array(1.0)).alpha == 0)

  def on_grid(self, t):
    """Rounds t in (0, 1] up to the time of a training step."""
    if self.steps is None:
      return t
    xp = _xp(t)
    return xp.clip(xp.ceil(whole_steps(t * self.steps)), 1, self.steps) / self.steps

  def prior(self, keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """x at t = 1, one key per row: a row does not depend on its batch.   # [B, *shape]"""
    noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    return noise if self.prior_std == 1 else self.prior_std * noise


def _xp(t):
  return np if isinstance(t, np.ndarray | float) else jnp


def whole_steps(position):
  """A position in steps, rounded where it is nearly an integer: (n + 1) / N times N is not exact.

  Nearly means within 1e-3 in float32 and 1e-9 in float64, whose grids have fractional positions.
  """
  xp = _xp(position)
  whole = xp.round(position)
  near = 1e-9 if np.result_type(position) == np.float64 else 1e-3
  return xp.where(xp.abs(position - whole) < near, whole, position)


def flow() -> Process:
  """Rectified flow: alpha = 1 - t, sigma = t [2209.03003 eq. 1; t reversed to run to noise]."""

  def at(t):
    one = t * 0 + 1
    return Time(t, 1 - t, t, -one, one, 1000 * t)

  return Process("flow", at, lambda s: 1 - 1 / (1 + s))


def trigonometric() -> Process:
  """alpha = cos(pi t / 2), sigma = sin(pi t / 2) [2209.15571 table 1; 2410.11081 sec. 3]."""

  def at(t):
    xp, rate = _xp(t), np.pi / 2
    # cos(x) as sin(pi / 2 - x): exactly 0 at either end.
    alpha, sigma = xp.sin(rate * (1 - t)), xp.sin(rate * t)
    return Time(t, alpha, sigma, -rate * sigma, rate * alpha, 1000 * t)

  return Process("trigonometric", at, lambda s: np.arctan(s) * 2 / np.pi)


def vp(
  beta_min: Annotated[float, Range("(0, 20]")] = 0.1,
  beta_max: Annotated[float, Range("(0, 100]")] = 20.0,
) -> Process:
  """The variance-preserving SDE, beta(t) linear in t [2011.13456 eq. 11 and app. C].

  alpha = exp(-b / 2),   sigma = sqrt(1 - exp(-b)),   b(t) = integral of beta from 0 to t
  """
  slope = beta_max - beta_min

  def at(t):
    xp = _xp(t)
    beta = beta_min + slope * t
    b = beta_min * t + slope * t * t / 2
    alpha, sigma = xp.exp(-b / 2), xp.sqrt(-xp.expm1(-b))
    # d sigma / dt is infinite at t = 0, where no solver evaluates the network.
    d_sigma = beta * alpha**2 / (2 * xp.maximum(sigma, 1e-6))
    return Time(t, alpha, sigma, -beta * alpha / 2, d_sigma, 1000 * t)

  def time_of(s):
    b = np.log1p(np.square(s))
    return 2 * b / (beta_min + np.sqrt(beta_min**2 + 2 * slope * b))

  return Process("vp", at, time_of)


def edm(sigma_max: Annotated[float, Range("[0.01, 1e6]")] = 80.0) -> Process:
  """alpha = 1, sigma = 80 t; the network's input time is ln(sigma) / 4 [2206.00364 table 1]."""

  def at(t):
    xp = _xp(t)
    one, sigma = t * 0 + 1, sigma_max * t
    return Time(t, one, sigma, t * 0, sigma_max * one, xp.log(xp.maximum(sigma, 1e-30)) / 4)

  return Process("edm", at, lambda s: s / sigma_max, prior_std=sigma_max)


BETWEEN: dict[str, Callable[[Any], Any]] = {
  "sigma": np.asarray,
  "log_sigma": np.log,
  "angle": np.arctan,
}


def interpolated(
  name: str, alpha_bar: np.ndarray, between: str = "sigma", scaled_prior: bool = False
) -> Process:
  """A variance-preserving process over a table of N steps; step n of 0..N-1 is t = (n + 1) / N.

      x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps        [2006.11239 eq. 4]

  between   the quantity that is linear in t between two steps, which defines fractional steps:
            "sigma": sigma / alpha (as in the discrete Euler and Heun samplers of SD),
            "log_sigma": its logarithm (as the sigmas of [2206.00364] are looked up),
            "angle": phi = atan(sigma / alpha), finite where the table ends at zero SNR
  scaled_prior  whether x at t = 1 is sigma(1) eps, as the discrete Euler and Heun samplers of SD
            start on grids that begin there; else eps
  Before step 0 sigma / alpha is linear from 0 at t = 0 for every `between`.
  The derivatives are of the interpolant; at a step, that of the interval below it.
  """
  ratio = np.sqrt((1 - alpha_bar) / np.maximum(alpha_bar, 1e-300))  # sigma / alpha
  ratio = np.where(alpha_bar == 0, np.inf, ratio)
  if between not in BETWEEN:
    raise ConfigError(f"{name}: between = {between!r} is not one of {', '.join(BETWEEN)}.")
  to_u = BETWEEN[between]
  u = np.concatenate([[0.0], to_u(ratio)])  # [N + 1]; the first is never used for interpolation
  first = ratio[0]

  def at(t):
    xp = _xp(t)
    dtype = t.dtype if hasattr(t, "dtype") else np.float64
    table, slope = xp.asarray(u, dtype), xp.asarray(np.diff(u), dtype)
    position = whole_steps(t * STEPS)
    below = xp.clip(xp.ceil(position) - 1, 1, STEPS - 1).astype(np.int32)
    du = slope[below]  # per step; a difference in float32 would lose half of its digits
    here = table[below] + du * (position - below)
    early = position <= 1
    if between == "angle":
      phi = xp.where(early, xp.arctan(xp.asarray(first, dtype) * position), here)
      alpha, sigma = xp.sin(np.pi / 2 - phi), xp.sin(phi)
      d_phi = xp.where(early, first * alpha**2, du) * STEPS
      return Time(t, alpha, sigma, -sigma * d_phi, alpha * d_phi, position - 1)
    grown = xp.exp(here) if between == "log_sigma" else here
    s = xp.where(early, xp.asarray(first, dtype) * position, grown)
    d_s = xp.where(early, first, du * grown if between == "log_sigma" else du) * STEPS
    alpha = 1 / xp.sqrt(1 + s * s)
    sigma = s * alpha
    return Time(t, alpha, sigma, -sigma * alpha**2 * d_s, alpha**3 * d_s, position - 1)

  def time_of(s):
    s = np.asarray(s, np.float64)
    with np.errstate(divide="ignore"):
      position = np.interp(to_u(s), u[1:], np.arange(1, STEPS + 1))
    return np.where(s < first, s / first, position) / STEPS

  std = float(np.sqrt(1 - alpha_bar[-1])) if scaled_prior else 1.0
  return Process(name, at, time_of, steps=STEPS, prior_std=std)


def _table(
  name: str,
  alpha_bar: np.ndarray,
  between: str,
  zero_terminal_snr: bool,
  snr_shift: float,
  scaled_prior: bool = False,
) -> Process:
  """A named table, if wanted with its SNR shifted or rescaled to end at zero."""
  if snr_shift != 1:
    alpha_bar = shifted_snr(alpha_bar.astype(np.float64), snr_shift)
  if zero_terminal_snr:
    alpha_bar = rescale_zero_terminal_snr(alpha_bar)
  if alpha_bar[-1] == 0 and between != "angle":
    raise ConfigError(
      f"{name}: between = {between!r}, and a table that ends at zero SNR requires between='angle'."
    )
  return interpolated(name, alpha_bar.astype(np.float64), between, scaled_prior)


def ddpm_linear(
  beta_start: Beta = 1e-4,
  beta_end: Beta = 0.02,
  published: bool = False,
  zero_terminal_snr: bool = False,
  snr_shift: Factor = 1.0,
  between: str = "sigma",
  scaled_prior: bool = False,
) -> Process:
  """The schedule of DDPM [2006.11239 sec. 4]; `published`: its float32 table."""
  table = alpha_bar_of(linear_betas(beta_start, beta_end, published))
  return _table("ddpm_linear", table, between, zero_terminal_snr, snr_shift, scaled_prior)


def ddpm_scaled_linear(
  beta_start: Beta = 0.00085,
  beta_end: Beta = 0.012,
  published: bool = False,
  zero_terminal_snr: bool = False,
  snr_shift: Factor = 1.0,
  between: str = "sigma",
  scaled_prior: bool = False,
) -> Process:
  """Stable Diffusion's schedule [2112.10752, its code]; `published`: its float32 table."""
  table = alpha_bar_of(scaled_linear_betas(beta_start, beta_end, published))
  return _table("ddpm_scaled_linear", table, between, zero_terminal_snr, snr_shift, scaled_prior)


def ddpm_cosine(
  s: Share = 0.008,
  published: bool = False,
  zero_terminal_snr: bool = False,
  snr_shift: Factor = 1.0,
  between: str = "sigma",
  scaled_prior: bool = False,
) -> Process:
  """The squared cosine [2102.09672 eq. 17]; `published`: its float32 table."""
  table = alpha_bar_of(cosine_betas(s, published=published))
  return _table("ddpm_cosine", table, between, zero_terminal_snr, snr_shift, scaled_prior)


def ddpm_sigmoid(
  start: Logit = -3.0,
  end: Logit = 3.0,
  tau: Annotated[float, Range("[0.1, 100]")] = 1.0,
  snr_shift: Factor = 1.0,
) -> Process:
  """The sigmoid [2301.10972 alg. 1], which ends at zero SNR."""
  return _table("ddpm_sigmoid", sigmoid_alpha_bar(start, end, tau), "angle", False, snr_shift)


PROCESSES: dict[str, Callable[..., Process]] = {
  "flow": flow,
  "trigonometric": trigonometric,
  "vp": vp,
  "edm": edm,
  "ddpm_linear": ddpm_linear,
  "ddpm_scaled_linear": ddpm_scaled_linear,
  "ddpm_cosine": ddpm_cosine,
  "ddpm_sigmoid": ddpm_sigmoid,
}
