"""Exact log-likelihood by the probability-flow ODE, for any process and prediction.

In y = x / (alpha + sigma) against tau = sigma / (alpha + sigma) the ODE of every process is

    dy/dtau = eps_hat - x0_hat,    tau from 0 (data) to 1 (noise),

whose coefficients are bounded at both ends. The instantaneous change of variables gives

    log p(x0) = log p_1(x_1) + D log(scale_1 / scale_0) + integral of div(dy/dtau) dtau

with scale = alpha + sigma. Source: [2011.13456 eq. 39], [1806.07366 theorem 1]
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.process import Process, Time, to_x0_eps
from t2i_jax.process.prediction import undefined
from t2i_jax.sampling.inversion import halfway
from t2i_jax.sampling.runge_kutta import Frame, frame_of, starts_and_ends
from t2i_jax.sampling.solver import Denoiser

Field = Callable[[jax.Array], jax.Array]
# (field, y [B, ...]) -> (field(y), its divergence [B]); the field maps each row separately
Divergence = Callable[[Field, jax.Array], tuple[jax.Array, jax.Array]]


def _along(field: Field, y: jax.Array, probes: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(field(y), sum over probes z [P, B, ...] of z . J z [B])."""
  value, push = jax.linearize(field, y)
  axes = tuple(range(1, y.ndim))
  one = lambda z: jnp.sum(z * push(jnp.broadcast_to(z, y.shape)), axes)
  return value, jnp.sum(jax.lax.map(one, probes), 0)


def exact(field: Field, y: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The trace of the Jacobian, one jvp for each of the D elements of a row."""
  basis = jnp.eye(y[0].size, dtype=y.dtype).reshape(-1, 1, *y.shape[1:])  # [D, 1, ...]
  return _along(field, y, basis)


def hutchinson(keys: jax.Array, probes: int = 1) -> Divergence:
  """The trace as a mean of z . J z over random signs z, unbiased. [2011.13456 eq. 40]

  keys  [B], one per row; the same signs are used along the whole trajectory [1810.01367 sec. 3.1]
  """

  def divergence(field: Field, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    draw = lambda key: jax.random.rademacher(key, (probes, *y.shape[1:]), y.dtype)
    value, total = _along(field, y, jnp.moveaxis(jax.vmap(draw)(keys), 0, 1))
    return value, total / probes

  return divergence


class Path(NamedTuple):
  """A step of the ODE: its three times, the middle's scale, and the frame.   leading axis [S]"""

  now: Time
  middle: Time
  to: Time
  scale_middle: Any
  frame: Frame


def _path(process: Process, times: Time) -> Path:
  times = Time(*(np.asarray(field, np.float64) for field in times))
  now, to = starts_and_ends(times)
  middle = halfway(process, now, to)
  path = Path(now, middle, to, middle.alpha + middle.sigma, frame_of(now, to, "flow"))
  return jax.tree.map(lambda a: jnp.asarray(a, jnp.result_type(float)), path)


def to_noise(
  denoise: Denoiser,
  process: Process,
  times: Time,
  x0: jax.Array,
  cond: Any = None,
  divergence: Divergence = exact,
) -> tuple[jax.Array, jax.Array]:
  """(x_1 [B, ...], log |det dx_1/dx0| [B]) of the ODE, by the fourth-order Runge-Kutta method.

  times  [S + 1] increasing, concrete, from t = 0 for predictions that are defined there (eps, v,
         velocity), else from a small t, where x0 is then taken as x_t. [2011.13456 app. C]
  Four network calls a step. Raises ConfigError.
  """
  t, alpha, sigma = (np.asarray(f) for f in (times.t, times.alpha, times.sigma))
  if np.any(np.diff(t) < 0):
    raise ConfigError(f"likelihood: times must rise, not run from {t[0]:g} to {t[-1]:g}.")
  path = _path(process, times)
  kind = jax.eval_shape(denoise, x0, jax.tree.map(lambda f: f[0], path.now), cond).kind
  for end in (0, -1):
    for wanted in ("x0", "eps"):
      if reason := undefined(kind, wanted, float(alpha[end]), float(sigma[end])):
        raise ConfigError(f"likelihood: {reason}, and times hold t = {t[end]:g}. Leave it out.")

  def body(carry, step: Path):
    y, log_det = carry
    f = step.frame
    h = f.tau_to - f.tau

    def slope(y: jax.Array, time: Time, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
      def field(y: jax.Array) -> jax.Array:
        x_t = scale * y
        x0_hat, eps_hat = to_x0_eps(denoise(x_t, time, cond), x_t, time)
        return eps_hat - x0_hat

      return divergence(field, y)

    k1, d1 = slope(y, step.now, f.scale)
    k2, d2 = slope(y + h / 2 * k1, step.middle, step.scale_middle)
    k3, d3 = slope(y + h / 2 * k2, step.middle, step.scale_middle)
    k4, d4 = slope(y + h * k3, step.to, f.scale_to)
    mean = lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6
    return (y + h * mean(k1, k2, k3, k4), log_det + h * mean(d1, d2, d3, d4)), None

  first, last = path.frame.scale[0], path.frame.scale_to[-1]
  start = (x0 / first, jnp.zeros(len(x0), x0.dtype))
  (y, log_det), _ = jax.lax.scan(body, start, path)
  return last * y, log_det + x0[0].size * jnp.log(last / first)


def log_likelihood(
  denoise: Denoiser,
  process: Process,
  times: Time,
  x0: jax.Array,
  cond: Any = None,
  divergence: Divergence = exact,
) -> jax.Array:
  """log p(x0) in nats, with the prior N(0, prior_std^2 I) at t = 1.   # [B]

  Arguments as in `to_noise`.
  """
  x_1, log_det = to_noise(denoise, process, times, x0, cond, divergence)
  return log_det + jnp.sum(
    jax.scipy.stats.norm.logpdf(x_1, scale=process.prior_std), axis=tuple(range(1, x0.ndim))
  )


def bits_per_dimension(log_p: jax.Array, dims: int, width: float = 2 / 255) -> jax.Array:
  """-log2 of the mass of a bin of 8-bit data, per dimension: -log p / (D ln 2) - log2(width).

  log_p  [B] nats, of dequantised data; dims: D; width: distance of two levels in the units of x0

  Levels k / 127.5 - 1 are 2 / 255 apart, an offset of 6.99 bits. [2011.13456] divides by 256
  instead, width = 2 / 256, which is 7 bits. A density is compared with masses only after the bins
  have been filled evenly, by `dequantised`; the mean is then an upper bound [1511.01844 sec. 3.1].
  """
  return -log_p / (dims * np.log(2)) - np.log2(width)


def dequantised(x0: jax.Array, keys: jax.Array, width: float = 2 / 255) -> jax.Array:
  """x0 plus uniform noise within its bin, one key per row.   # [B, ...]"""
  u = jax.vmap(lambda key: jax.random.uniform(key, x0.shape[1:], x0.dtype))(keys)
  return x0 + width * (u - 0.5)
