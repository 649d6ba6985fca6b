"""The train step: encode, draw t and eps, mix, predict, weigh, average. Pure functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.models.params import Params
from t2i_jax.parallel import batch_sharding
from t2i_jax.process import mix
from t2i_jax.process.losses import offset_noise, perturbed_input
from t2i_jax.process.timesteps import inside, stratified
from t2i_jax.training.running import BINS, KEEP, averaged, by_bin, gradient_noise, importance
from t2i_jax.training.state import TrainState, merge_params
from t2i_jax.training.system import Batch, Mixture, Trainable, unit_range

# What of a batch says how much each picture, each token counts.
COUNTED = {"image": "weight", "text": "learn"}

# What a row's randomness is for. The same row, step and purpose draw the same numbers on any mesh.
DRAW_T, DRAW_EPS, DRAW_DROP, DRAW_OFFSET, DRAW_PERTURB = range(5)


def row_keys(key: jax.Array, rows: jax.Array, purpose: int) -> jax.Array:
  """One key a row, from the row's position in the global batch.   # [B]"""
  key = jax.random.fold_in(key, purpose)
  return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def row_noise(key: jax.Array, rows: jax.Array, purpose: int, shape: tuple[int, ...]) -> jax.Array:
  """Unit Gaussian of each row.   # [B, *shape]"""
  keys = row_keys(key, rows, purpose)
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def row_losses(
  system: Trainable, params: Params, batch: Batch, t: jax.Array, rows: jax.Array, key: jax.Array
) -> dict[str, jax.Array]:
  """Encodes the pictures, mixes them with noise at time t, and gives their losses by term.

  t, rows  shaped like batch["weight"]: [B], or [B, N] of rows with several pictures
  """
  c, t, rows = system.mixing.noise, t.reshape(-1), rows.reshape(-1)
  image = batch["image"].reshape(-1, *system.x_shape)
  x0 = system.autoencoder.encode(unit_range(image))  # [R, H, W, C]
  time = system.process.at(t)
  eps = row_noise(key, rows, DRAW_EPS, x0.shape[1:])
  if c.offset:
    per_channel = row_noise(key, rows, DRAW_OFFSET, (1, 1, x0.shape[-1]))
    eps = offset_noise(eps, per_channel, c.offset)
  x_t = mix(x0, eps, time)
  seen = x_t
  if c.perturbation:
    extra = row_noise(key, rows, DRAW_PERTURB, x0.shape[1:])
    seen = perturbed_input(x_t, time, extra, c.perturbation)
  return system.losses(params, batch, Mixture(x0, eps, x_t, seen, time))


def draw_drops(key: jax.Array, rows: jax.Array, rates: dict[str, float]) -> dict[str, jax.Array]:
  """Which rows lose the caption of which tower, each tower for itself.   # tower -> bool [B]

  Source: [2207.12598 sec. 3.2]; by tower as [2403.03206]
  """
  key = jax.random.fold_in(key, DRAW_DROP)
  towers = enumerate(sorted(rates.items()))
  return {
    name: jax.vmap(lambda k, rate=rate: jax.random.bernoulli(k, rate))(row_keys(key, rows, i))
    for i, (name, rate) in towers
    if rate > 0
  }


def picture_rows(rows: jax.Array, weight: jax.Array) -> jax.Array:
  """Numbers of the pictures of rows [B], shaped like their weights [B] or [B, N]."""
  n = weight[0].size
  return (rows[:, None] * n + jnp.arange(n)).reshape(weight.shape)


def _micro_batches(tree: Any, n: int) -> Any:
  """[B, ...] to [n, B / n, ...], each part taking rows from every device's share."""
  return jax.tree.map(lambda x: x.reshape(-1, n, *x.shape[1:]).swapaxes(0, 1), tree)


def make_train_step(
  system: Trainable, optimizer: optax.GradientTransformation, config: ConfigDict
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
  """The pure step (state, batch) -> (state, metrics).

  The gradient is the mean over the rows of weight 1 of the whole batch, however many
  micro-batches (train.accumulate) it is computed in. loss_bin_k and noise_scale (in rows; from
  two micro-batches on) are running averages.
  """
  c, root = config.train, config.seed
  mixing = system.mixing
  drop_rates = {tower: getattr(c.caption_dropout, tower) for tower in system.towers}

  def draw_t(key, batch, rows, running):
    """u, t and the weights that undo importance sampling, of the pictures of a batch."""
    flat = rows.reshape(-1)
    if "stratified" in mixing.t_sampling:
      u = stratified(jax.random.fold_in(key, DRAW_T), flat, flat.size)
    else:
      u = jax.vmap(jax.random.uniform)(row_keys(key, flat, DRAW_T))
    undo = jnp.ones_like(u)
    if "importance" in mixing.t_sampling:
      u, undo = importance(u, running["square"])
    u, undo = u.reshape(rows.shape), undo.reshape(rows.shape)
    t = inside(mixing.t_of(u) * batch.get("most", 1))
    return u, system.process.on_grid(t), undo

  def mean_loss(trainable, frozen, batch, rows, key, drawn, counts):
    """This part's share of the batch's mean loss; sums by bin, and the shares of the terms."""
    if drop_rates:
      batch = batch | {"drop": draw_drops(key, rows, drop_rates)}
    u, t, undo = drawn
    terms = row_losses(system, merge_params(trainable, frozen), batch, t, rows, key)
    losses, weight = terms["image"], batch["weight"].reshape(-1)
    sums = {
      "loss": by_bin(losses, t.reshape(-1), weight),
      "square": by_bin(jnp.square(losses), u.reshape(-1), weight),
    }
    terms = terms | {"image": (losses * undo.reshape(-1)).reshape(rows.shape)}
    means = {
      name: jnp.sum(terms[name] * batch[COUNTED[name]]) / counts[name] for name in system.terms
    }
    loss = sum(weight * means[name] for name, weight in system.terms.items())
    return loss, (sums, means)

  def step(state: TrainState, batch: Batch):
    key = jax.random.fold_in(jax.random.key(root), state.step)
    rows = picture_rows(jnp.arange(len(batch["weight"])), batch["weight"])
    drawn = draw_t(key, batch, rows, state.running)
    grad_fn = jax.value_and_grad(mean_loss, has_aux=True)
    counts = {name: jnp.maximum(jnp.sum(batch[COUNTED[name]]), 1) for name in system.terms}

    def part_of(part_batch, part_rows, part_drawn):
      trained = (state.trainable, state.frozen)
      (loss, aux), grads = grad_fn(*trained, part_batch, part_rows, key, part_drawn, counts)
      return loss, aux, grads, jnp.square(optax.global_norm(grads))

    if c.accumulate == 1:
      loss, (sums, means), grads, _ = part_of(batch, rows, drawn)
    else:
      micro = _micro_batches((batch, rows, drawn), c.accumulate)
      first = jax.tree.map(lambda x: x[0], micro)
      zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(part_of, *first))
      add = lambda total, part: (jax.tree.map(jnp.add, total, part_of(*part)), None)
      (loss, (sums, means), grads, squares), _ = jax.lax.scan(add, zero, micro)
    running = {name: averaged(state.running[name], part) for name, part in sums.items()}
    running["noise"] = state.running["noise"]
    if c.accumulate > 1:
      small, used = squares * c.accumulate, counts["image"]
      big = jnp.square(optax.global_norm(grads))
      now = gradient_noise(small, big, used / c.accumulate, used)
      running["noise"] = KEEP * running["noise"] + (1 - KEEP) * now

    updates, opt = optimizer.update(grads, state.opt, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    n = state.step + 1
    decay = jnp.minimum(c.ema, (1 + n) / (10 + n))  # warms up: early weights are soon forgotten
    ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, trainable)
    metrics = {
      "loss": loss,
      "grad_norm": optax.global_norm(grads),
      "update_norm": optax.global_norm(updates),
      "param_norm": optax.global_norm(trainable),
    }
    if len(means) > 1:
      metrics |= {f"loss_{name}": mean for name, mean in means.items()}
    metrics |= {f"loss_bin_{i}": running["loss"][i] for i in range(BINS)} | system.counted(batch)
    if c.accumulate > 1:
      square, trace = running["noise"]
      metrics["noise_scale"] = trace / jnp.maximum(square, 1e-30)
    return TrainState(n, trainable, state.frozen, opt, ema, running), metrics

  return step


def jit_train_step(
  system: Trainable,
  optimizer: optax.GradientTransformation,
  config: ConfigDict,
  mesh: Mesh,
  state: TrainState,
) -> Any:
  """The step as `train` runs it: jitted, the state donated, every sharding explicit.

  state  the abstract state, whose leaves carry their shardings
  """
  put = jax.tree.map(lambda leaf: leaf.sharding, state)
  return jax.jit(
    make_train_step(system, optimizer, config),
    donate_argnums=0,
    in_shardings=(put, batch_sharding(mesh)),
    out_shardings=(put, None),
  )


def make_validation_step(system: Trainable, config: ConfigDict) -> Callable[..., Any]:
  """(params, batch, rows [B]) -> sums of losses and counts by term: [2, BINS] of pictures, by t.

  Picture r is judged at one fixed t, drawn inside bin r mod BINS, with fixed noise: the same number
  for the same weights, whenever and on however many devices it is asked.
  """

  def step(params: Params, batch: Batch, rows: jax.Array) -> dict[str, jax.Array]:
    key = jax.random.key(config.seed)
    pictures = picture_rows(rows, batch["weight"]).reshape(-1)
    bin_of = pictures % BINS
    within = jax.vmap(jax.random.uniform)(row_keys(key, pictures, DRAW_T))
    # The first hundredth of the first bin is left out, where an x0 prediction has no eps.
    t = system.process.on_grid(jnp.maximum((bin_of + within) / BINS, 0.01 / BINS))
    terms = row_losses(system, params, batch, t, pictures, key)
    middle = (bin_of + 0.5) / BINS
    found = {"image": by_bin(terms["image"], middle, batch["weight"].reshape(-1))}
    for name in set(system.terms) - {"image"}:
      counts = batch[COUNTED[name]]
      found[name] = jnp.stack([jnp.sum(terms[name] * counts), jnp.sum(counts)])
    return found

  return step
