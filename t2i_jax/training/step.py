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
from t2i_jax.process import denoising_loss, like
from t2i_jax.training.state import TrainState, merge_params
from t2i_jax.training.system import System, unit_range

Batch = dict[str, jax.Array]  # image [B, H, W, C], tokens [B, T], mask [B, T], weight [B]

# What a row's randomness is for. The same row, step and purpose draw the same numbers on any mesh.
DRAW_T, DRAW_EPS, DRAW_DROP = range(3)


def row_keys(key: jax.Array, rows: jax.Array, purpose: int) -> jax.Array:
  """One key a row, from the row's position in the global batch.   # [B]"""
  key = jax.random.fold_in(key, purpose)
  return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def row_losses(
  system: System, params: Params, batch: Batch, t: jax.Array, keys_eps: jax.Array
) -> jax.Array:
  """The denoising loss of each row at time t.   # [B]"""
  x0 = system.autoencoder.encode(unit_range(batch["image"]))  # [B, H, W, C]
  time = system.process.at(t)
  eps = system.process.prior(keys_eps, x0.shape[1:])
  x_t = like(time.alpha, x0) * x0 + like(time.sigma, x0) * eps
  cond = system.encode_text(params, batch["tokens"], batch["mask"])
  prediction = system.denoise(params, x_t, time, cond)
  return denoising_loss(prediction, x0, eps, time, system.loss_space)


def drop_captions(system: System, batch: Batch, keys: jax.Array, rate: float) -> Batch:
  """Replaces captions by the null with probability `rate` [2207.12598 sec. 3.2]."""
  drop = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)[:, None]  # [B, 1]
  ids, mask = system.null_tokens
  return batch | {
    "tokens": jnp.where(drop, ids, batch["tokens"]),
    "mask": jnp.where(drop, mask, batch["mask"]),
  }


def _micro_batches(tree: Any, n: int) -> Any:
  """[B, ...] to [n, B / n, ...], each part taking rows from every device's share."""
  return jax.tree.map(lambda x: x.reshape(-1, n, *x.shape[1:]).swapaxes(0, 1), tree)


def make_train_step(
  system: System, optimizer: optax.GradientTransformation, config: ConfigDict
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
  """The pure step (state, batch) -> (state, metrics).

  The gradient is the mean over the rows of weight 1 of the whole batch, however many
  micro-batches (train.accumulate) it is computed in.
  """
  c, root = config.train, config.seed

  def summed_loss(trainable, frozen, batch, rows, key):
    batch = drop_captions(system, batch, row_keys(key, rows, DRAW_DROP), c.caption_dropout)
    t = system.process.on_grid(jax.vmap(system.law)(row_keys(key, rows, DRAW_T)))
    params = merge_params(trainable, frozen)
    losses = row_losses(system, params, batch, t, row_keys(key, rows, DRAW_EPS))
    return jnp.sum(losses * batch["weight"])

  def step(state: TrainState, batch: Batch):
    key = jax.random.fold_in(jax.random.key(root), state.step)
    rows = jnp.arange(batch["weight"].shape[0])
    grad_fn = jax.value_and_grad(summed_loss)

    def accumulate(total, micro):
      part = grad_fn(state.trainable, state.frozen, *micro, key)
      return jax.tree.map(jnp.add, total, part), None

    if c.accumulate == 1:
      loss, grads = grad_fn(state.trainable, state.frozen, batch, rows, key)
    else:
      zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.trainable))
      micro = _micro_batches((batch, rows), c.accumulate)
      (loss, grads), _ = jax.lax.scan(accumulate, zero, micro)
    used = jnp.maximum(jnp.sum(batch["weight"]), 1)
    loss, grads = jax.tree.map(lambda x: x / used, (loss, grads))

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
    return TrainState(n, trainable, state.frozen, opt, ema), metrics

  return step


def jit_train_step(
  system: System,
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


def make_validation_step(system: System, config: ConfigDict) -> Callable[..., jax.Array]:
  """(params, batch, rows [B]) -> [2, bins]: sums of losses and counts by bin of t.

  Row r is judged at one fixed t, drawn inside bin r mod bins, with fixed noise: the same number
  for the same weights, whenever and on however many devices it is asked.
  """
  bins = config.eval.bins

  def step(params: Params, batch: Batch, rows: jax.Array) -> jax.Array:
    key = jax.random.key(config.seed)
    bin_of = rows % bins
    within = jax.vmap(jax.random.uniform)(row_keys(key, rows, DRAW_T))
    # The first hundredth of the first bin is left out, where an x0 prediction has no eps.
    t = system.process.on_grid(jnp.maximum((bin_of + within) / bins, 0.01 / bins))
    losses = row_losses(system, params, batch, t, row_keys(key, rows, DRAW_EPS))
    one_hot = jax.nn.one_hot(bin_of, bins) * batch["weight"][:, None]  # [B, bins]
    return jnp.stack([losses @ one_hot, jnp.sum(one_hot, axis=0)])

  return step
