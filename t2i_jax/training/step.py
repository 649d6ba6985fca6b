"""The train step: draw t and eps, encode, mix, objective, gradient, update. Pure functions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.data.batch import Batch
from t2i_jax.models.lora import Masks
from t2i_jax.models.params import Params
from t2i_jax.parallel import batch_sharding, compiler_options
from t2i_jax.process.timesteps import inside, stratified
from t2i_jax.systems import Draws, System, merge_params
from t2i_jax.systems.adapters import in_training
from t2i_jax.systems.system import DRAW_ADAPTERS, DRAW_DROP, DRAW_T, row_keys
from t2i_jax.training.optimizer import Optimizers
from t2i_jax.training.running import BINS, KEEP, averaged, by_bin, gradient_noise, importance
from t2i_jax.training.state import TrainState


def draw_drops(key: jax.Array, rows: jax.Array, rates: dict[str, float]) -> dict[str, jax.Array]:
  """Which rows lose the caption of which encoder, each for itself.   # encoder -> bool [B]

  Source: [2207.12598 sec. 3.2]; by encoder as [2403.03206]
  """
  key = jax.random.fold_in(key, DRAW_DROP)
  encoders = enumerate(sorted(rates.items()))
  return {
    name: jax.vmap(lambda k, rate=rate: jax.random.bernoulli(k, rate))(row_keys(key, rows, i))
    for i, (name, rate) in encoders
    if rate > 0
  }


def image_numbers(rows: jax.Array, n: int) -> jax.Array:
  """Numbers of the images of rows [B] that hold n each.   # [B, n]"""
  return rows[:, None] * n + jnp.arange(n)


def draw_t(
  system: System, batch: Batch, numbers: jax.Array, key: jax.Array, square: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """u, t and the weights that undo importance sampling, of images of these numbers.   # [B, N]

  square  running.square: mean squared loss by bin of u
  """
  flat = numbers.reshape(-1)
  if "stratified" in system.mixing.t_sampling:
    u = stratified(jax.random.fold_in(key, DRAW_T), flat, flat.size)
  else:
    u = jax.vmap(jax.random.uniform)(row_keys(key, flat, DRAW_T))
  undo = jnp.ones_like(u)
  if "importance" in system.mixing.t_sampling:
    u, undo = importance(u, square)
  u, undo = u.reshape(numbers.shape), undo.reshape(numbers.shape)
  t = inside(system.mixing.t_of(u) * batch.max_t)
  return u, system.process.on_grid(t), undo


def micro_batches(tree: Any, n: int, roles: int = 1) -> Any:
  """[B, ...] to [n, B / n, ...], each part taking rows from every device's share.

  roles  rows that follow one another and stay together, one of each role
  """

  def divided(x: jax.Array) -> jax.Array:
    parts = x.reshape(-1, n, roles, *x.shape[1:]).swapaxes(0, 1)
    return parts.reshape(n, -1, *x.shape[1:])

  return jax.tree.map(divided, tree)


def make_train_step(
  system: System, optimizers: Optimizers, config: ConfigDict
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
  """The pure step (state, batch) -> (state, metrics).

  The gradient is the mean over the rows of weight 1 of the whole batch, however many
  micro-batches (train.accumulate) it is computed in. loss_bin_k and noise_scale (in rows; from
  two micro-batches on) are running averages.
  """
  c, terms = config.train, system.terms
  drop_rates = {name: c.caption_dropout[name] for name in system.droppable}

  def losses_of(trainable, frozen, batch, draws, drawn, counts):
    """This micro-batch's share of each player's mean loss; sums by bin, shares of all terms, and
    the sums that are no terms."""
    masks = Masks(jax.random.fold_in(draws.key, DRAW_ADAPTERS), draws.rows)
    values = in_training(system, masks).losses(merge_params(trainable, frozen), batch, draws)
    u, t, undo = (of_image.reshape(-1) for of_image in drawn)
    image, weight = values["image"], batch.image_weight.reshape(-1)
    sums = {"loss": by_bin(image, t, weight), "square": by_bin(jnp.square(image), u, weight)}
    values = values | {"image": image * undo}
    means = {}
    for name, term in terms.items():
      count = term.counts(batch)
      means[name] = jnp.sum(values[name].reshape(count.shape) * count) / counts[name]
    extra = {name: values[name] for name in values if name not in terms}
    of_player = lambda player: sum(
      (term.weight * means[n] for n, term in terms.items() if term.player == player), jnp.zeros(())
    )
    return {player: of_player(player) for player in system.players}, (sums, means, extra)

  def gradients(state, key, counts, batch, numbers, drawn):
    """Loss, its parts, each player's gradient by its own weights, and the gradient's |.|^2.

    All players learn from one forward pass, at the weights before the step.
    """
    drop = draw_drops(key, numbers[:, 0] // numbers.shape[1], drop_rates)
    draws = Draws(drawn[1].reshape(-1), numbers.reshape(-1), key, drop, state.step)
    loss_fn = lambda trainable: losses_of(trainable, state.frozen, batch, draws, drawn, counts)
    losses, pull, found = jax.vjp(loss_fn, state.trainable, has_aux=True)
    grads: Params = {}
    for player, parts in system.players.items():
      (by_all,) = pull({name: jnp.float32(name == player) for name in losses})
      grads |= {name: tree for name, tree in by_all.items() if name in parts}
    return sum(losses.values()), found, grads, jnp.square(optax.global_norm(grads))

  def step(state: TrainState, batch: Batch):
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    rows, n = batch.image_weight.shape
    numbers = image_numbers(jnp.arange(rows), n)
    drawn = draw_t(system, batch, numbers, key, state.running["square"])
    counts = {name: jnp.maximum(jnp.sum(term.counts(batch)), 1) for name, term in terms.items()}
    part_of = partial(gradients, state, key, counts)
    if c.accumulate == 1:
      loss, (sums, means, extra), grads, squares = part_of(batch, numbers, drawn)
    else:
      roles = max(len(system.roles), 1)
      micro = micro_batches((batch, numbers, drawn), c.accumulate, roles)
      first = jax.tree.map(lambda x: x[0], micro)
      zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(part_of, *first))
      add = lambda total, part: (jax.tree.map(jnp.add, total, part_of(*part)), None)
      (loss, (sums, means, extra), grads, squares), _ = jax.lax.scan(add, zero, micro)

    updates, opt = optimizers.update(grads, state.opt, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    kept = {name: state.running[name] for name in system.kept}
    statistics, kept = system.moved(trainable, kept, extra, state.step)
    trainable = merge_params(trainable, statistics)
    after = state.step + 1
    decay = jnp.minimum(c.ema, (1 + after) / (10 + after))  # small in the first steps
    ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, trainable)
    ema = merge_params(ema, statistics)  # which are averages themselves
    running = updated_running(state.running, sums) | kept
    if c.accumulate > 1:
      running["noise"] = updated_noise(running["noise"], grads, squares, counts, c.accumulate)
    metrics = {
      "loss": loss,
      "grad_norm": optax.global_norm(grads),
      "update_norm": optax.global_norm(updates),
      "param_norm": optax.global_norm(trainable),
    }
    if len(means) > 1:
      metrics |= {f"loss_{name}": mean for name, mean in means.items()}
    if system.timed:
      metrics |= {f"loss_bin_{i}": running["loss"][i] for i in range(BINS)}
    metrics |= system.counted(batch) | system.measured(extra | kept)
    if c.accumulate > 1:
      square, trace = running["noise"]
      metrics["noise_scale"] = trace / jnp.maximum(square, 1e-30)
    return TrainState(after, trainable, state.frozen, opt, ema, running), metrics

  return step


def updated_running(running: dict[str, jax.Array], sums: dict[str, jax.Array]) -> dict[str, Any]:
  """The running averages after a batch's sums by bin."""
  return running | {name: averaged(running[name], part) for name, part in sums.items()}


def updated_noise(before, grads, squares, counts, parts: int) -> jax.Array:
  """The running noise scale.   squares: summed |gradient|^2 of the micro-batches"""
  small, used = squares * parts, counts["image"]
  big = jnp.square(optax.global_norm(grads))
  now = gradient_noise(small, big, used / parts, used)
  return KEEP * before + (1 - KEEP) * now


def jit_train_step(
  system: System,
  optimizers: Optimizers,
  config: ConfigDict,
  mesh: Mesh,
  state: TrainState,
) -> Any:
  """The step as `train` runs it: jitted, the state donated, every sharding explicit.

  state  the abstract state, whose leaves carry their shardings
  """
  put = jax.tree.map(lambda leaf: leaf.sharding, state)
  return jax.jit(
    make_train_step(system, optimizers, config),
    donate_argnums=0,
    in_shardings=(put, batch_sharding(mesh)),
    out_shardings=(put, None),
    compiler_options=compiler_options(mesh),
  )


def make_validation_step(system: System, config: ConfigDict) -> Callable[..., Any]:
  """(params, batch, rows [B]) -> sums of losses and counts by term: [2, BINS] of images, by t;
  and the sums that are no terms.

  Image r has one fixed t, drawn inside bin r mod BINS, and fixed noise: the same number for the
  same weights at every call and on any number of devices.
  """

  def step(params: Params, batch: Batch, rows: jax.Array) -> dict[str, jax.Array]:
    key = jax.random.key(config.seed)
    numbers = image_numbers(rows, batch.image_weight.shape[1]).reshape(-1)
    bin_of = numbers % BINS
    within = jax.vmap(jax.random.uniform)(row_keys(key, numbers, DRAW_T))
    # The first hundredth of the first bin is left out, where an x0 prediction has no eps.
    t = system.process.on_grid(jnp.maximum((bin_of + within) / BINS, 0.01 / BINS))
    values = system.losses(params, batch, Draws(t, numbers, key, {}, 0, validates=True))
    middle = (bin_of + 0.5) / BINS
    found = {"image": by_bin(values["image"], middle, batch.image_weight.reshape(-1))}
    for name, term in system.terms.items():
      if name != "image":
        counts = term.counts(batch)
        weighted = jnp.sum(values[name].reshape(counts.shape) * counts)
        found[name] = jnp.stack([weighted, jnp.sum(counts)])
    return found | {name: values[name] for name in values if name not in system.terms}

  return step
