"""The processes: flow matching and DDPM, behind one form x_t = alpha(t) x0 + sigma(t) eps.

A schedule is a function of an array of t that works for numpy (float64 grids on the host) and
for jax (float32 inside the train step) alike. Adding a process is one function and one line in
PROCESSES.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.process.time import Time

STEPS = 1000  # N of the discrete processes [2006.11239 sec. 4]


@dataclass(frozen=True)
class Process:
  """How data becomes noise.

  name        as in PROCESSES
  at          Time of an array of t in [0, 1], any shape, numpy or jax
  on_grid     rounds t in (0, 1] up to a time the process is trained at; the identity for flow
  grid        [S + 1] times of float64 from noise to data for S steps; the last is t = 0
  zero_terminal_snr   whether alpha(1) = 0, so that eps says nothing about x0 at t = 1
  """

  name: str
  at: Callable[[Any], Time]
  on_grid: Callable[[Any], Any]
  grid: Callable[[int], np.ndarray]
  zero_terminal_snr: bool

  def times(self, steps: int) -> Time:
    """Sampling grid of `steps` steps from noise to data, computed in float64.   # [S + 1]

    Raises ConfigError when the process has no grid of that many steps.
    """
    return Time(*(np.asarray(field) for field in self.at(self.grid(steps))))

  def prior(self, keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Unit Gaussian noise at t = 1, one key a row: a row does not depend on its batch."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)  # [B, *shape]


def _flow() -> Process:
  """Rectified flow: alpha = 1 - t, sigma = t [2209.03003 eq. 1; t reversed to run to noise]."""

  def at(t):
    one = t * 0 + 1
    return Time(t, 1 - t, t, -one, one, 1000 * t)

  def grid(steps):
    if steps < 1:
      raise ConfigError(f"sampling.steps = {steps}: at least 1 is needed.")
    return np.linspace(1.0, 0.0, steps + 1)

  return Process("flow", at, lambda t: t, grid, zero_terminal_snr=True)


def linear_betas(beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
  """beta_n of DDPM, float64 [N]. Source: [2006.11239 sec. 4]."""
  return np.linspace(beta_start, beta_end, STEPS)


def cosine_betas(s: float = 0.008, max_beta: float = 0.999) -> np.ndarray:
  """beta_n whose alpha_bar follows a squared cosine, float64 [N]. Source: [2102.09672 eq. 17]."""
  f = np.cos((np.arange(STEPS + 1) / STEPS + s) / (1 + s) * np.pi / 2) ** 2
  return np.minimum(1 - f[1:] / f[:-1], max_beta)


def _ddpm(name: str, betas: np.ndarray) -> Process:
  """DDPM over a table of betas; step n of 0..N-1 is t = (n + 1) / N.

      x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps        [2006.11239 eq. 4]

  Between the steps log alpha_bar is linear in t, with alpha_bar(0) = 1.
  """
  log_alpha_bar = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])  # [N + 1]

  def at(t):
    xp = np if isinstance(t, np.ndarray | float) else jnp
    dtype = t.dtype if hasattr(t, "dtype") else np.float64
    table = xp.asarray(log_alpha_bar, dtype)
    # (n + 1) / N times N is off by a rounding for some n; whole steps must come back whole.
    position = t * STEPS
    whole = xp.round(position)
    position = xp.where(xp.abs(position - whole) < 1e-3, whole, position)
    below = xp.clip(xp.floor(position), 0, STEPS - 1).astype(np.int32)
    slope = table[below + 1] - table[below]
    log_ab = table[below] + slope * (position - below)
    alpha, sigma = xp.exp(log_ab / 2), xp.sqrt(-xp.expm1(log_ab))
    d_alpha = alpha * slope * STEPS / 2
    # d sigma / dt is infinite at t = 0; no solver evaluates the network there.
    d_sigma = -(alpha**2) * slope * STEPS / (2 * xp.maximum(sigma, 1e-12))
    return Time(t, alpha, sigma, d_alpha, d_sigma, position - 1)

  def on_grid(t):
    xp = np if isinstance(t, np.ndarray) else jnp
    return xp.clip(xp.ceil(t * STEPS), 1, STEPS) / STEPS

  def grid(steps):
    if not 1 <= steps <= STEPS:
      raise ConfigError(f"sampling.steps = {steps}: {name} has between 1 and {STEPS} steps.")
    # "trailing" spacing, which begins at the last training step [2305.08891 table 2].
    n = np.round(STEPS - np.arange(steps) * (STEPS / steps)) - 1
    return np.append((n + 1) / STEPS, 0.0)

  return Process(name, at, on_grid, grid, zero_terminal_snr=False)


PROCESSES: dict[str, Callable[[], Process]] = {
  "flow": _flow,
  "ddpm_linear": lambda: _ddpm("ddpm_linear", linear_betas()),
  "ddpm_cosine": lambda: _ddpm("ddpm_cosine", cosine_betas()),
}


def make_process(name: str) -> Process:
  """The process of that name. Raises ConfigError that lists the names."""
  if name not in PROCESSES:
    raise ConfigError(f"process.kind = {name!r} is not one of {', '.join(PROCESSES)}.")
  return PROCESSES[name]()
