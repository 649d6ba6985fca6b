"""Guidance methods side by side, on two-dimensional data with exact denoisers.

The plane lies in four dimensions as (x, y, -x, -y) / sqrt(2): lengths stay, and every row has mean
zero, so that methods which take the mean or deviation of a row see its length, as in images.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.proofs.closed_form import (
  Mixture,
  denoiser,
  draw,
  log_density,
  log_posterior,
  mixture,
)
from t2i_jax.process import PROCESSES
from t2i_jax.sampling import (
  GRIDS,
  GUIDANCE,
  SOLVERS,
  Combine,
  Denoiser,
  Guided,
  Labelled,
  autoguide,
  classify,
  compose,
  guide,
  make_plan,
  remember,
  sample,
)

N, STEPS = 4096, 64  # samples of a method; steps of Heun's rule on the flow
PLANE = np.array([[1, 0, -1, 0], [0, 1, 0, -1]]) / np.sqrt(2)  # [2, 4]
A, B = 0, 1  # the class that is asked for, and a second one
HIGH = 5.0  # the scale at which methods are compared


def three_classes(inflate: float = 1.0) -> Mixture:
  """Three classes of three Gaussians each, which overlap; covariances times `inflate`."""
  means, covariances = [], []
  for k in range(3):
    turn = np.pi / 2 + 2 * np.pi * k / 3
    for along, across, tilt in ((0.5, 0.0, 0.0), (1.45, 0.5, 0.55), (1.45, -0.5, -0.55)):
      c, s = np.cos(turn), np.sin(turn)
      means.append([c * along - s * across, s * along + c * across])
      c, s = np.cos(turn + tilt), np.sin(turn + tilt)
      axes = np.array([[c, -s], [s, c]])
      covariances.append((axes * np.array([0.5, 0.22]) ** 2) @ axes.T * inflate)
  return mixture(np.ones(9), means, covariances, np.repeat(np.arange(3), 3))


FLAT = three_classes()


def laid_out(flat: Mixture) -> Mixture:
  """The mixture of the plane, in four dimensions."""
  assert flat.basis is not None
  covariances = (flat.basis * flat.variances[:, None]) @ np.swapaxes(flat.basis, 1, 2)
  return mixture(flat.weights, flat.means @ PLANE, PLANE.T @ covariances @ PLANE, flat.classes)


class Method(NamedTuple):
  """A panel of the sheet, and a line of the table.

  run    x [N, 4] at t = 1 -> x_0 [N, 4]; None where the samples are exact
  scales  class -> the power of p(class | x) in the density that is meant; None: there is none
  """

  title: str
  config: str
  run: Callable[[jax.Array], jax.Array] | None
  scales: dict[int, float] | None

  def meant(self, x: jax.Array) -> jax.Array:
    """log p(x) + sum_y scale_y log p(y | x) at x [M, 2], of classes y."""
    assert self.scales is not None
    own = log_posterior(FLAT, x)
    return log_density(FLAT, x) + sum(scale * own[:, y] for y, scale in self.scales.items())


def _sampled(denoise: Denoiser, cond: Any, method: Combine | None = None):
  flow = PROCESSES["flow"]()
  solver = SOLVERS["heun"]()
  plan = make_plan(solver, flow, GRIDS["trailing"](flow, STEPS))

  def run(x: jax.Array) -> jax.Array:
    extra = {} if method is None else remember(method, x)
    return sample(denoise, solver, plan, x, cond, **extra)[0]

  return jax.jit(run)


def _labels(label: int) -> jax.Array:
  return jnp.full((N,), label)


def guided(method: Combine, scale: float, others: tuple[int, ...] = ()):
  """A sampler of class A (and others) under a method, at the usual scale."""
  cond = Guided(_labels(A), _labels(-1), tuple(map(_labels, others)))
  return _sampled(guide(denoiser(laid_out(FLAT)), method, scale), cond, method)


def by_classifier(weight: float):
  """The denoiser of all data, pushed by the exact noisy classifier of class A."""
  data = laid_out(FLAT)
  log_prob = lambda x, time, y: log_posterior(data, x, time)[:, A]
  cond = Labelled(_labels(-1), _labels(A))
  return _sampled(classify(denoiser(data), log_prob, weight), cond)


def by_worse(scale: float):
  """Away from a denoiser of the same class whose every covariance is twice as large."""
  method = GUIDANCE["cfg"]()
  worse = denoiser(laid_out(three_classes(inflate=2.0)))
  denoise = autoguide(denoiser(laid_out(FLAT)), worse, method, scale)
  return _sampled(denoise, Guided(_labels(A)), method)


def composed(weight: float):
  """Class A, and class B with a weight."""
  return guided(compose((1.0, weight)), 1.0, (B,))


def methods() -> list[Method]:
  """The panels in the order of the sheet, four a row."""
  cfg, at = GUIDANCE["cfg"], {A: HIGH}
  interval, rescale = cfg(low=0.2, high=2.0), cfg(rescale=0.7)
  zero, apg, norm = GUIDANCE["cfg_zero"](), GUIDANCE["apg"](norm=1.0), GUIDANCE["cfg_norm"]()
  return [
    Method("class A, scale 1", "cfg at 1", guided(cfg(), 1.0), {A: 1}),
    Method("CFG, scale 2", "cfg at 2", guided(cfg(), 2.0), {A: 2}),
    Method("CFG, scale 5", "cfg at 5", guided(cfg(), HIGH), at),
    Method("classifier, weight 5", "classify at 5", by_classifier(HIGH), at),
    Method("no condition, scale 0", "cfg at 0", guided(cfg(), 0.0), {}),
    Method("exactly tilted, scale 2", "-", None, {A: 2}),
    Method("exactly tilted, scale 5", "-", None, at),
    Method("interval, scale 5", "cfg(low=0.2, high=2.0) at 5", guided(interval, HIGH), at),
    Method("CFG rescale, scale 5", "cfg(rescale=0.7) at 5", guided(rescale, HIGH), at),
    Method("CFG-Zero*, scale 5", "cfg_zero at 5", guided(zero, HIGH), at),
    Method("APG, scale 5", "apg(norm=1.0) at 5", guided(apg, HIGH), at),
    Method("CFG norm, scale 5", "cfg_norm at 5", guided(norm, HIGH), at),
    Method("autoguidance, scale 2.5", "autoguide with cfg at 2.5", by_worse(2.5), {A: 1}),
    Method("A AND B", "compose((1, 1)) at 1", composed(1.0), {A: 1, B: 1}),
    Method("A NOT B, weight 0.15", "compose((1, -0.15)) at 1", composed(-0.15),
           {A: 1, B: -0.15}),
    Method("A NOT B, weight 0.5", "compose((1, -0.5)) at 1", composed(-0.5), None),
  ]  # fmt: skip


def exact_samples(scale: float, key: jax.Array, n: int = N) -> np.ndarray:
  """n exact samples of p(x) p(A | x)^scale, scale 0 or at least 1.   # [n, 2]

  All data, or draws of A of which p(A | x)^(scale - 1) are kept.
  """
  kept: list[np.ndarray] = []
  while sum(map(len, kept)) < n:
    key, drawing, keeping = jax.random.split(key, 3)
    x, label = draw(FLAT, drawing, 8 * n)
    chance = jnp.exp((scale - 1) * log_posterior(FLAT, x)[:, A])
    keep = (label == A) & (jax.random.uniform(keeping, (8 * n,)) < chance)
    kept.append(np.asarray(x)[np.asarray(keep) if scale else slice(None)])
  return np.concatenate(kept)[:n]


def samples(method: Method) -> np.ndarray:
  """float64 [N, 2]"""
  if method.run is None:
    assert method.scales is not None
    return exact_samples(method.scales[A], jax.random.key(2))
  start = jax.random.normal(jax.random.key(0), (N, 4))
  return np.asarray(method.run(start), np.float64) @ PLANE.T


def sliced(a: np.ndarray, b: np.ndarray) -> float:
  """Sliced Wasserstein-1 distance of two sets of as many points [N, 2], over 32 directions."""
  angle = np.pi * (np.arange(32) + 0.5) / 32
  along = np.stack([np.cos(angle), np.sin(angle)])
  return float(np.mean(np.abs(np.sort(a @ along, 0) - np.sort(b @ along, 0))))


class Figures(NamedTuple):
  """What a method's samples are.

  agreement  mean p(A | x)
  spread     root of the mean squared distance from their own mean, the class's own being 1
  off        sliced distance from exact samples of what is meant; None where that is not drawn
  """

  agreement: float
  spread: float
  off: float | None


def said(points: np.ndarray) -> np.ndarray:
  """The most likely class of each point."""
  return np.asarray(jnp.argmax(log_posterior(FLAT, jnp.asarray(points, jnp.float32)), -1))


def figures(method: Method, points: np.ndarray) -> Figures:
  """points: the method's `samples`."""
  agreement = jnp.mean(jnp.exp(log_posterior(FLAT, jnp.asarray(points, jnp.float32))[:, A]))
  spread = lambda x: np.sqrt(np.mean(np.sum((x - x.mean(0)) ** 2, -1)))
  exact = lambda scale: exact_samples(scale, jax.random.key(5))
  off = None
  if method.scales is not None and set(method.scales) <= {A}:
    off = sliced(points, exact(method.scales.get(A, 0.0)))
  return Figures(float(agreement), float(spread(points) / spread(exact(1.0))), off)
