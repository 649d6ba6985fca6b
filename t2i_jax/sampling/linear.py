"""Linear solvers: functions of a float64 grid of Times [S + 1] to `Linear` coefficients [S].

Notation of the papers: at step i from t to s, lambda = log(alpha / sigma), h = lambda_s - lambda_t.
A step that ends at sigma = 0 has h = infinity: every method here is then of first order,
x_s = alpha_s x0_hat, as in the published code.
"""

from functools import partial
from typing import Annotated

import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.process import Time
from t2i_jax.process.variational import posterior
from t2i_jax.ranges import Range, Share
from t2i_jax.sampling.solver import Linear, Solver, linear


def _ends(times: Time) -> tuple[Time, Time]:
  """Starts and ends of the steps, float64 [S] each."""
  fields = [np.asarray(field, np.float64) for field in times]
  return Time(*(f[:-1] for f in fields)), Time(*(f[1:] for f in fields))


def _lambdas(times: Time) -> np.ndarray:
  """log(alpha / sigma) of the grid, -inf at pure noise and inf at data.   # [S + 1]"""
  with np.errstate(divide="ignore"):
    return np.log(np.asarray(times.alpha)) - np.log(np.asarray(times.sigma))


def _columns(*columns: np.ndarray) -> np.ndarray:
  return np.stack(np.broadcast_arrays(*columns), axis=-1)


def euler() -> Solver:
  """x_s = alpha_s x0_hat + sigma_s eps_hat: DDIM [2010.02502 eq. 12 with its sigma = 0].

  Equal to Euler's method on dx/dt for flow matching [2209.03003] and on x / alpha against
  sigma / alpha [2206.00364 alg. 1 without churn].
  """
  return ddim()


def _noise_of(now: Time, to: Time, eta: float) -> np.ndarray:
  """eta times the standard deviation of q(x_s | x_t, x0). [2010.02502 eq. 16]"""
  if eta == 0:  # also for an increasing step, as of inversion, which has no posterior
    return np.zeros_like(now.sigma)
  return eta * np.sqrt(posterior(now, to).variance)


def ddim(eta: Share = 0.0) -> Solver:
  """DDIM with noise eta: 0 is the ODE, 1 has the variance of DDPM.   Source: [2010.02502 eq. 12]

  x_s = alpha_s x0_hat + sqrt(sigma_s^2 - n^2) eps_hat + n noise
  """

  def plan(times: Time) -> Linear:
    now, to = _ends(times)
    n = _noise_of(now, to, eta)
    keep = np.sqrt(np.maximum(to.sigma**2 - n**2, 0)) / now.sigma
    return Linear(keep, _columns(to.alpha - keep * now.alpha), n)

  return linear(plan, history=1, noisy=eta > 0)


def ddpm(variance: str = "small") -> Solver:
  """Ancestral sampling, x_s ~ N(posterior mean at x0_hat, variance). [2006.11239 alg. 2]

  variance  "small": beta-tilde; "large": beta, of the step taken (no noise at the last step)
  """
  if variance not in ("small", "large"):
    raise ConfigError(f"ddpm: variance = {variance!r} is neither 'small' nor 'large'.")

  def plan(times: Time) -> Linear:
    now, to = _ends(times)
    p = posterior(now, to)
    noise = np.sqrt(p.variance if variance == "small" else np.where(to.sigma > 0, p.forward, 0))
    return Linear(p.on_x_t, _columns(p.on_x0), noise)

  return linear(plan, history=1, noisy=True)


def euler_ancestral(eta: Share = 1.0) -> Solver:
  """Euler on x / alpha to a smaller sigma / alpha, then noise added up to the grid's. [k-diffusion]

  up = eta s' sqrt(1 - (s' / s)^2),   down = sqrt(s'^2 - up^2),   s = sigma / alpha
  """

  def plan(times: Time) -> Linear:
    now, to = _ends(times)
    s_next = to.sigma / to.alpha
    shrink = to.sigma * now.alpha / (to.alpha * now.sigma)  # s' / s, 0 from pure noise
    up = np.minimum(s_next, eta * s_next * np.sqrt(np.maximum(1 - shrink**2, 0)))
    down = np.sqrt(s_next**2 - up**2)
    keep = to.alpha * down / now.sigma
    return Linear(keep, _columns(to.alpha - keep * now.alpha), to.alpha * up)

  return linear(plan, history=1, noisy=True)


def flow_sde(strength: Annotated[float, Range("[0, 10]")] = 1.0) -> Solver:
  """Euler-Maruyama on the SDE with the marginals of the flow. [2401.08740 eq. 6, w = sigma]

      dx = (velocity - w score / 2) dt + sqrt(w) dW,    w = strength sigma_t

  integrated from t down to s; the step to t = 0 is x0_hat, which on the flow is Euler's.
  """

  def plan(times: Time) -> Linear:
    now, to = _ends(times)
    dt = to.t - now.t
    last = to.sigma == 0
    w = np.where(last, 0, strength * now.sigma)
    # velocity = alpha' x0 + sigma' eps and score = -eps / sigma, with eps = (x - alpha x0) / sigma
    on_eps = now.d_sigma + w / (2 * now.sigma)
    on_x = 1 + dt * on_eps / now.sigma
    on_x0 = dt * (now.d_alpha - on_eps * now.alpha / now.sigma)
    on_x, on_x0 = np.where(last, 0, on_x), np.where(last, to.alpha, on_x0)
    return Linear(on_x, _columns(on_x0), np.sqrt(-w * dt))

  return linear(plan, history=1, noisy=True)


def consistency() -> Solver:
  """x_s = alpha_s x0_hat + sigma_s noise: multistep consistency sampling. [2303.01469 alg. 1]"""

  def plan(times: Time) -> Linear:
    _, to = _ends(times)
    return Linear(0 * to.alpha, _columns(to.alpha), to.sigma)

  return linear(plan, history=1, noisy=True)


def _orders(times: Time, highest: int, lower_final: bool) -> np.ndarray:
  """The order of each step: increasing from 1 as history fills, 1 where a step ends at sigma = 0.

  lower_final  with fewer than 15 steps the last two are of order 2 and 1, as published
  """
  steps = len(times.t) - 1
  order = np.minimum(np.arange(steps) + 1, highest)
  if lower_final and steps < 15:
    order = np.minimum(order, np.arange(steps, 0, -1))
  return np.where(np.asarray(times.sigma)[1:] == 0, 1, order)


def _differences(lambdas: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, ...]:
  """h of each step, and r0, r1: the two preceding steps in units of h (1 where there is none)."""
  with np.errstate(invalid="ignore"):
    h = np.diff(lambdas)
    before = lambda k: np.concatenate([np.full(min(k, len(h)), np.nan), h])[: len(h)]
    r0 = np.where(order >= 2, before(1) / h, 1.0)
    r1 = np.where(order >= 3, before(2) / h, 1.0)
  return h, r0, r1


def _divided(order: np.ndarray, r0: np.ndarray, r1: np.ndarray):
  """First and second divided differences of the outputs in units of h, as weights [S, 3] of m.

  Order 1 has neither, order 2 only the first.
  """
  zero, one = np.zeros_like(r0), np.ones_like(r0)  # r0 may be infinite
  d10 = _columns(one, -one, zero) / r0[:, None]
  d11 = _columns(zero, one, -one) / r1[:, None]
  bend = d10 - d11
  second = (order >= 3)[:, None]
  d1 = d10 + np.where(second, (r0 / (r0 + r1))[:, None] * bend, 0)
  d2 = np.where(second, bend / (r0 + r1)[:, None], 0)
  return np.where((order >= 2)[:, None], d1, 0), d2


def dpmpp(
  order: Annotated[int, Range("[1, 3]")] = 2,
  midpoint: bool = True,
  lower_final: bool = True,
  published: bool = True,
) -> Solver:
  """DPM-Solver++ multistep.   Source: [2211.01095 alg. 2; eq. 12-13], order 3 from its code

      x_s = (sigma_s / sigma_t) x - alpha_s (e^-h - 1) D0
            + alpha_s ((e^-h - 1) / h + 1) D1 - alpha_s ((e^-h - 1 + h) / h^2 - 1/2) D2

  midpoint   in steps of order 2: -alpha_s (e^-h - 1) D1 / 2 for the second term
  published  at order 3: D2 as in the code, half the second derivative, which is of order 2;
             False doubles it, which is of order 3
  """

  def plan(times: Time) -> Linear:
    now, to = _ends(times)
    orders = _orders(times, order, lower_final)
    h, r0, r1 = _differences(_lambdas(times), orders)
    d1, d2 = _divided(orders, r0, r1)
    decay = to.sigma * now.alpha / (to.alpha * now.sigma) - 1  # e^-h - 1
    finite = np.where(np.isfinite(h) & (h != 0), h, 1.0)  # not used elsewhere: the order is 1
    on_d1 = np.where(midpoint & (orders == 2), -decay / 2, decay / finite + 1)
    on_d2 = -((decay + finite) / finite**2 - 0.5) * (1 if published else 2)
    on_m = -decay[:, None] * [1.0, 0, 0] + on_d1[:, None] * d1 + on_d2[:, None] * d2
    on_m = to.alpha[:, None] * on_m
    return Linear(to.sigma / now.sigma, on_m[:, :order], np.zeros_like(h))

  return linear(plan, history=order)


def dpmpp_sde(
  order: Annotated[int, Range("[1, 3]")] = 2,
  midpoint: bool = True,
  lower_final: bool = True,
  published: bool = True,
) -> Solver:
  """The stochastic DPM-Solver++ 2M-SDE and 3M-SDE.   Source: [2211.01095 app. B; k-diffusion]

      x_s = (sigma_s / sigma_t) e^-h x + alpha_s (1 - e^-2h) D0 + alpha_s phi2 D1 - alpha_s phi3 D2
            + sigma_s sqrt(1 - e^-2h) noise
      phi2 = 1 - (1 - e^-2h) / 2h,   phi3 = phi2 / 2h - 1/2

  midpoint   in steps of order 2: alpha_s (1 - e^-2h) D1 / 2 for the second term
  published  at order 3: D2 as in `dpmpp`
  """

  def plan(times: Time) -> Linear:
    now, to = _ends(times)
    orders = _orders(times, order, lower_final)
    h, r0, r1 = _differences(_lambdas(times), orders)
    d1, d2 = _divided(orders, r0, r1)
    shrink = to.sigma * now.alpha / (to.alpha * now.sigma)  # e^-h
    grown = 1 - shrink**2
    twice = np.where(np.isfinite(h) & (h != 0), 2 * h, 1.0)
    phi2 = 1 - grown / twice
    on_d1 = np.where(midpoint & (orders == 2), grown / 2, phi2)
    on_d2 = -(phi2 / twice - 0.5) * (1 if published else 2)
    on_m = grown[:, None] * [1.0, 0, 0] + on_d1[:, None] * d1 + on_d2[:, None] * d2
    on_m = to.alpha[:, None] * on_m
    return Linear(to.sigma / now.sigma * shrink, on_m[:, :order], to.sigma * np.sqrt(grown))

  return linear(plan, history=order, noisy=True)


def _unipc_weights(h: float, rks: list[float], bh1: bool) -> np.ndarray:
  """rho of the differences D_k / r_k, from the order conditions. [2302.04867 eq. 5 and app. E]"""
  if len(rks) == 1:  # as published, instead of the exact solution
    return np.array([0.5])
  scale = h if bh1 else np.expm1(h)
  n = len(rks)
  phi, factorial, rows, b = np.expm1(h) / h - 1, 1.0, [], []
  for i in range(1, n + 1):
    rows.append(np.power(rks, i - 1))
    b.append(phi * factorial / scale)
    factorial *= i + 1
    phi = phi / h - 1 / factorial
  return np.linalg.solve(np.array(rows), np.array(b))


def _unipc_step(h: float, rks: list[float], now: Time, to: Time, bh1: bool, corrector: bool):
  """Weights (on x, on m_0 ..) of UniP, or of UniC with the output at `to` first.

  Written for x0; for eps, alpha and sigma are exchanged and h is -h.
  h    lambda_t - lambda_s
  rks  positions in lambda of the preceding outputs, in units of the step
  """
  keep = to.sigma / now.sigma
  lead = keep * now.alpha - to.alpha  # alpha_s (e^-h - 1)
  scale = to.alpha * h if bh1 else lead
  weights = np.zeros(len(rks) + 2)  # of the output at `to`, then m_0, m_1, ...
  weights[1] = -lead
  points = [*rks, 1.0] if corrector else rks
  if points:
    rho = _unipc_weights(h, points, bh1)
    slots = [*range(2, len(rks) + 2), 0] if corrector else range(2, len(rks) + 2)
    for r, k, slot in zip(rho, points, slots, strict=True):
      weights[slot] -= scale * r / k
      weights[1] += scale * r / k
  return keep, weights


def unipc(
  order: Annotated[int, Range("[1, 6]")] = 2,
  bh1: bool = False,
  lower_final: bool = True,
  kind: str = "x0",
) -> Solver:
  """UniPC: a predictor, and a corrector that reuses the next step's output without a call.

  Source: [2302.04867 alg. 5-7], B(h) = e^-h - 1 or -h (bh1)

  kind  "x0", data prediction, or "eps", noise prediction, which requires alpha > 0 at the start
  """
  if kind not in ("x0", "eps"):
    raise ConfigError(f"unipc: kind = {kind!r} is neither 'x0' nor 'eps'.")

  def plan(times: Time) -> Linear:
    now, to = _ends(times)
    lambdas, steps = _lambdas(times), len(times.t) - 1
    if kind == "eps" and np.isinf(lambdas[0]):
      raise ConfigError(
        f"unipc: kind = 'eps' is undefined at alpha = 0, t = {times.t[0]:g}. Use kind='x0'."
      )
    orders = np.minimum(np.arange(steps) + 1 - np.isinf(lambdas[0]), order).clip(1)
    if lower_final:
      orders = np.minimum(orders, np.arange(steps, 0, -1))
    orders = np.where(to.sigma == 0, 1, orders)
    on_x, on_m = np.zeros(steps), np.zeros((steps, order + 1))
    fix_x, fix_m = np.full(steps, np.nan), np.zeros((steps, order + 1))
    mirror = lambda time: (
      time if kind == "x0" else time._replace(alpha=time.sigma, sigma=time.alpha)
    )
    for i, p in enumerate(orders):
      h = lambdas[i + 1] - lambdas[i]
      rks = [(lambdas[i - k] - lambdas[i]) / h for k in range(1, p)]
      start, end = (mirror(Time(*(f[i] for f in side))) for side in (now, to))
      weights = partial(_unipc_step, -h if kind == "x0" else h, rks, start, end, bh1)
      on_x[i], w = weights(corrector=False)
      on_m[i, :p] = w[1:]
      if i + 1 < steps and np.isfinite(lambdas[i]):  # pure noise has no difference
        fix_x[i + 1], w = weights(corrector=True)
        fix_m[i + 1, : p + 1] = w
    return Linear(on_x, on_m, 0 * on_x, fix_x, fix_m)

  return linear(plan, history=order + 1, kind=kind, corrects=True)
