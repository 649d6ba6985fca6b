"""Objectives of models that draw in one to four steps: consistency training and MeanFlow."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.data.batch import Batch
from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning
from t2i_jax.models.params import Params
from t2i_jax.process import Time, convert, from_x0_eps, like
from t2i_jax.process.few_step import (
  bounded,
  consistency_training,
  level_count,
  levels,
  meanflow,
  pseudo_huber,
)
from t2i_jax.ranges import Count, Range, Share
from t2i_jax.systems.system import DRAW_END, Draws, flat_images, row_keys

if TYPE_CHECKING:
  from t2i_jax.systems.drawing import DrawingSystem


Levels = Annotated[int, Range("[2, 2^16]")]
Pairs = Callable[..., jax.Array]  # process.few_step.consistency_training
REACHED = 0.01  # share of the times that lie below the second level, at least


@dataclass(frozen=True)
class Consistency:
  """Consistency training [2303.01469 alg. 3] with the improvements of [2310.14189].

  x0_hat at a level is held to x0_hat at the next lower level of the same path; at the lowest level
  it is x_t / alpha itself [2303.01469 eq. 4]. draws.t is rounded to a pair of levels: on the flow
  process.timesteps = "logit_normal(mean=-1.1, std=2.0)" is the log-normal law of [2310.14189 sec.
  3.5], ln(sigma / alpha) ~ N(-1.1, 2^2). A pair counts by 1 / (t - s). The lowest pair alone has
  the data: a distribution of t that hardly reaches it ends in one image for all, and is refused.

  steps        of training, in which the number of levels doubles from `first` to `last`
  first, last  [2310.14189 sec. 3.4]: 10, 1280; fewer where training is short
  s_max        sigma / alpha of the highest level by the formula; it is moved to t = 1, where
               sampling starts
  huber        c of the pseudo-Huber distance, 0: 0.00054 sqrt(D) [2310.14189 sec. 3.3]
  """

  steps: Count
  first: Levels = 10
  last: Levels = 1280
  s_max: Annotated[float, Range("(0.002, 1e6]")] = 80.0
  huber: Annotated[float, Range("[0, 1000]")] = 0.0

  def check(self, system: "DrawingSystem") -> None:
    """Raises ConfigError."""
    if self.first > self.last:
      raise ConfigError(
        f"train.objective: consistency(first={self.first}, last={self.last}) needs first <= last."
      )
    with np.errstate(all="ignore"):
      _, t, counts = self.tables(system)
    if not all(np.all(np.diff(row[:n]) > 0) for row, n in zip(t, counts, strict=True)):
      raise ConfigError(
        f"train.objective: consistency(s_max={self.s_max:g}) is beyond sigma / alpha at t = 1 of "
        f"process.kind = {system.process.name!r}. Lower s_max."
      )
    low, second = float(system.mixing.t_of(jnp.float32(REACHED))), t[0, 1]
    if low > second:
      raise ConfigError(
        f"process.timesteps, shifted by process.shift: {100 * REACHED:g}% of the times lie below "
        f"{low:.2g}, and the second level of process.kind = {system.process.name!r} is "
        f"{second:.2g}: only below it does the objective see the data. Give more low times, as "
        "on the flow process.timesteps='logit_normal(mean=0.0, std=2.0)'."
      )

  def tables(self, system: "DrawingSystem") -> tuple[int, np.ndarray, np.ndarray]:
    """Steps between doublings; t of the levels [K, most], 2 after the last one; their numbers [K].

    Computed on the host in float64.
    """
    span = max(self.steps // (int(np.log2(self.last // self.first)) + 1), 1)
    counts = np.unique(
      [level_count(step, self.steps, self.first, self.last) for step in range(0, self.steps, span)]
    )
    t = np.full((len(counts), counts[-1]), 2.0)
    for row, n in zip(t, counts, strict=True):
      row[:n] = levels(system.process, int(n), s_max=self.s_max).t
      row[n - 1] = 1.0
    return span, t, counts

  def __call__(
    self, system: "DrawingSystem", params: Params, batch: Batch, draws: Draws
  ) -> dict[str, jax.Array]:
    x0 = system.encode(params, flat_images(batch), draws.key, draws.rows)
    eps = system.mix(x0, draws).eps
    cond = system.conditioning(params, batch, draws)
    span, table, counts = self.tables(system)
    stage = jnp.minimum(jnp.asarray(draws.step) // span, len(counts) - 1)
    t = jnp.asarray(table, jnp.float32)[stage]
    below = jnp.searchsorted(t, draws.t, side="right") - 1
    below = jnp.clip(below, 0, jnp.asarray(counts)[stage] - 2)  # [R]
    now, to = system.process.at(t[below + 1]), system.process.at(t[below])
    inner: list[dict[str, jax.Array]] = []

    def network(x_t: jax.Array, time: Time) -> jax.Array:
      prediction, losses = system.network(params, x_t, time, cond)
      inner.append(losses)
      return convert(prediction, "x0", x_t, time).value

    distance = pseudo_huber(self.huber or None)
    target = bounded(network, t[0])
    losses = self.pairs(system, params, cond)(network, target, x0, eps, now, to, distance)
    return {"image": losses / (now.t - to.t)} | inner[-1]

  def pairs(self, system: "DrawingSystem", params: Params, cond: Conditioning) -> Pairs:
    """The loss between two levels of a path."""
    return consistency_training


@dataclass(frozen=True)
class MeanFlow:
  """MeanFlow [2505.13447 alg. 1] with a network of two times (model.times = 2), on the flow.

  Its prediction, read as a velocity, is the average one from t down to r. r is uniform in [0, t],
  where the paper has the smaller of two draws, so that t keeps the law of process.timesteps.

  ratio     share of rows with r < t; the others are flow matching [2505.13447 table 1a]
  guidance  scale of the guidance that is learned, 1 = none: the velocity of a row becomes
            guidance v + (1 - guidance) u(x_t, t, t | null) [2505.13447 sec. 4.2]; draw at cfg = 1
  power     of the adaptive weight [2505.13447 sec. 4.3]
  """

  ratio: Share = 0.25
  guidance: Annotated[float, Range("[0, 100]")] = 1.0
  power: Annotated[float, Range("[0, 5]")] = 1.0

  def check(self, system: "DrawingSystem") -> None:
    """Raises ConfigError."""
    if not system.two_times:
      raise ConfigError(
        "train.objective = 'meanflow' needs a network of two times: model.kind='dit' with "
        "model.times=2, as configs/scenes_meanflow.py has it."
      )
    if system.process.name != "flow":
      raise ConfigError(
        f"train.objective = 'meanflow' on process.kind = {system.process.name!r}: its step is "
        "Euler's on the flow alone. Use process.kind='flow'."
      )

  def __call__(
    self, system: "DrawingSystem", params: Params, batch: Batch, draws: Draws
  ) -> dict[str, jax.Array]:
    m = system.mix(system.encode(params, flat_images(batch), draws.key, draws.rows), draws)
    cond = system.conditioning(params, batch, draws)
    keys = row_keys(draws.key, draws.rows, DRAW_END)
    share, coin = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys).T
    r = jnp.where(coin < self.ratio, share * draws.t, draws.t)  # [R]
    at = system.process.at
    inner: list[dict[str, jax.Array]] = []

    def average(x_t: jax.Array, t: jax.Array, r: jax.Array, cond=cond) -> jax.Array:
      time = at(t)
      prediction, losses = system.network(params, x_t, time, until(cond, at(r).model_time))
      inner.append(losses)
      return convert(prediction, "velocity", x_t, time).value

    velocity = from_x0_eps("velocity", m.x0, m.eps, m.time)
    if self.guidance != 1:
      null = jax.tree.map(lambda n, c: jnp.broadcast_to(n, c.shape), system.null(params), cond)
      unguided = jax.lax.stop_gradient(average(m.x_t, draws.t, draws.t, null))
      guided = self.guidance * velocity + (1 - self.guidance) * unguided
      dropped = [jnp.asarray(drop) for drop in draws.drop.values()]
      plain = jnp.any(jnp.stack(dropped), 0) if dropped else jnp.zeros(len(r), bool)
      velocity = jnp.where(like(plain, velocity), velocity, guided)
    inner.clear()
    losses = meanflow(average, m.x0, m.eps, m.time, r, velocity, self.power)
    return {"image": losses} | inner[0]


def until(cond: Conditioning, model_time: jax.Array) -> Conditioning:
  """The condition of an average velocity down to a time: extras["end"] [B], in model_time."""
  rows = next(iter(cond.towers.values())).mask.shape[0]
  return cond._replace(extras=cond.extras | {"end": jnp.broadcast_to(model_time, (rows,))})
